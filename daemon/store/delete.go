package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/narfs/narfs/daemon/db"
	"github.com/narfs/narfs/daemon/lock"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/nar/cas"
)

// deleteGroup is how many paths are deleted in one commit.
const deleteGroup = 256

// Delete takes paths away, all or none of them. It refuses with *InUseError if a path that stays refers to one of them, if
// one is pinned, or if somebody holds its lock; with *NotValidError if one is not valid. Open handles do not keep a path
// from being deleted. The space comes back with the next Sweep.
//
// Large sets are deleted in several commits, referrers first, so that a crash between them leaves a valid store.
func (s *Store) Delete(ctx context.Context, paths ...nix.StorePath) error {
	paths = nix.SortPaths(paths)
	held, err := s.locks.TryLockAll(paths, "delete")
	if other, ok := errors.AsType[*lock.HeldError](err); ok {
		return &InUseError{Path: s.print(other.Path), By: []string{other.Holder}}
	}
	if err != nil {
		return err
	}
	defer held.Unlock()
	s.removal.Lock()
	defer s.removal.Unlock()
	order, err := s.planDelete(paths)
	if err != nil {
		return err
	}
	for len(order) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n := min(len(order), deleteGroup)
		if err := s.deleteGroup(ctx, order[:n]); err != nil {
			return fmt.Errorf("delete path '%s' and %d others: %w", s.print(order[0].Info.Path), n-1, err)
		}
		order = order[n:]
	}
	return nil
}

// planDelete returns the records of paths, referrers first, if all of them can be deleted.
func (s *Store) planDelete(paths []nix.StorePath) ([]db.Record, error) {
	records := make(map[nix.StorePath]db.Record, len(paths))
	for _, p := range paths {
		r, err := s.record(p)
		if err != nil {
			return nil, err
		}
		records[p] = r
	}
	for _, p := range paths {
		if by := s.pins.pinnedBy(p); len(by) > 0 {
			return nil, &InUseError{Path: s.print(p), By: by}
		}
		referrers, err := s.db.Referrers(p)
		if err != nil {
			return nil, err
		}
		var others []string
		for _, ref := range referrers {
			if _, ok := records[ref]; !ok {
				others = append(others, s.print(ref))
			}
		}
		if len(others) > 0 {
			return nil, &InUseError{Path: s.print(p), By: others, Referrers: true}
		}
	}
	sorted, err := s.topoSort(paths, func(p nix.StorePath) ([]nix.StorePath, error) { return records[p].Info.References, nil })
	if err != nil {
		return nil, err
	}
	order := make([]db.Record, 0, len(sorted))
	for _, p := range slices.Backward(sorted) {
		order = append(order, records[p])
	}
	return order, nil
}

// deleteGroup deletes paths in one commit. Removal is held for writing.
func (s *Store) deleteGroup(ctx context.Context, group []db.Record) error {
	var b cas.Batch
	going := make(map[nix.StorePath]struct{}, len(group))
	hashes := map[[32]byte]struct{}{}
	events := make([]Event, len(group))
	bytes := int64(0)
	for i, r := range group {
		if err := db.Delete(&b, r); err != nil {
			return err
		}
		going[r.Info.Path] = struct{}{}
		hash, _ := r.Info.NarHash.SHA256()
		hashes[hash] = struct{}{}
		events[i] = Event{Path: r.Info.Path, Slot: r.Slot, Removed: true}
		bytes += int64(r.Info.NarSize)
	}
	realised, err := s.db.RealisationsOf(slices.Collect(maps.Keys(going)))
	if err != nil {
		return err
	}
	for _, r := range realised {
		db.DeleteRealisation(&b, r)
	}
	objects := slices.Collect(maps.Keys(hashes))
	having, err := s.db.ByNarHashes(objects)
	if err != nil {
		return err
	}
	for i, hash := range objects {
		stays := func(p nix.StorePath) bool { _, goes := going[p]; return !goes }
		if !slices.ContainsFunc(having[i], stays) {
			b.DeleteObject(hash)
		}
	}
	s.watches.warn(events)
	if err := s.content.Commit(context.WithoutCancel(ctx), &b); err != nil {
		return err
	}
	s.totals.add(-int64(len(group)), -bytes)
	s.watches.tell(events)
	return nil
}
