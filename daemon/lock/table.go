package lock

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/narfs/narfs/internal/nix"
)

// Table holds the locks of store paths. The zero value is ready for use, by any number of goroutines.
type Table struct {
	mu    sync.Mutex // guards the rest, and what the entries hold
	locks map[nix.StorePath]*entry
}

// entry is a lock that somebody holds. Waiters get it in the order of their coming.
type entry struct {
	holder  string
	since   time.Time
	waiters []*waiter
}

type waiter struct {
	holder  string
	granted chan struct{} // closed by who hands the lock over
}

// Info describes a lock that is held.
type Info struct {
	Path    nix.StorePath
	Holder  string    // as the holder said
	Since   time.Time // when the holder got it
	Waiters []string  // who waits for it, the next one first
}

// HeldError says that somebody else holds a lock.
type HeldError struct{ Info }

// Error implements error.
func (e *HeldError) Error() string {
	return fmt.Sprintf("path %s is locked by %s since %s", e.Path, e.Holder, e.Since.Format(time.DateTime))
}

// Held is a lock, or several, that its owner gives back with Unlock.
type Held struct {
	table *Table
	paths []nix.StorePath
	once  sync.Once
}

// Lock waits for the lock of a path until ctx ends; the error is then ctx's cause. The holder's text, such as "import
// for session 7", is for people.
func (t *Table) Lock(ctx context.Context, path nix.StorePath, holder string) (*Held, error) {
	if err := t.lock(ctx, path, holder); err != nil {
		return nil, err
	}
	return &Held{table: t, paths: []nix.StorePath{path}}, nil
}

// LockAll waits for the locks of several paths, or returns none.
func (t *Table) LockAll(ctx context.Context, paths []nix.StorePath, holder string) (*Held, error) {
	h := &Held{table: t}
	for _, path := range nix.SortPaths(paths) {
		if err := t.lock(ctx, path, holder); err != nil {
			h.Unlock()
			return nil, err
		}
		h.paths = append(h.paths, path)
	}
	return h, nil
}

// TryLockAll takes the locks of all paths at once, or none: the error is then a *HeldError about one that is held.
func (t *Table) TryLockAll(paths []nix.StorePath, holder string) (*Held, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	paths = slices.Clone(nix.SortPaths(paths))
	for _, path := range paths {
		if e := t.locks[path]; e != nil {
			return nil, &HeldError{e.info(path)}
		}
	}
	for _, path := range paths {
		t.put(path, holder)
	}
	return &Held{table: t, paths: paths}, nil
}

func (t *Table) lock(ctx context.Context, path nix.StorePath, holder string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	t.mu.Lock()
	e := t.locks[path]
	if e == nil {
		t.put(path, holder)
		t.mu.Unlock()
		return nil
	}
	w := &waiter{holder: holder, granted: make(chan struct{})}
	e.waiters = append(e.waiters, w)
	t.mu.Unlock()

	select {
	case <-w.granted:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(e.waiters, w); i >= 0 {
		e.waiters = slices.Delete(e.waiters, i, i+1)
	} else { // it was granted in the same moment
		t.pass(path)
	}
	return context.Cause(ctx)
}

// put enters a lock that nobody holds. t.mu is held.
func (t *Table) put(path nix.StorePath, holder string) {
	if t.locks == nil {
		t.locks = map[nix.StorePath]*entry{}
	}
	t.locks[path] = &entry{holder: holder, since: time.Now()}
}

// pass gives a lock to who waits longest. t.mu is held.
func (t *Table) pass(path nix.StorePath) {
	e := t.locks[path]
	if len(e.waiters) == 0 {
		delete(t.locks, path)
		return
	}
	w := e.waiters[0]
	e.waiters = slices.Delete(e.waiters, 0, 1)
	e.holder, e.since = w.holder, time.Now()
	close(w.granted)
}

// Unlock gives the locks back. It may be called more than once.
func (h *Held) Unlock() {
	h.once.Do(func() {
		h.table.mu.Lock()
		defer h.table.mu.Unlock()
		for _, path := range h.paths {
			h.table.pass(path)
		}
	})
}

// Holder returns who holds the lock of a path, "" for nobody.
func (t *Table) Holder(path nix.StorePath) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.locks[path]; e != nil {
		return e.holder
	}
	return ""
}

// List returns the locks that are held, in the order of their paths.
func (t *Table) List() []Info {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]Info, 0, len(t.locks))
	for path, e := range t.locks {
		list = append(list, e.info(path))
	}
	slices.SortFunc(list, func(a, b Info) int { return a.Path.Compare(b.Path) })
	return list
}

func (e *entry) info(path nix.StorePath) Info {
	i := Info{Path: path, Holder: e.holder, Since: e.since}
	for _, w := range e.waiters {
		i.Waiters = append(i.Waiters, w.holder)
	}
	return i
}
