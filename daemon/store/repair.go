package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/narfs/narfs/daemon/db"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/nar/cas"
)

// Source is where Repair gets paths from: their infos and NARs, to be closed. What it does not have is ErrNotValid.
type Source func(ctx context.Context, p nix.StorePath) (nix.PathInfo, io.ReadCloser, error)

// RepairOptions of one repair. The zero value mends indexes.
type RepairOptions struct {
	// Verify says where to look for damage.
	Verify VerifyOptions
	// Source gives damaged paths again; it may be nil.
	Source Source
	// Drop deletes damaged paths that Source does not have, and everything that refers to them.
	Drop bool
}

// Action is what Repair did about a problem.
type Action string

// The actions.
const (
	ActionNone     Action = "none"     // it is still there
	ActionMended   Action = "mended"   // an index follows from the infos again
	ActionImported Action = "imported" // the path was had from the source
	ActionDropped  Action = "dropped"  // the path is not valid any more
)

// Repaired tells what became of one problem.
type Repaired struct {
	Problem

	Action Action
	// RepairErr is why nothing was done, or more cannot be.
	RepairErr error
}

// Repair verifies and mends what it can. It calls report about each problem, and returns an error only if it could not
// look. Damage in a place that no path needs remains, and goes with a sweep.
func (s *Store) Repair(ctx context.Context, opts RepairOptions, report func(Repaired)) error {
	rp := &repair{s: s, opts: opts, report: report, damaged: map[nix.StorePath]Problem{}}
	if err := s.Verify(ctx, opts.Verify, rp.enter); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{rp.restore, rp.drop, rp.mend} {
		if err := step(ctx); err != nil {
			return fmt.Errorf("repair: %w", err)
		}
	}
	return nil
}

type repair struct {
	s       *Store
	opts    RepairOptions
	report  func(Repaired)
	damaged map[nix.StorePath]Problem
	paths   []nix.StorePath // the keys of damaged, as found
}

// enter notes the damaged paths. Records that only do not fit others are looked for at the end.
func (rp *repair) enter(p Problem) {
	for _, path := range p.Paths {
		if _, ok := rp.damaged[path]; !ok && p.Damaged {
			rp.damaged[path] = Problem{Paths: []nix.StorePath{path}, Damaged: true, Err: p.Err}
			rp.paths = append(rp.paths, path)
		}
	}
	if p.record == nil && !p.Damaged {
		rp.report(Repaired{Problem: p, Action: ActionNone, RepairErr: errors.New("no path is known to need it")})
	}
}

// mend mends the records that follow from the infos.
func (rp *repair) mend(ctx context.Context) error {
	if rp.opts.Verify.Paths != nil {
		return nil
	}
	var wrong []Problem
	err := rp.s.verifyRecords(ctx, VerifyOptions{}, func(p Problem) {
		if !p.Damaged {
			wrong = append(wrong, p)
		}
	})
	if err != nil {
		return err
	}
	for _, p := range wrong {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := rp.s.mend(ctx, *p.record); err != nil {
			rp.report(Repaired{Problem: p, Action: ActionNone, RepairErr: err})
			continue
		}
		rp.report(Repaired{Problem: p, Action: ActionMended})
	}
	return nil
}

// mend mends a record that follows from others, if it is still wrong.
func (s *Store) mend(ctx context.Context, p db.Problem) error {
	s.removal.Lock()
	defer s.removal.Unlock()
	still, err := s.db.Recheck(p)
	if err != nil || still == nil {
		return err
	}
	var b cas.Batch
	release := func(error) {}
	var events []Event
	switch {
	case still.Slot:
		if release, events, err = s.mendSlot(&b, still.Path); err != nil {
			return err
		}
	case still.Fix != nil:
		if events, err = s.strayEvents(*still); err != nil {
			return err
		}
		still.Fix(&b)
	default:
		return errors.New("it does not follow from others")
	}
	err = s.content.Commit(context.WithoutCancel(ctx), &b)
	release(err)
	if err == nil {
		s.watches.tell(events)
	}
	return err
}

// strayEvents are what to tell when a stray record goes: who listed the slots took its path for valid.
func (s *Store) strayEvents(p db.Problem) ([]Event, error) {
	slot, ok := db.SlotOf(p.Key)
	if !ok || p.Path.IsZero() {
		return nil, nil
	}
	if r, err := s.db.Get(p.Path); err == nil && r.Slot == slot || err != nil && !errors.Is(err, db.ErrNotFound) {
		return nil, err
	}
	return []Event{{Path: p.Path, Slot: slot, Removed: true}}, nil
}

