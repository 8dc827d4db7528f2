package drv

import (
	"context"
	"fmt"

	"github.com/narfs/narfs/internal/nix"
)

// OutputPaths returns the paths of d's outputs as they should be: of those that can be known before building. They are none if
// outputs are Floating or Impure, or if an input is, unless d's output is Fixed.
func (h *Hasher) OutputPaths(ctx context.Context, d *Derivation) (map[string]nix.StorePath, error) {
	kind, err := d.Kind()
	if err != nil {
		return nil, fmt.Errorf("derivation %q: %w", d.Name, err)
	}
	paths := map[string]nix.StorePath{}
	switch kind {
	case Fixed:
		p, err := d.Outputs[OutName].StorePath(h.Dir, d.Name, OutName)
		if err != nil {
			return nil, err
		}
		paths[OutName] = p
	case InputAddressed, Deferred:
		m, err := h.Own(ctx, d)
		if err != nil {
			return nil, err
		}
		if m.Deferred {
			return paths, nil
		}
		for name := range d.Outputs {
			if paths[name], err = OutputPath(h.Dir, d.Name, name, m.Hash); err != nil {
				return nil, err
			}
		}
	default:
	}
	return paths, nil
}

// CheckInvariants says whether a derivation may be registered under a path: whether its outputs are all of a kind, those that
// are InputAddressed have the paths that they should have, and so have the variables that are called as they or as a Fixed one.
//
// Deferred outputs whose paths can be known pass, as in Nix: 2.8 does not look, 2.36 warns. InputAddressed ones whose
// paths cannot be known do not pass, as in 2.36; 2.8 makes a path of the hash nevertheless.
func (h *Hasher) CheckInvariants(ctx context.Context, path nix.StorePath, d *Derivation) error {
	name, err := NameFromPath(path)
	if err != nil {
		return err
	}
	full := h.Dir.Path(path)
	if name != d.Name {
		return fmt.Errorf("derivation '%s' has name '%s' which does not match its path", full, d.Name)
	}
	paths, err := h.OutputPaths(ctx, d)
	if err != nil {
		return fmt.Errorf("derivation '%s': %w", full, err)
	}
	for _, name := range d.OutputNames() {
		o := d.Outputs[name]
		if o.Kind != InputAddressed && o.Kind != Fixed {
			continue
		}
		want, known := paths[name]
		switch {
		case o.Kind == InputAddressed && !known:
			return fmt.Errorf("derivation '%s' has incorrect output '%s', should be deferred", full, h.Dir.Path(o.Path))
		case o.Kind == InputAddressed && o.Path != want:
			return fmt.Errorf("derivation '%s' has incorrect output '%s', should be '%s'", full, h.Dir.Path(o.Path), h.Dir.Path(want))
		case d.Env[name] != h.Dir.Path(want):
			return fmt.Errorf("derivation '%s' has incorrect environment variable '%s', should be '%s'", full, name, h.Dir.Path(want))
		}
	}
	return nil
}
