package build

import (
	"context"
	"errors"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
	"github.com/narfs/narfs/internal/nixwire"
)

// repair has a derivation realised, and what its outputs need read whole. What is damaged is built again, by the derivation that it came
// from, and must come out as it was.
func (b *Builder) repair(ctx context.Context, w Wanted, o Settings) Result {
	r := b.realise(ctx, w.Path, nil, w.Outputs, Normal, o)
	if !r.OK() {
		return r
	}
	outputs := make([]nix.StorePath, 0, len(r.Outputs))
	for _, out := range r.Outputs {
		outputs = append(outputs, out.Path)
	}
	damaged, err := b.damaged(ctx, outputs)
	if err != nil {
		return failed(nixwire.MiscFailure, "repair of '%s': %v", b.print(w.Path), err)
	}
	for _, info := range nix.InOrder(damaged) { // a builder must not see what is damaged
		again := b.rebuild(ctx, info, o)
		if !again.OK() {
			return again
		}
		r.Status, r.Times, r.Start, r.Stop = again.Status, again.Times, again.Start, again.Stop
	}
	return r
}

// damaged returns what cannot be read as it was, of paths and all that they refer to.
func (b *Builder) damaged(ctx context.Context, paths []nix.StorePath) (damaged []nix.PathInfo, err error) {
	closure, err := b.store.Closure(paths...)
	if err != nil {
		return nil, err
	}
	seen := map[nix.StorePath]struct{}{}
	var errs []error
	err = b.store.Verify(ctx, store.VerifyOptions{Contents: true, Paths: closure}, func(p store.Problem) {
		for _, path := range p.Paths {
			if _, ok := seen[path]; ok || !p.Damaged {
				continue
			}
			seen[path] = struct{}{}
			info, err := b.store.PathInfo(path)
			damaged, errs = append(damaged, info), append(errs, err)
		}
	})
	return damaged, errors.Join(append(errs, err)...)
}

// rebuild builds a valid path again.
func (b *Builder) rebuild(ctx context.Context, info nix.PathInfo, o Settings) Result {
	derivers, err := b.store.Derivers(info.Path)
	if err != nil {
		return failed(nixwire.MiscFailure, "%v", err)
	}
	for _, p := range append([]nix.StorePath{info.Deriver}, derivers...) {
		if p.IsZero() {
			continue
		}
		if _, err := b.store.Derivation(p); err == nil {
			return b.realise(ctx, p, nil, nil, Repair, o)
		}
	}
	return failed(nixwire.MiscFailure, "path '%s' is damaged, and cannot be built again: no derivation that makes it is here%s", b.print(info.Path), repairHint)
}

// repairHint says what else can be done.
const repairHint = "; narfs repair --from takes contents from elsewhere"

// replaces says why an output that was built again does not take the place of the one that there is, if it does not.
func (a *attempt) replaces(m *made) error {
	old, err := a.g.b.store.PathInfo(m.info.Path)
	if errors.Is(err, store.ErrNotValid) {
		return nil
	}
	if err != nil {
		return err
	}
	if m.kind == drv.InputAddressed && old.NarHash != m.narHash {
		return fail(nixwire.NotDeterministic, "output '%s' was built again, and has other contents than it had: it is not replaced%s",
			a.g.b.print(m.info.Path), repairHint)
	}
	return nil
}
