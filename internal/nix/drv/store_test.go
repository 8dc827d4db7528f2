package drv_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
)

// store holds derivations by path.
type store map[nix.StorePath]*drv.Derivation

func (s store) add(tb testing.TB, d *drv.Derivation) nix.StorePath {
	tb.Helper()
	f, err := d.File(nix.DefaultStoreDir)
	if err != nil {
		tb.Fatal(err)
	}
	s[f.Path] = d
	return f.Path
}

func (s store) load(_ context.Context, p nix.StorePath) (*drv.Derivation, error) {
	if d := s[p]; d != nil {
		return d, nil
	}
	return nil, fmt.Errorf("path '%s' is not valid", nix.DefaultStoreDir.Path(p))
}

func (s store) hasher() *drv.Hasher { return &drv.Hasher{Dir: nix.DefaultStoreDir, Load: s.load} }
