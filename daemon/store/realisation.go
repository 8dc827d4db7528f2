package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/narfs/narfs/daemon/db"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
	"github.com/narfs/narfs/nar/cas"
)

// Realisation says which valid path an output of a derivation is.
type Realisation = db.Realisation

// ErrNoRealisation says that it is not known which path an output is.
var ErrNoRealisation = errors.New("no such realisation")

// Realisation returns the realisation with an ID, else ErrNoRealisation.
func (s *Store) Realisation(id string) (Realisation, error) {
	r, err := s.db.Realisation(id)
	if errors.Is(err, db.ErrNotFound) {
		return r, fmt.Errorf("%s: %w", id, ErrNoRealisation)
	}
	return r, err
}

// Realisations calls fn with all realisations, in the order of their IDs, until it returns an error.
func (s *Store) Realisations(fn func(Realisation) error) error {
	return s.db.Realisations(func(r Realisation, err error) error {
		if err != nil {
			return err
		}
		return fn(r)
	})
}

// KnownRealisation returns the realisation of an output, or a zero one if there is none.
func (s *Store) KnownRealisation(id nix.DrvOutput) (r nix.Realisation, err error) {
	got, err := s.Realisation(id.String())
	if errors.Is(err, ErrNoRealisation) {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	return nix.ParseRealisation(got.JSON)
}

// KnownOutputs returns where the outputs of a derivation are, or will be, by their names: OutPath is zero where that is not known.
// Where only a realisation knows, it is that one; elsewhere the ID has no hash. The derivation's inputs must be valid.
func (s *Store) KnownOutputs(ctx context.Context, d *drv.Derivation) (all []nix.Realisation, err error) {
	var modulo drv.Modulo
	for _, name := range d.OutputNames() {
		out := d.Outputs[name]
		r := nix.Realisation{ID: nix.DrvOutput{Output: name}}
		if r.OutPath, err = out.StorePath(s.storeDir, d.Name, name); err != nil {
			return nil, err
		}
		if r.OutPath.IsZero() && out.Kind != drv.Impure {
			if modulo.Hash.IsZero() {
				if modulo, err = s.Modulo(ctx, d); err != nil {
					return nil, err
				}
			}
			if r, err = s.KnownRealisation(nix.DrvOutput{Hash: modulo.Hash, Output: name}); err != nil {
				return nil, err
			}
			r.ID = nix.DrvOutput{Hash: modulo.Hash, Output: name}
		}
		all = append(all, r)
	}
	return all, nil
}

// AnotherRealisationError says that an output cannot be a path because it is another one already, or this one with other dependencies.
type AnotherRealisationError struct {
	ID            string
	Local, Remote string // paths in full: what the output is, and what it was to be
}

// Error implements error, in Nix's words.
func (e *AnotherRealisationError) Error() string {
	return fmt.Sprintf("Trying to register a realisation of '%s', but we already have another one locally.\nLocal:  %s\nRemote: %s", e.ID, e.Local, e.Remote)
}

// Realise records which path an output is, which must be valid, else ErrNotValid, and reports whether that says more than what is
// recorded already: signatures are added, and dependencies where there were none. An *AnotherRealisationError says that it
// contradicts it.
func (s *Store) Realise(ctx context.Context, r nix.Realisation) (changed bool, err error) {
	id := r.ID.String()
	err = s.putRealisation(ctx, id, func(old Realisation) (Realisation, error) {
		if !old.Path.IsZero() {
			before, err := nix.ParseRealisation(old.JSON)
			if err != nil {
				return old, err
			}
			same := maps.Equal(before.Dependencies, r.Dependencies)
			if before.OutPath != r.OutPath || !same && len(before.Dependencies) > 0 && len(r.Dependencies) > 0 {
				return old, &AnotherRealisationError{id, s.print(before.OutPath), s.print(r.OutPath)}
			}
			// One without dependencies is of an old Nix, or of somebody who does not know them. Signatures are over them, too.
			switch {
			case same:
				r.AddSignatures(before.Signatures...)
			case len(before.Dependencies) > 0:
				return old, nil
			}
		}
		now, err := recordOf(r)
		changed = err == nil && !bytes.Equal(now.JSON, old.JSON)
		return now, err
	})
	return changed && err == nil, err
}

// RealiseAnew records which path an output is, which must be valid, else ErrNotValid, whatever is recorded already.
func (s *Store) RealiseAnew(ctx context.Context, r nix.Realisation) error {
	return s.putRealisation(ctx, r.ID.String(), func(Realisation) (Realisation, error) { return recordOf(r) })
}

func recordOf(r nix.Realisation) (Realisation, error) {
	json, err := r.JSON()
	return Realisation{ID: r.ID.String(), Path: r.OutPath, JSON: json}, err
}

// putRealisation records what update returns, which is given what is recorded already, zero if nothing is.
func (s *Store) putRealisation(ctx context.Context, id string, update func(old Realisation) (Realisation, error)) error {
	s.realising.Lock()
	defer s.realising.Unlock()
	s.removal.RLock()
	defer s.removal.RUnlock()
	old, err := s.db.Realisation(id)
	if err != nil && !errors.Is(err, db.ErrNotFound) {
		return err
	}
	r, err := update(old)
	if err != nil || bytes.Equal(r.JSON, old.JSON) {
		return err
	}
	if valid, err := s.db.Has(r.Path); err != nil || !valid {
		return errorOr(err, s.notValid(r.Path))
	}
	b := cas.Batch{Lazy: true}
	if !old.Path.IsZero() && old.Path != r.Path {
		db.DeleteRealisation(&b, old)
	}
	db.PutRealisation(&b, r)
	return s.content.Commit(context.WithoutCancel(ctx), &b)
}
