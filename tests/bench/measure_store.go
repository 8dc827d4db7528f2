package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// mainState returns a store that holds the main dataset, recompressed. Several groups use the same.
func (b *bench) mainState(ctx context.Context) (*state, error) {
	if b.full != nil {
		return b.full, nil
	}
	d, err := b.mainDataset(ctx)
	if err != nil {
		return nil, err
	}
	s, err := b.newStateOf(ctx, d)
	if err == nil {
		b.full = s
	}
	return s, err
}

// measureImport imports everything into new stores, and again under other names into one that knows all of it.
func (b *bench) measureImport(ctx context.Context) error {
	d, err := b.mainDataset(ctx)
	if err != nil {
		return err
	}
	stream, err := b.stream(ctx, d, "", nil)
	if err != nil {
		return err
	}
	again := stream
	if b.plan.series("import-known") {
		if again, err = b.stream(ctx, d, "again", nil); err != nil {
			return err
		}
	}
	for range b.rounds {
		if err := preload(stream); err != nil {
			return err
		}
		light, err := b.newState("light")
		if err != nil {
			return err
		}
		if err := b.take(ctx, "import-new", narfs, light.imports(stream)); err != nil {
			continue
		}
		b.measureNixImport(ctx, stream)
		if b.plan.series("import-new-none") {
			none, err := b.newState("none")
			if err != nil {
				return err
			}
			_ = b.take(ctx, "import-new-none", narfs, none.imports(stream, "--compression", "none"))
		}
		if b.plan.series("import-known") {
			if err := preload(again); err != nil {
				return err
			}
			_ = b.take(ctx, "import-known", narfs, light.imports(again))
		}
	}
	return nil
}

// measureNixImport has Nix import a stream into a new store, which all rows of imports are held against.
func (b *bench) measureNixImport(ctx context.Context, stream string) {
	err := need("nix-store")
	var c command
	if err == nil {
		c, err = b.nixStore("--import")
	}
	var s sample
	if err == nil {
		c.stdin = stream
		err = flush(b.dir)
	}
	if err == nil {
		s, err = c.run(ctx, b.limit)
	}
	for _, series := range []string{"import-new", "import-new-none", "import-known"} {
		if b.plan.wants(series, nix) {
			b.record(ctx, series, nix, s, err)
		}
	}
}

// nixStore is a nix-store with a new store of its own.
func (b *bench) nixStore(args ...string) (command, error) {
	root, err := os.MkdirTemp(b.dir, "nix.")
	if err != nil {
		return command{}, err
	}
	settings := filepath.Join(root, "nix.conf")
	err = os.WriteFile(settings, []byte("build-users-group =\nsubstituters =\n"), 0o644)
	return command{
		args: append([]string{"nix-store"}, args...),
		env: []string{
			"NIX_REMOTE=" + filepath.Join(root, "root"), "NIX_CONF_DIR=" + root, "NIX_USER_CONF_FILES=", "HOME=" + root,
		},
	}, err
}