// mendSlot gives a path whose slot record is wrong another slot.
func (s *Store) mendSlot(b *cas.Batch, p nix.StorePath) (release func(error), events []Event, err error) {
	r, err := s.record(p)
	if err != nil {
		return nil, nil, err
	}
	hash, _ := r.Info.NarHash.SHA256()
	object, err := s.content.Object(hash)
	if err != nil {
		return nil, nil, err
	}
	tree, err := object.Tree()
	if err != nil {
		return nil, nil, err
	}
	old := r.Slot
	r.Slot, release, err = s.slots.take(b, 1)
	if err != nil {
		return nil, nil, err
	}
	if err := db.Replace(b, r); err != nil {
		release(err)
		return nil, nil, err
	}
	db.PutSlot(b, r, topOf(tree))
	return release, []Event{{Path: p, Slot: old, Removed: true}, {Path: p, Slot: r.Slot}}, nil
}

// restore gets damaged paths from the source.
func (rp *repair) restore(ctx context.Context) error {
	if rp.opts.Source == nil {
		return nil
	}
	var left []nix.StorePath
	for _, p := range rp.paths {
		err := rp.s.restorePath(ctx, p, rp.opts.Source)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			rp.report(Repaired{Problem: rp.damaged[p], Action: ActionImported})
			continue
		}
		problem := rp.damaged[p]
		problem.Err = fmt.Errorf("%w (and %w)", problem.Err, err)
		rp.damaged[p] = problem
		left = append(left, p)
	}
	rp.paths = left
	return nil
}

// restorePath gets one path, and those of its references that are missing, from a source, and makes sure that it can be
// read then.
func (s *Store) restorePath(ctx context.Context, p nix.StorePath, source Source) error {
	info, r, err := source(ctx, p)
	if err != nil {
		return fmt.Errorf("the source does not give it: %w", err)
	}
	defer func() { _ = r.Close() }()
	known, err := s.db.Get(p)
	switch {
	case err == nil:
		info = known.Info
	case errors.Is(err, db.ErrCorrupt):
		if err := s.dropUnreadable(ctx, p); err != nil {
			return err
		}
	case !errors.Is(err, db.ErrNotFound):
		return err
	}
	for _, ref := range info.References {
		ok, err := s.db.Has(ref)
		if err == nil && !ok && ref != p {
			err = s.restorePath(ctx, ref, source)
		}
		if err != nil {
			return err
		}
	}
	if err := s.Import(ctx, info, r, ImportOptions{Holder: "repair", Repair: true}); err != nil {
		return err
	}
	err = s.Verify(ctx, VerifyOptions{Contents: true, Paths: []nix.StorePath{p}}, func(still Problem) { err = errors.Join(err, still.Err) })
	return err
}

// dropUnreadable takes an info record away that cannot be read, and what it can say of others.
func (s *Store) dropUnreadable(ctx context.Context, p nix.StorePath) error {
	s.removal.Lock()
	defer s.removal.Unlock()
	// Its slot cannot be read in its info any more.
	var events []Event
	err := s.db.Slotted(func(path nix.StorePath, slot uint32, _ Top) error {
		if path == p {
			events = append(events, Event{Path: p, Slot: slot, Removed: true})
		}
		return nil
	})
	if err != nil {
		return err
	}
	var b cas.Batch
	db.DeleteUnreadable(&b, p)
	if err := s.content.Commit(context.WithoutCancel(ctx), &b); err != nil {
		return err
	}
	s.watches.tell(events)
	return nil
}

// drop deletes damaged paths with everything that refers to them.
func (rp *repair) drop(ctx context.Context) error {
	if !rp.opts.Drop {
		for _, p := range rp.paths {
			rp.report(Repaired{Problem: rp.damaged[p], Action: ActionNone})
		}
		return nil
	}
	if len(rp.paths) == 0 {
		return nil
	}
	s := rp.s
	for _, p := range rp.paths {
		_, err := s.db.Get(p)
		if errors.Is(err, db.ErrCorrupt) {
			err = s.dropUnreadable(ctx, p)
		}
		if err != nil && !errors.Is(err, db.ErrNotFound) {
			return err
		}
	}
	// The referrers of paths that are not valid any more are asked for, too.
	all, err := s.closure(rp.paths, s.db.Referrers)
	if err != nil {
		return err
	}
	valid, err := s.ValidPaths(all)
	if err != nil {
		return err
	}
	err = s.Delete(ctx, valid...)
	for _, p := range all {
		problem, ok := rp.damaged[p]
		if !ok {
			problem = Problem{Paths: []nix.StorePath{p}, Damaged: true, Err: fmt.Errorf("path '%s' refers to a damaged one", s.print(p))}
		}
		out := Repaired{Problem: problem, Action: ActionDropped}
		if err != nil && slices.Contains(valid, p) {
			out.Action, out.RepairErr = ActionNone, err
		}
		rp.report(out)
	}
	return nil
}
