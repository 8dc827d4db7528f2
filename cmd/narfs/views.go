package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
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
	// attach is fs.New, but for tests.
	attach func(context.Context, fs.Source, string, fs.Options) (*fs.Mount, error)

	// letting is held while deleted paths are let go. It comes before mounting.
	letting sync.Mutex

	// mounting is held while a mount comes into being and while mounts are told what has happened, so that no new one
	// misses anything. It comes before mu.
	mounting sync.Mutex

	making  sync.Mutex     // held while a mount for builds is looked for; guards own. It comes before mounting
	own     *fs.Mount      // the mount for builds, if there was none
	unguard func()         // this and the next three: from the first mount on
	events  *store.Watcher // read with mounting held
	waker   *store.Watcher // of the same events, for waiting
	end     context.CancelFunc
	gone    map[uint32]struct{} // the slots of deleted paths of which there are handles
	working sync.WaitGroup

	mu     sync.Mutex // guards mounts
	mounts map[*fs.Mount]struct{}
}

func newViews(s *store.Store, log *slog.Logger) *views {
	return &views{
		src: newSource(s, log), log: log, attach: fs.New, gone: map[uint32]struct{}{}, mounts: map[*fs.Mount]struct{}{},
	}
}

// mount mounts the store.
func (v *views) mount(ctx context.Context, dir string, o fs.Options) (*fs.Mount, error) {
	v.mounting.Lock()
	defer v.mounting.Unlock()
	if v.events == nil {
		v.events, v.waker = v.src.s.Watch(), v.src.s.Watch()
		waker := v.waker
		ctx, end := context.WithCancel(context.WithoutCancel(ctx))
		v.end = end
		v.working.Go(func() { v.follow(ctx, waker) })
		v.unguard = v.src.s.Guard(v.beforeRemoval)
	}
	m, err := v.attach(ctx, v.src, dir, o)
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
}

// close waits until nothing here uses the store any more. There must be no mounts.
func (v *views) close(ctx context.Context) {
	v.making.Lock()
	if v.own != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unmountTime)
		if err := v.own.Unmount(ctx); err != nil {
			v.log.WarnContext(ctx, "the mount for builds cannot be unmounted", "dir", v.own.Dir(), "err", err)
		}
		cancel()
		v.unmounted(v.own)
	}
	v.making.Unlock()
	v.mounting.Lock()
	if v.events != nil {
		v.unguard()
		v.events.Close()
		v.waker.Close()
		v.end()
	}
	v.mounting.Unlock()
	v.working.Wait()
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

// beforeRemoval keeps the contents of a path that is about to be deleted. Whether a kernel knows it is asked later, in letGo:
// now an answer that tells of it may be under way, and a mount may be coming into being that is not listed yet.
func (v *views) beforeRemoval(e store.Event) {
	if err := v.src.hold(e.Slot); err != nil {
		v.log.Warn("who uses a path that is being deleted will meet errors", "path", e.Path, "err", err)
	}
}

// lookAgain is how long a deleted path that is in use is left alone.
const lookAgain = 5 * time.Second

// follow tells all mounts what happens to the store, until the waker is closed or ctx ends.
func (v *views) follow(ctx context.Context, waker *store.Watcher) {
	for left := false; ; {
		wait, cancel := ctx, context.CancelFunc(func() {})
		if left {
			wait, cancel = context.WithTimeoutCause(ctx, lookAgain, errLookAgain)
		}
		events, err := waker.Next(wait)
		cancel()
		if err != nil && !errors.Is(err, errLookAgain) || err == nil && len(events) == 0 {
			return
		}
		left = v.letGo(ctx)
	}
}

var errLookAgain = errors.New("look again")

// tell has all mounts know what happened so far.
func (v *views) tell(ctx context.Context) {
	v.mounting.Lock()
	defer v.mounting.Unlock()
	if v.events == nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	cancel() // take what is there, and do not wait
	events, _ := v.events.Next(ctx)
	mounts := v.list()
	for _, e := range events {
		for _, m := range mounts {
			if e.Removed {
				m.Removed(e.Path.BaseName(), e.Slot)
			} else {
				m.Added(e.Path.BaseName(), e.Slot)
			}
		}
		if e.Removed && v.src.held(e.Slot) != nil {
			v.gone[e.Slot] = struct{}{}
		}
	}
}

// syncTime is how long a kernel may take to hear of something.
const syncTime = 5 * time.Second

