package main

import (
	"fmt"
	"path/filepath"

	"github.com/narfs/narfs/daemon/gc"
	"github.com/narfs/narfs/daemon/nixdb"
	"github.com/narfs/narfs/internal/nix"
)

// migratedRoot is a root that was taken over, for JSON.
type migratedRoot struct {
	Path string  `json:"path"`
	Kind gc.Kind `json:"kind"`
	Name string  `json:"name"` // the link of Nix, or elsewhere
}

// takeRoots makes roots of what keeps those of rows that are valid from Nix's collector.
func (mi *migration) takeRoots(rows []nixdb.Row) error {
	wanted := make(map[nix.StorePath]struct{}, len(rows))
	for _, row := range rows {
		wanted[row.Path] = struct{}{}
	}
	if mi.s != nil && !mi.o.dryRun {
		if err := gc.MakeLayout(mi.s.StateDir()); err != nil {
			return err
		}
	}
	finder := &gc.Finder{StateDir: mi.place.StateDir, StoreDir: mi.db.StoreDir(), Shown: []string{mi.place.StoreDir}}
	var found []gc.Root
	seen := map[gc.Root]struct{}{} // a profile and its newest generation are one
	err := finder.Find(func(r gc.Root) {
		_, ok := wanted[r.Path]
		if _, again := seen[r]; ok && !again {
			seen[r] = struct{}{}
			found = append(found, r)
		}
	}, func(err *gc.UnreadableError) error {
		mi.failed(err.Name, err)
		return nil
	})
	if err != nil {
		return err
	}
	for _, r := range found {
		if err := mi.takeRoot(r); err != nil {
			return err
		}
	}
	return nil
}

func (mi *migration) takeRoot(r gc.Root) error {
	if mi.s != nil && !mi.o.dryRun {
		if valid, err := mi.s.IsValid(r.Path); err != nil || !valid {
			return err // it could not be taken over, of which the user knows
		}
		if err := mi.keep(r); err != nil {
			return err
		}
	}
	mi.result.Roots = append(mi.result.Roots, migratedRoot{mi.db.StoreDir().Path(r.Path), r.Kind, r.Name})
	return nil
}

func (mi *migration) keep(r gc.Root) error {
	if r.Kind == gc.Indirect {
		return gc.AddIndirect(mi.s.StateDir(), r.Name)
	}
	name, err := filepath.Rel(mi.place.StateDir, r.Name)
	if err != nil {
		return fmt.Errorf("root %s: %w", r.Name, err)
	}
	_, err = gc.Keep(mi.s.StateDir(), name, mi.s.Dir().Path(r.Path))
	return err
}
