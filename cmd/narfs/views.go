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
	src *source
	log *slog.Logger

	mu      sync.Mutex // guards the rest
	mounts  map[*fs.Mount]struct{}
	watcher *store.Watcher // from the first mount on
	end     context.CancelFunc

	working sync.WaitGroup
}

func newViews(s *store.Store, log *slog.Logger) *views {
	return &views{src: newSource(s, log), log: log, mounts: map[*fs.Mount]struct{}{}}
}

// mount mounts the store. The mount hears of all changes from before it can be looked at.
func (v *views) mount(ctx context.Context, dir string, o fs.Options) (*fs.Mount, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
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
	v.mu.Lock()
	w, end := v.watcher, v.end
	v.mu.Unlock()
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

// lookAgain is how long a deleted path that is in use is left alone.
const lookAgain = 5 * time.Second

// follow tells all mounts what happens to the store, until w is closed or ctx ends.
func (v *views) follow(ctx context.Context, w *store.Watcher) {
	gone := map[uint32]struct{}{} // the slots of deleted paths of which we have handles
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
		mounts := v.list()
		for _, e := range events {
			for _, m := range mounts {
				if e.Removed {
					m.Removed(e.Path.BaseName(), e.Slot)
				} else {
					m.Added(e.Path.BaseName(), e.Slot)
				}
			}
			if e.Removed && v.src.holds(e.Slot) {
				gone[e.Slot] = struct{}{}
			}
		}
		v.letGo(ctx, mounts, gone)
	}
}

var errLookAgain = errors.New("look again")

// letGo gives back the handles of those deleted paths that no kernel knows any more, and takes them out of gone.
func (v *views) letGo(ctx context.Context, mounts []*fs.Mount, gone map[uint32]struct{}) {
	if len(gone) == 0 {
		return
	}
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
