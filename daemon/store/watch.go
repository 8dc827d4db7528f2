package store

import (
	"context"
	"slices"
	"sync"

	"github.com/narfs/narfs/internal/nix"
)

// Event says that a path became valid, or ceased to be.
type Event struct {
	Path    nix.StorePath
	Slot    uint32
	Removed bool
}

// Watcher hears of all events from the call of Watch on.
type Watcher struct {
	all *watches

	mu     sync.Mutex // guards the rest
	events []Event
	closed bool
	ready  chan struct{} // has an element if there is something to look at
}

// watches are the watchers of a store. The store never waits for one: events queue in its memory.
type watches struct {
	mu     sync.Mutex // guards the rest
	list   []*Watcher
	guards []*guard
	closed bool
}

type guard struct{ fn func(Event) }

// Guard has fn called with each path that is about to be deleted, while it is still valid and can be opened: who is still
// in need of its contents takes a handle. Fn must be quick, must not change the store, and must not wait for anybody who
// does. A deletion that has begun without fn ends before Guard returns. The function that Guard returns ends that.
func (s *Store) Guard(fn func(Event)) (end func()) {
	s.removal.RLock()
	defer s.removal.RUnlock()
	ws, g := &s.watches, &guard{fn}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.guards = append(ws.guards, g)
	return func() {
		ws.mu.Lock()
		defer ws.mu.Unlock()
		ws.guards = slices.DeleteFunc(ws.guards, func(other *guard) bool { return other == g })
	}
}

// warn tells the guards.
func (ws *watches) warn(events []Event) {
	ws.mu.Lock()
	guards := slices.Clone(ws.guards)
	ws.mu.Unlock()
	for _, g := range guards {
		for _, e := range events {
			g.fn(e)
		}
	}
}

// Watch returns a new watcher. Events are queued until Next takes them, so that none is lost; who watches from before he
// lists the paths has missed nothing, and may hear of some twice.
func (s *Store) Watch() *Watcher {
	w := &Watcher{all: &s.watches, ready: make(chan struct{}, 1)}
	s.watches.mu.Lock()
	defer s.watches.mu.Unlock()
	if s.watches.closed {
		w.end()
	} else {
		s.watches.list = append(s.watches.list, w)
	}
	return w
}

// Next returns the events since the last call, in order, waiting for one if there are none. It returns nil and the cause
// when ctx ends, and nil without an error when watcher or store were closed.
func (w *Watcher) Next(ctx context.Context) ([]Event, error) {
	for {
		w.mu.Lock()
		events, closed := w.events, w.closed
		w.events = nil
		w.mu.Unlock()
		if len(events) > 0 || closed {
			return events, nil
		}
		select {
		case <-w.ready:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Close ends the watching. What is queued can still be had from Next.
func (w *Watcher) Close() {
	w.all.mu.Lock()
	w.all.list = slices.DeleteFunc(w.all.list, func(other *Watcher) bool { return other == w })
	w.all.mu.Unlock()
	w.end()
}

func (w *Watcher) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.wake()
}

// wake has Next look again. w.mu is held.
func (w *Watcher) wake() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

func (ws *watches) tell(events []Event) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, w := range ws.list {
		w.mu.Lock()
		w.events = append(w.events, events...)
		w.wake()
		w.mu.Unlock()
	}
}

func (ws *watches) close() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.closed = true
	for _, w := range ws.list {
		w.end()
	}
	ws.list = nil
}
