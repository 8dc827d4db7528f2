package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/narfs/narfs/daemon/db"
	"github.com/narfs/narfs/daemon/lock"
	"github.com/narfs/narfs/internal/nix"
)

// Collection is a run of the garbage collector. From its beginning on what is pinned stays pinned for it, also when its holder
// lets go: a session may have made a root of a path that it had announced, after the collector had looked at the roots.
type Collection struct{ s *Store }

// BeginCollection begins a collection, to be ended by Close. There is one at a time: others wait until ctx ends.
func (s *Store) BeginCollection(ctx context.Context) (*Collection, error) {
	select {
	case s.collecting <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("another collection runs: %w", context.Cause(ctx))
	}
	// A deletion that runs ends first, and who pins from now on is heard.
	s.removal.Lock()
	defer s.removal.Unlock()
	s.pins.mu.Lock()
	defer s.pins.mu.Unlock()
	s.pins.lingering = map[nix.StorePath]struct{}{}
	return &Collection{s}, nil
}

// Collecting reports whether a collection runs.
func (s *Store) Collecting() bool { return len(s.collecting) > 0 }

// Close ends the collection.
func (c *Collection) Close() {
	c.s.pins.mu.Lock()
	c.s.pins.lingering = nil
	c.s.pins.mu.Unlock()
	<-c.s.collecting
}

// CollectReport hears how a collection goes on. Either may be nil, and may take its time: nothing is locked meanwhile.
type CollectReport struct {
	// Deleted hears of the paths that were deleted, a commit's at a time.
	Deleted func(infos []nix.PathInfo)
	// Kept hears of each path that was not, and why.
	Kept func(p nix.StorePath, why error)
}

// Delete deletes those of paths that nothing needs: that are not pinned, not locked, and that no valid path refers to which stays.
// It is asked right before each commit, of which there is one for some hundred paths; between them others use the store.
// Each path must come behind those of the others that refer to it. What is not valid is left out. When ctx ends, what was
// deleted stays so.
func (c *Collection) Delete(ctx context.Context, paths []nix.StorePath, report CollectReport) error {
	for len(paths) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n := min(len(paths), deleteGroup)
		if err := c.deleteSome(ctx, paths[:n], report); err != nil {
			return fmt.Errorf("collect: %w", err)
		}
		paths = paths[n:]
	}
	return nil
}

// spared is a path that stays, and why.
type spared struct {
	path nix.StorePath
	why  error
}

// deleteSome deletes what it can of some paths in one commit. Nothing is locked while it reports: who hears of it may wait for
// somebody who does not listen.
func (c *Collection) deleteSome(ctx context.Context, paths []nix.StorePath, report CollectReport) error {
	group, stay, err := c.deleteFree(ctx, paths)
	if report.Kept != nil {
		for _, k := range stay {
			report.Kept(k.path, k.why)
		}
	}
	if report.Deleted != nil && len(group) > 0 {
		infos := make([]nix.PathInfo, 0, len(group))
		for _, r := range group {
			infos = append(infos, r.Info)
		}
		report.Deleted(infos)
	}
	return err
}

// deleteFree deletes those of some paths that nobody works on and nothing needs, and returns what became of them.
func (c *Collection) deleteFree(ctx context.Context, paths []nix.StorePath) (group []db.Record, stay []spared, err error) {
	s := c.s
	var free []nix.StorePath
	var held []*lock.Held
	defer func() {
		for _, h := range held {
			h.Unlock()
		}
	}()
	for _, p := range paths {
		h, err := s.locks.TryLockAll([]nix.StorePath{p}, "collect garbage")
		if other, ok := errors.AsType[*lock.HeldError](err); ok {
			stay = append(stay, spared{p, &InUseError{Path: s.print(p), By: []string{other.Holder}}})
			continue
		}
		if err != nil {
			return nil, stay, err
		}
		held = append(held, h)
		free = append(free, p)
	}
	s.removal.Lock()
	defer s.removal.Unlock()
	going := make(map[nix.StorePath]struct{}, len(free))
	referrers, err := s.db.ReferrersOf(free)
	if err != nil {
		return nil, stay, err
	}
	for i, p := range free {
		r, err := s.db.Get(p)
		if errors.Is(err, db.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, stay, err
		}
		if why := s.needs(p, referrers[i], going); why != nil {
			stay = append(stay, spared{p, why})
			continue
		}
		going[p] = struct{}{}
		group = append(group, r)
	}
	if len(group) == 0 {
		return nil, stay, nil
	}
	if err := s.deleteGroup(ctx, group); err != nil {
		return nil, stay, err
	}
	return group, stay, nil
}

// needs returns an *InUseError if a path must stay while those in going go, else nil. Removal is held for writing.
func (s *Store) needs(p nix.StorePath, referrers []nix.StorePath, going map[nix.StorePath]struct{}) error {
	if by := s.pins.pinnedBy(p); len(by) > 0 {
		return &InUseError{Path: s.print(p), By: by}
	}
	var others []string
	for _, ref := range referrers {
		if _, ok := going[ref]; !ok {
			others = append(others, s.print(ref))
		}
	}
	if len(others) > 0 {
		return &InUseError{Path: s.print(p), By: others, Referrers: true}
	}
	return nil
}