// sync returns when what has happened to the store can be seen in all mounts.
func (v *views) sync(ctx context.Context) error {
	v.tell(ctx)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), syncTime)
	defer cancel()
	var errs []error
	for _, m := range v.list() {
		errs = append(errs, m.Sync(ctx))
	}
	return errors.Join(errs...)
}

// letGo gives back the handles of those deleted paths that no kernel knows any more, and reports whether some are left. A
// sweep that comes after it takes what they had.
func (v *views) letGo(ctx context.Context) (left bool) {
	v.letting.Lock()
	defer v.letting.Unlock()
	v.tell(ctx)
	v.mounting.Lock()
	gone := slices.Collect(maps.Keys(v.gone))
	v.mounting.Unlock()
	if len(gone) == 0 {
		return false
	}
	if err := v.sync(ctx); err != nil {
		return true // next time
	}
	if v.release(ctx, gone) {
		_ = wait(ctx, forgetTime) // who cannot wait looks at once
	}
	for _, slot := range gone {
		if !v.giveUp(slot) {
			left = true
		}
	}
	return left
}

// forgetTime is how long it may take until a kernel that has let go of something says so.
const forgetTime = 50 * time.Millisecond

// release has all kernels let go of what nobody uses in deleted paths, and reports whether they have yet to say so, or
// somebody uses something.
func (v *views) release(ctx context.Context, gone []uint32) (left bool) {
	for _, m := range v.list() {
		for _, slot := range gone {
			refs, err := m.Release(slot)
			if err != nil {
				v.log.WarnContext(ctx, "cannot release a deleted path", "slot", slot, "err", err)
			}
			left = left || refs > 0
		}
	}
	return left
}

// giveUp gives back the handle of a deleted path of which all kernels have been told, if none of them knows it any more.
func (v *views) giveUp(slot uint32) bool {
	v.mounting.Lock() // a mount that comes into being is asked, too
	defer v.mounting.Unlock()
	unused := func() bool {
		return !slices.ContainsFunc(v.list(), func(m *fs.Mount) bool { return m.Drop(slot) > 0 })
	}
	if !v.src.giveUp(slot, unused) {
		return false
	}
	delete(v.gone, slot)
	return true
}

// sessionViews are the mounts as the sessions of the daemon know them.
type sessionViews struct{ v *views }

// Dirs implements session.Views.
func (s sessionViews) Dirs() (dirs []string) {
	for _, m := range s.v.list() {
		dirs = append(dirs, m.Dir())
	}
	return dirs
}

// Sync implements session.Views.
func (s sessionViews) Sync(ctx context.Context) error { return s.v.sync(ctx) }

// LetGo implements session.Views.
func (s sessionViews) LetGo(ctx context.Context) { s.v.letGo(ctx) }

// Mount implements session.Views.
func (s sessionViews) Mount(ctx context.Context) (string, error) { return s.v.exact(ctx) }

// buildsDir is where the mount for builds is. Its parent keeps others out, whom the mount lets in.
func (v *views) buildsDir() string { return filepath.Join(v.src.s.StateDir(), "builds-store", "mount") }

// clear takes away the mount for builds of a process that was killed. This process must own the store.
func (v *views) clear(ctx context.Context) {
	if _, err := os.Lstat(filepath.Dir(v.buildsDir())); err != nil {
		return // there was none
	}
	if err := fs.Unmount(ctx, v.buildsDir(), true); err != nil && !errors.Is(err, fs.ErrNotMounted) && !errors.Is(err, os.ErrNotExist) {
		v.log.WarnContext(ctx, "the mount for builds of a killed process cannot be taken away", "dir", v.buildsDir(), "err", err)
	}
}

// exact returns the folder of a mount that shows the store exactly as it is to builders: one that is there, or one made for them. Root's
// run as other users.
func (v *views) exact(ctx context.Context) (string, error) {
	v.making.Lock()
	defer v.making.Unlock()
	others := os.Geteuid() == 0
	for _, m := range v.list() {
		if m.Exact() && (!others || m.ForOthers()) {
			return m.Dir(), nil
		}
	}
	dir := v.buildsDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	m, err := v.mount(ctx, dir, fs.Options{Name: mountName(v.src.s.StateDir()), AllowOther: others})
	if err != nil {
		return "", hint(err, "builders read their inputs in a mount; narfs doctor tells what is missing for mounting")
	}
	v.own = m
	return m.Dir(), nil
}
