package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
	"github.com/narfs/narfs/nar"
	"github.com/narfs/narfs/nar/cas"
)

// IsDerivation reports whether a path holds a derivation by its name.
func IsDerivation(p nix.StorePath) bool { return strings.HasSuffix(p.Name(), drv.Extension) }

// Derivation returns the derivation that a valid path holds, else ErrNotValid.
func (s *Store) Derivation(p nix.StorePath) (*drv.Derivation, error) {
	o, err := s.Object(p)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	content, err := o.Content()
	if err != nil {
		return nil, err
	}
	return s.parseDerivation(p, content)
}

// parseDerivation reads the derivation that an object is.
func (s *Store) parseDerivation(p nix.StorePath, o *cas.Object) (*drv.Derivation, error) {
	name, err := drv.NameFromPath(p)
	if err != nil {
		return nil, err
	}
	tree, err := o.Tree()
	if err != nil {
		return nil, err
	}
	if tree.Type(0) != nar.TypeRegular {
		return nil, &RefusedError{s.print(p), "because it is called like a derivation and is no file"}
	}
	if tree.Size(0) > drv.MaxSize {
		return nil, &RefusedError{s.print(p), fmt.Sprintf("because it is called like a derivation and has more than %d bytes", drv.MaxSize)}
	}
	text := make([]byte, tree.Size(0))
	if _, err := o.ReadAt(0, text, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	d, err := drv.Parse(s.storeDir, name, text)
	if err != nil {
		return nil, &RefusedError{s.print(p), fmt.Sprintf("because it is called like a derivation: %v", err)}
	}
	return d, nil
}

// memo remembers hashes of derivations: those of the last ones that were needed.
type memo struct {
	mu       sync.Mutex // guards the rest
	now, old map[nix.StorePath]drv.Modulo
}

// memoSize is after how many hashes those are forgotten that were not asked for since twice as many.
const memoSize = 1 << 14

// Modulo implements drv.Memo.
func (m *memo) Modulo(p nix.StorePath) (drv.Modulo, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	mod, ok := m.now[p]
	if !ok {
		if mod, ok = m.old[p]; ok {
			m.remember(p, mod)
		}
	}
	return mod, ok
}

// Remember implements drv.Memo.
func (m *memo) Remember(p nix.StorePath, mod drv.Modulo) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.remember(p, mod)
}

func (m *memo) remember(p nix.StorePath, mod drv.Modulo) {
	if m.now == nil || len(m.now) >= memoSize {
		m.old, m.now = m.now, map[nix.StorePath]drv.Modulo{}
	}
	m.now[p] = mod
}

// hasher finds the hashes of derivations, whose inputs are valid.
func (s *Store) hasher() *drv.Hasher {
	return &drv.Hasher{
		Dir: s.storeDir, Memo: &s.modulos,
		Load: func(_ context.Context, p nix.StorePath) (*drv.Derivation, error) { return s.Derivation(p) },
	}
}

// Modulo returns the hash of a derivation by which the realisations of its outputs are known. Its inputs must be valid.
func (s *Store) Modulo(ctx context.Context, d *drv.Derivation) (drv.Modulo, error) {
	return s.hasher().Own(ctx, d)
}

// checkDerivations refuses derivations among regs whose outputs are not where they have to be, and takes down where they will be.
// Inputs must be valid, or stand before them.
func (s *Store) checkDerivations(ctx context.Context, regs []*registration) error {
	var before map[nix.StorePath]*drv.Derivation
	for _, reg := range regs {
		if !IsDerivation(reg.info.Path) {
			continue
		}
		d, err := s.stagedDerivation(reg)
		if err != nil {
			return err
		}
		// What is remembered of a derivation, by its path, must be true of whatever has that path later.
		if file, err := d.File(s.storeDir); err != nil || file.Path != reg.info.Path {
			return &RefusedError{s.print(reg.info.Path), "because it is called like a derivation and its path does not follow from its contents"}
		}
		h := s.hasher()
		h.Load = func(_ context.Context, p nix.StorePath) (*drv.Derivation, error) {
			if d, ok := before[p]; ok {
				return d, nil
			}
			return s.Derivation(p)
		}
		if err := h.CheckInvariants(ctx, reg.info.Path, d); err != nil {
			if errors.Is(err, ErrNotValid) || ctx.Err() != nil {
				return err
			}
			return &RefusedError{s.print(reg.info.Path), fmt.Sprintf("because its outputs are not right: %v", err)}
		}
		reg.outputs = nil
		for name, o := range d.Outputs {
			p, err := o.StorePath(s.storeDir, d.Name, name)
			if err != nil {
				return err
			}
			if !p.IsZero() {
				reg.outputs = append(reg.outputs, p)
			}
		}
		reg.outputs = nix.SortPaths(reg.outputs)
		if before == nil {
			before = map[nix.StorePath]*drv.Derivation{}
		}
		before[reg.info.Path] = d
	}
	return nil
}

func (s *Store) stagedDerivation(reg *registration) (*drv.Derivation, error) {
	o, err := reg.staged.Object()
	if err != nil {
		return nil, err
	}
	return s.parseDerivation(reg.info.Path, o)
}

// Derivers returns the valid derivations that will make a path, or have, in order: whichever did.
func (s *Store) Derivers(out nix.StorePath) ([]nix.StorePath, error) { return s.db.Derivers(out) }

// Outputs returns where the outputs of a valid derivation will be, as far as it says so, in order.
func (s *Store) Outputs(p nix.StorePath) ([]nix.StorePath, error) {
	r, err := s.record(p)
	return r.Outputs, err
}
