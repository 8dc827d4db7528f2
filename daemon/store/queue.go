package store

import (
	"context"
	"errors"
	"sync"

	"github.com/narfs/narfs/daemon/db"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/nar/cas"
)

// queueBytes bounds the trees of what waits to become valid.
const queueBytes = 8 << 20

// queue makes paths valid one after the other, in the order in which they were put, beside whoever stages the next ones:
// so that many small paths share a sync. Each is as good as imported alone: an error ends the queue, and what stands
// before it stays valid.
type queue struct {
	s    *Store
	ctx  context.Context //nolint:containedctx // of the one call that the queue serves
	done func(nix.PathInfo)
	pins *Pins // what was put, until the end of the queue: what comes later may refer to it

	mu      sync.Mutex // guards the rest
	changed sync.Cond
	waiting []*registration
	bytes   int64                      // of the trees in waiting
	pending map[nix.StorePath]struct{} // put and not valid yet
	ended   bool
	err     error

	worker sync.WaitGroup
}

// newQueue returns a queue, to be ended by close. Done hears of each path that became valid; it may be nil.
func (s *Store) newQueue(ctx context.Context, done func(nix.PathInfo)) *queue {
	q := &queue{s: s, ctx: ctx, done: done, pins: s.Pin("import"), pending: map[nix.StorePath]struct{}{}}
	q.changed.L = &q.mu
	q.worker.Go(q.work)
	return q
}

// lock takes the lock of a path that is to be put. It returns nil if there is nothing to do: the path is valid, or in the
// queue, whose own locks nobody must wait for.
func (q *queue) lock(p nix.StorePath, opts ImportOptions) (*db.Record, func(), error) {
	q.pins.Add(p)
	q.mu.Lock()
	_, ours := q.pending[p]
	err := q.err
	q.mu.Unlock()
	if err != nil {
		return nil, nil, err
	}
	if ours {
		return &db.Record{}, func() {}, nil
	}
	held, err := q.s.lock(q.ctx, p, opts)
	if err != nil {
		return nil, nil, err
	}
	old, err := q.s.db.Get(p)
	switch {
	case errors.Is(err, db.ErrNotFound):
		return nil, held.Unlock, nil
	case err != nil:
		held.Unlock()
		return nil, nil, err
	}
	return &old, held.Unlock, nil
}

// put takes a registration over, with its lock. It waits while too much is in the queue, and returns the error that ended
// it, if any.
func (q *queue) put(reg *registration) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.err == nil && len(q.waiting) > 0 && q.bytes+reg.bytes() > queueBytes {
		q.changed.Wait()
	}
	if q.err != nil {
		reg.end()
		return q.err
	}
	q.waiting = append(q.waiting, reg)
	q.bytes += reg.bytes()
	q.pending[reg.info.Path] = struct{}{}
	q.changed.Broadcast()
	return nil
}

// close waits until everything that was put is valid and returns the error that ended the queue, if any.
func (q *queue) close() error {
	q.mu.Lock()
	q.ended = true
	q.changed.Broadcast()
	q.mu.Unlock()
	q.worker.Wait()
	q.pins.Release()
	return q.err
}

func (q *queue) work() {
	for {
		q.mu.Lock()
		for len(q.waiting) == 0 && !q.ended {
			q.changed.Wait()
		}
		group := q.waiting
		if len(group) > maxGroup {
			group = group[:maxGroup:maxGroup]
		}
		q.waiting = q.waiting[len(group):]
		failed := q.err != nil
		q.mu.Unlock()
		if len(group) == 0 {
			return
		}
		valid := 0
		var err error
		if !failed {
			valid, err = q.s.registerInOrder(q.ctx, group)
		}
		q.mu.Lock()
		if q.err == nil {
			q.err = err
		}
		for _, reg := range group {
			q.bytes -= reg.bytes()
			reg.end()
			delete(q.pending, reg.info.Path)
		}
		q.changed.Broadcast()
		q.mu.Unlock()
		if q.done != nil {
			for _, reg := range group[:valid] {
				q.done(reg.info)
			}
		}
	}
}

// maxGroup is how many paths become valid in one commit: with all their records they fit one transaction of the index.
const maxGroup = 256

// registerInOrder makes paths valid up to the first that cannot be, and says how many that are.
func (s *Store) registerInOrder(ctx context.Context, regs []*registration) (int, error) {
	err := s.register(ctx, regs, false)
	if err == nil {
		return len(regs), nil
	}
	_, refused := errors.AsType[*RefusedError](err)
	if !refused && !errors.Is(err, ErrNotValid) || len(regs) == 1 {
		return 0, s.importError(regs[0].info.Path, err)
	}
	for i, reg := range regs {
		if err := s.register(ctx, regs[i:i+1], false); err != nil {
			return i, s.importError(reg.info.Path, err)
		}
	}
	return len(regs), nil
}

// registration is a path about to become valid. Whoever made it holds the path's lock.
type registration struct {
	info    nix.PathInfo
	staged  *cas.Staged
	outputs []nix.StorePath // of a derivation: see db.Record
	unlock  func()          // nil if the lock is somebody else's to give back
}

func (r *registration) bytes() int64 { return r.staged.Tree().Bytes() }

// end gives back what the registration holds.
func (r *registration) end() {
	r.staged.Discard()
	if r.unlock != nil {
		r.unlock()
	}
}
