package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/fs"
)

// views are the mounts of one store. They hear of every path that becomes valid or ceases to be, and decide when a deleted
// path is needed by nobody any more.
type views struct {
	src     *source
	log     *slog.Logger
	unguard func()

	// mounting is held while a mount comes into being and while mounts are told what has happened, so that no new one
	// misses anything. It comes before mu.
	mounting sync.Mutex
	watcher  *store.Watcher // from the first mount on
	end      context.CancelFunc
	working  sync.WaitGroup

	mu     sync.Mutex // guards mounts
	mounts map[*fs.Mount]struct{}
}

func newViews(s *store.Store, log *slog.Logger) *views {
	v := &views{src: newSource(s, log), log: log, mounts: map[*fs.Mount]struct{}{}}
	v.unguard = s.Guard(v.beforeRemoval)
	return v
}

// mount mounts the store.
func (v *views) mount(ctx context.Context, dir string, o fs.Options) (*fs.Mount, error) {
	v.mounting.Lock()
	defer v.mounting.Unlock()
	if v.watcher == nil {
		w := v.src.s.Watch()
		ctx, end := context.WithCancel(context.WithoutCancel(ctx))
		v.watcher, v.end = w, end
		v.working.Go(func() { v.follow(ctx, w) })
	}
	m, err := fs.New(ctx, v.src, dir, o)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mounts[m] = struct{}{}
	return m, nil
}

// unmounted forgets a mount that is gone.
func (v *views) unmounted(m *fs.Mount) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.mounts, m)
	if len(v.mounts) == 0 {
		v.src.releaseAll()
	}
}

// close waits until nothing here uses the store any more. There must be no mounts.
func (v *views) close() {
	v.unguard()
	v.mounting.Lock()
	w, end := v.watcher, v.end
	v.mounting.Unlock()
	if w != nil {
		w.Close()
		end()
	}
	v.working.Wait()
	v.src.used.counting.Wait()
	v.src.releaseAll()
}

// list returns the mounts.
func (v *views) list() []*fs.Mount {
	v.mu.Lock()
	defer v.mu.Unlock()
	all := make([]*fs.Mount, 0, len(v.mounts))
	for m := range v.mounts {
		all = append(all, m)
	}
	return all
}

// beforeRemoval keeps the contents of a path that is about to be deleted while a kernel knows it.
func (v *views) beforeRemoval(e store.Event) {
	for _, m := range v.list() {
		if m.Refs(e.Slot) == 0 {
			continue
		}
		if err := v.src.hold(e.Slot); err != nil {
			v.log.Warn("who uses a path that is being deleted will meet errors", "path", e.Path, "err", err)
		}
		return
	}
}

// lookAgain is how long a deleted path that is in use is left alone.
const lookAgain = 5 * time.Second

// follow tells all mounts what happens to the store, until w is closed or ctx ends.
func (v *views) follow(ctx context.Context, w *store.Watcher) {
	gone := map[uint32]struct{}{} // the slots of deleted paths of which there are handles
	for {
		wait, cancel := ctx, context.CancelFunc(func() {})
		if len(gone) > 0 {
			wait, cancel = context.WithTimeoutCause(ctx, lookAgain, errLookAgain)
		}
		events, err := w.Next(wait)
		cancel()
		if err != nil && !errors.Is(err, errLookAgain) || err == nil && len(events) == 0 {
			return
		}
		v.tell(events)
		for _, e := range events {
			if e.Removed && v.src.held(e.Slot) != nil {
				gone[e.Slot] = struct{}{}
			}
		}
		v.letGo(ctx, gone)
	}
}

// tell has all mounts know what happened.
func (v *views) tell(events []store.Event) {
	v.mounting.Lock()
	defer v.mounting.Unlock()
	for _, m := range v.list() {
		for _, e := range events {
			if e.Removed {
				m.Removed(e.Path.BaseName(), e.Slot)
			} else {
				m.Added(e.Path.BaseName(), e.Slot)
			}
		}
	}
}

var errLookAgain = errors.New("look again")

// letGo gives back the handles of those deleted paths that no kernel knows any more, and takes them out of gone.
func (v *views) letGo(ctx context.Context, gone map[uint32]struct{}) {
	if len(gone) == 0 {
		return
	}
	mounts := v.list()
	for _, m := range mounts {
		ctx, cancel := context.WithTimeout(ctx, lookAgain)
		err := m.Sync(ctx)
		cancel()
		if err != nil {
			return // next time
		}
	}
	for slot := range gone {
		left := int64(0)
		for _, m := range mounts {
			refs, err := m.Release(slot)
			if err != nil {
				v.log.WarnContext(ctx, "cannot release a deleted path", "slot", slot, "err", err)
				refs = m.Refs(slot)
			}
			left += refs
		}
		if left == 0 {
			v.src.release(slot)
			delete(gone, slot)
		}
	}
}
