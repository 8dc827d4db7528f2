package store

import (
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/narfs/narfs/daemon/db"
	"github.com/narfs/narfs/internal/nix"
)

// Top describes a path's top node without its tree.
type Top = db.Top

// PathInfo returns what is known about a valid path, else ErrNotValid.
func (s *Store) PathInfo(p nix.StorePath) (nix.PathInfo, error) {
	r, err := s.record(p)
	return r.Info, err
}

func (s *Store) record(p nix.StorePath) (db.Record, error) {
	r, err := s.db.Get(p)
	if errors.Is(err, db.ErrNotFound) {
		return db.Record{}, s.notValid(p)
	}
	return r, err
}

// IsValid reports whether a path is valid.
func (s *Store) IsValid(p nix.StorePath) (bool, error) { return s.db.Has(p) }

// ValidPaths returns those of paths that are valid, in their order.
func (s *Store) ValidPaths(paths []nix.StorePath) (valid []nix.StorePath, err error) {
	for group := range slices.Chunk(paths, validAtOnce) {
		found, err := s.db.Valid(group)
		if err != nil {
			return nil, err
		}
		valid = append(valid, found...)
	}
	return valid, nil
}

// errStop ends a scan.
var errStop = errors.New("stop")

// All yields the infos of all valid paths, in the order of their base names and as of one moment. An info that cannot be
// read comes as an error, with the path if it is known, and others may follow.
func (s *Store) All() iter.Seq2[nix.PathInfo, error] {
	return func(yield func(nix.PathInfo, error) bool) {
		err := s.db.All(func(r db.Record, err error) error {
			if !yield(r.Info, err) {
				return errStop
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(nix.PathInfo{}, err)
		}
	}
}

// Slots calls fn with all valid paths and their slots, in the order of the slots, until fn returns false. It reads nothing
// else, so that it is several times faster than All.
func (s *Store) Slots(fn func(p nix.StorePath, slot uint32) bool) error {
	err := s.db.Slotted(func(p nix.StorePath, slot uint32, _ Top) error {
		if !fn(p, slot) {
			return errStop
		}
		return nil
	})
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// Slot returns the slot of a valid path.
func (s *Store) Slot(p nix.StorePath) (uint32, error) {
	r, err := s.record(p)
	return r.Slot, err
}

// BySlot returns the valid path in a slot and its top node, else ErrNotValid.
func (s *Store) BySlot(slot uint32) (nix.StorePath, Top, error) {
	p, top, err := s.db.Slot(slot)
	if errors.Is(err, db.ErrNotFound) {
		return p, top, fmt.Errorf("slot %d: path %w", slot, ErrNotValid)
	}
	return p, top, err
}

// ByHashPart returns the valid path whose name follows these 32 characters, else ErrNotValid.
func (s *Store) ByHashPart(hashPart string) (nix.StorePath, error) {
	if len(hashPart) != 32 {
		return nix.StorePath{}, fmt.Errorf("invalid hash part %q", hashPart)
	}
	p, err := s.db.ByHashPart(hashPart)
	if errors.Is(err, db.ErrNotFound) {
		return p, &NotValidError{Path: string(s.storeDir) + "/" + hashPart}
	}
	return p, err
}

// Referrers returns the valid paths that refer to p, itself included if it does, in order. P need not be valid; it then
// has none.
func (s *Store) Referrers(p nix.StorePath) ([]nix.StorePath, error) {
	refs, err := s.db.Referrers(p)
	if err != nil {
		return nil, err
	}
	r, err := s.db.Get(p)
	if errors.Is(err, db.ErrNotFound) {
		return refs, nil
	}
	if err != nil {
		return nil, err
	}
	if slices.Contains(r.Info.References, p) {
		refs = nix.SortPaths(append(refs, p))
	}
	return refs, nil
}

// Derived returns the valid paths whose deriver is drv, in order.
func (s *Store) Derived(drv nix.StorePath) ([]nix.StorePath, error) { return s.db.Derived(drv) }
