package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/narfs/narfs/daemon/db"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/nar/cas"
)

// VerifyOptions of one verification. The zero value looks at the database, and that each path's contents are there.
type VerifyOptions struct {
	// Contents reads everything: all packs with their checksums, and all NARs, comparing their hashes.
	Contents bool
	// Paths, if not nil, are the only ones whose contents are looked at; neither are the packs as such, nor records of others.
	Paths []nix.StorePath
	// Progress hears of the bytes read and of all; it may be nil.
	Progress func(done, total int64)
}

// Problem is one thing that Verify found.
type Problem struct {
	// Paths are those concerned. They are empty if only a place in a pack, or a stray record, is known.
	Paths []nix.StorePath
	// Damaged says that the paths cannot be read whole, or refer to a path that is not valid. Otherwise only an index is
	// wrong, or the damage is where no path needs it.
	Damaged bool
	Err     error

	record *db.Problem // if it is about a record
}

// Verify looks for damage and contradictions, and calls found with each. It returns an error only if it could not look.
// The store can be used meanwhile.
func (s *Store) Verify(ctx context.Context, opts VerifyOptions, found func(Problem)) error {
	err := s.verifyRecords(ctx, opts, found)
	if err == nil {
		err = s.verifyObjects(ctx, opts, found)
	}
	if err == nil && opts.Contents {
		err = s.verifyContents(ctx, opts, found)
	}
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	return nil
}

func (s *Store) verifyRecords(ctx context.Context, opts VerifyOptions, found func(Problem)) error {
	if opts.Paths != nil {
		return nil
	}
	return s.db.Check(func(p db.Problem) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		// What changes while it is looked at seems wrong; nothing changes while removal is held.
		s.removal.Lock()
		defer s.removal.Unlock()
		still, err := s.db.Recheck(p)
		if err != nil || still == nil {
			return err
		}
		out := Problem{Err: still.Err, record: still}
		if !still.Path.IsZero() {
			out.Paths, out.Damaged = []nix.StorePath{still.Path}, still.Unreadable || still.Dangling
			out.Err = fmt.Errorf("path '%s': %w", s.print(still.Path), still.Err)
		}
		found(out)
		return nil
	})
}

// verifyObjects checks that each path's object is there and as large as its info says.
func (s *Store) verifyObjects(ctx context.Context, opts VerifyOptions, found func(Problem)) error {
	check := func(r db.Record) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		wrong := s.checkObject(r)
		if wrong == nil {
			return nil
		}
		again, err := s.db.Get(r.Info.Path)
		if errors.Is(err, db.ErrNotFound) || err == nil && again.Slot != r.Slot {
			return nil // it was deleted meanwhile
		}
		found(Problem{Paths: []nix.StorePath{r.Info.Path}, Damaged: true, Err: fmt.Errorf("path '%s': %w", s.print(r.Info.Path), wrong)})
		return nil
	}
	if opts.Paths == nil {
		return s.db.All(func(r db.Record, err error) error {
			if err != nil {
				return nil //nolint:nilerr // verifyRecords has told it
			}
			return check(r)
		})
	}
	for _, p := range opts.Paths {
		r, err := s.record(p)
		if err == nil {
			err = check(r)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) checkObject(r db.Record) error {
	hash, _ := r.Info.NarHash.SHA256()
	object, err := s.content.Object(hash)
	if errors.Is(err, cas.ErrNotFound) {
		return errors.New("its contents are missing")
	}
	if err != nil {
		return err
	}
	if size := object.Info().NarSize; uint64(size) != r.Info.NarSize {
		return fmt.Errorf("its NAR has %d bytes instead of %d", size, r.Info.NarSize)
	}
	return nil
}

// verifyContents has the content store verify itself and says which paths are concerned.
func (s *Store) verifyContents(ctx context.Context, opts VerifyOptions, found func(Problem)) error {
	co := cas.VerifyOptions{Progress: opts.Progress}
	if opts.Paths != nil {
		co.SkipPacks, co.Objects = true, [][32]byte{}
		seen := map[[32]byte]bool{}
		for _, p := range opts.Paths {
			info, err := s.PathInfo(p)
			if err != nil {
				return err
			}
			if hash, _ := info.NarHash.SHA256(); !seen[hash] {
				seen[hash] = true
				co.Objects = append(co.Objects, hash)
			}
		}
	}
	var failed error
	err := s.content.Verify(ctx, co, func(d cas.Damage) {
		if !d.Object {
			found(Problem{Err: d.Err})
			return
		}
		paths, err := s.db.ByNarHash(d.NarHash)
		if err != nil {
			failed = err
			return
		}
		if len(paths) == 0 {
			found(Problem{Err: fmt.Errorf("an object that no path has: %w", d.Err)})
			return
		}
		text := "path '" + s.print(paths[0]) + "'"
		if len(paths) > 1 {
			text = fmt.Sprintf("%s and %d others", text, len(paths)-1)
		}
		found(Problem{Paths: paths, Damaged: true, Err: fmt.Errorf("%s: %w", text, d.Err)})
	})
	return errors.Join(err, failed)
}
