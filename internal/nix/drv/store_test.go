package drv_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
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

// memory is a Memo that forgets nothing.
type memory map[nix.StorePath]drv.Modulo

func (m memory) Modulo(p nix.StorePath) (drv.Modulo, bool) {
	known, ok := m[p]
	return known, ok
}

func (m memory) Remember(p nix.StorePath, known drv.Modulo) { m[p] = known }

// simple is an input-addressed derivation with one output and its right path.
func simple(tb testing.TB, s store, name string, inputs ...nix.StorePath) *drv.Derivation {
	tb.Helper()
	d := &drv.Derivation{
		BasicDerivation: drv.BasicDerivation{
			Name: name, Platform: "x86_64-linux", Builder: "/bin/sh", Env: map[string]string{"out": ""},
			Outputs: map[string]drv.Output{"out": {Kind: drv.Deferred}},
		},
		InputDrvs: map[nix.StorePath][]string{},
	}
	for _, in := range inputs {
		d.InputDrvs[in] = []string{"out"}
	}
	paths, err := s.hasher().OutputPaths(tb.Context(), d)
	if err != nil {
		tb.Fatal(err)
	}
	if path, ok := paths["out"]; ok {
		setPath(d, path)
	}
	return d
}

// setPath makes the output input-addressed.
func setPath(d *drv.Derivation, path nix.StorePath) {
	d.Outputs = maps.Clone(d.Outputs)
	d.Env = maps.Clone(d.Env)
	d.Outputs["out"] = drv.Output{Kind: drv.InputAddressed, Path: path}
	d.Env["out"] = nix.DefaultStoreDir.Path(path)
}

// clone is as deep as tests change derivations.
func clone(d *drv.Derivation) *drv.Derivation {
	c := *d
	c.Outputs, c.Env, c.InputDrvs = maps.Clone(d.Outputs), maps.Clone(d.Env), maps.Clone(d.InputDrvs)
	c.Args, c.InputSrcs = slices.Clone(d.Args), slices.Clone(d.InputSrcs)
	return &c
}