// measureExport gives NARs out. Nix reads its own from an ext4.
func (b *bench) measureExport(ctx context.Context) error {
	d, err := b.mainDataset(ctx)
	if err != nil {
		return err
	}
	s, err := b.mainState(ctx)
	if err != nil {
		return err
	}
	disk, err := b.ext4Image(ctx, d)
	if err != nil {
		return err
	}
	paths := make([]string, len(d.trees))
	for i, t := range d.trees {
		paths[i] = "/nix/store/" + t.name
	}
	largest := d.largest().name
	for _, series := range []struct {
		name  string
		ours  command
		below string // what Nix dumps
	}{
		{"export", s.command(append([]string{"export"}, paths...)...), "."},
		{"dump", s.command("dump", "/nix/store/"+largest), largest},
	} {
		ours, theirs := series.ours, command{args: []string{"nix-store", "--dump", series.below}}
		ours.memory, theirs.memory = true, true
		ours.pipe, theirs.pipe = io.Discard, io.Discard
		for range b.rounds {
			if b.plan.series(series.name+"-"+warm) || b.plan.series("export-rss") || b.plan.series("export-anon") {
				err = errors.Join(err, b.measureDumpWarm(ctx, series.name, ours, theirs, disk))
			}
			if b.plan.series(series.name + "-" + dropped) {
				err = errors.Join(err, b.measureDumpDropped(ctx, series.name, s, ours, theirs, disk))
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// measureDumpWarm measures both systems after each has done the same before.
func (b *bench) measureDumpWarm(ctx context.Context, name string, ours, theirs command, disk volume) error {
	if _, err := ours.run(ctx, b.limit); err != nil {
		return err
	}
	s, err := ours.run(ctx, b.limit)
	b.record(ctx, name+"-"+warm, narfs, s, err)
	if err == nil && name == "export" {
		b.results.add("export-rss", narfs, sample{Bytes: s.Peak})
		b.results.add("export-anon", narfs, s)
	}
	return onMount(ctx, disk, func(m *mount) error {
		theirs.dir = m.dir
		if _, err := theirs.run(ctx, b.limit); err != nil {
			return err
		}
		s, err := theirs.run(ctx, b.limit)
		b.record(ctx, name+"-"+warm, nix, s, err)
		return nil
	})
}

func (b *bench) measureDumpDropped(ctx context.Context, name string, s *state, ours, theirs command, disk volume) error {
	if err := b.drop(s.device()); err != nil {
		return err
	}
	got, err := ours.run(ctx, b.limit)
	b.record(ctx, name+"-"+dropped, narfs, got, err)
	if err := b.drop(disk.device()); err != nil {
		return err
	}
	return onMount(ctx, disk, func(m *mount) error {
		theirs.dir = m.dir
		got, err := theirs.run(ctx, b.limit)
		b.record(ctx, name+"-"+dropped, nix, got, err)
		return nil
	})
}

// measureRebuild imports some trees, and then the same with other references in them, as if what they depend on had been
// built anew: in a part of the files, strings are replaced by others of the same length.
func (b *bench) measureRebuild(ctx context.Context) error {
	all, err := b.mainDataset(ctx)
	if err != nil {
		return err
	}
	var dirs []string
	for _, t := range all.trees {
		if slices.Contains(rebuiltPackages(), filepath.Base(t.dir)) {
			dirs = append(dirs, t.dir)
		}
	}
	if len(dirs) == 0 {
		for _, t := range all.trees[:min(20, len(all.trees))] {
			dirs = append(dirs, t.dir)
		}
	}
	d, err := newDataset("rebuild", dirs)
	if err != nil {
		return err
	}
	one, err := b.stream(ctx, d, "", nil)
	if err != nil {
		return err
	}
	two, err := b.stream(ctx, d, "rebuilt", rebuild)
	if err != nil {
		return err
	}
	touched, err := d.touched()
	if err != nil {
		return err
	}
	b.results.note("rebuild: %d of %d files of %d trees, %d MB, touched", touched, d.files, len(d.trees), d.bytes/1e6)
	for _, how := range []struct {
		series     string
		recompress bool
	}{{"rebuild", true}, {"rebuild-imported", false}} {
		if !b.plan.series(how.series) {
			continue
		}
		s, err := b.newState("rebuild")
		if err != nil {
			return err
		}
		var sizes []int64
		for _, stream := range []string{one, two} {
			if _, err := s.imports(stream).run(ctx, b.limit); err != nil {
				return err
			}
			if how.recompress {
				if err := s.recompress(ctx); err != nil {
					return err
				}
			}
			size, err := s.stored()
			if err != nil {
				return err
			}
			sizes = append(sizes, size)
		}
		b.results.add(how.series, first, sample{Bytes: sizes[0]})
		b.results.add(how.series, narfs, sample{Bytes: sizes[1] - sizes[0]})
	}
	return nil
}

// rebuild replaces what stands for references in Debian's packages, the beginnings of paths, by as many other bytes.
func rebuild(content []byte) []byte {
	for _, path := range []string{"/usr/", "/bin/", "/lib/"} {
		content = bytes.ReplaceAll(content, []byte(path), []byte(path[:len(path)-1]+"_"))
	}
	return content
}

// touched returns how many files a rebuild changes.
func (d *dataset) touched() (int, error) {
	n := 0
	for _, e := range d.entries {
		if !e.regular {
			continue
		}
		content, err := os.ReadFile(d.path(e))
		if err != nil {
			return n, fmt.Errorf("looking for references: %w", err)
		}
		if !bytes.Equal(content, rebuild(content)) {
			n++
		}
	}
	return n, nil
}
