package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	iofs "io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

// tree is a folder or file that becomes a store path.
type tree struct {
	name string // of the store path: a hash, a hyphen and the name of the folder
	dir  string
}

// dataset is some trees, and what is in them.
type dataset struct {
	name    string
	key     string // changes when what is in the trees does
	trees   []tree
	entries []entry
	files   int   // regular files
	bytes   int64 // what they hold
}

// entry is a file, folder or link of a dataset.
type entry struct {
	path    string // from the folder that holds the store paths
	regular bool
	size    int64
}

// format goes into the keys of datasets; it changes when what is made of them does.
const format = "1"

// newDataset looks at folders.
func newDataset(name string, dirs []string) (*dataset, error) {
	d := &dataset{name: name}
	sum := sha256.New()
	_, _ = fmt.Fprintln(sum, format, name)
	for _, dir := range dirs {
		t := tree{storeName("narfs bench", filepath.Base(dir)), dir}
		d.trees = append(d.trees, t)
		err := filepath.WalkDir(dir, func(path string, found iofs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := found.Info()
			if err != nil {
				return err
			}
			e := entry{path: t.name + path[len(dir):], regular: info.Mode().IsRegular()}
			if e.regular {
				e.size = info.Size()
				d.files++
				d.bytes += e.size
			}
			d.entries = append(d.entries, e)
			_, _ = fmt.Fprintln(sum, e.path, info.Mode(), e.size)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("looking at %s: %w", dir, err)
		}
	}
	d.key = name + "-" + hex.EncodeToString(sum.Sum(nil))[:16]
	return d, nil
}

// names returns those of the store paths.
func (d *dataset) names() []string {
	names := make([]string, len(d.trees))
	for i, t := range d.trees {
		names[i] = t.name
	}
	return names
}

// largest returns the tree that holds most.
func (d *dataset) largest() tree {
	held := map[string]int64{}
	for _, e := range d.entries {
		held[e.path[:bytes.IndexByte([]byte(e.path+"/"), '/')]] += e.size
	}
	return slices.MaxFunc(d.trees, func(a, b tree) int { return int(held[a.name] - held[b.name]) })
}

// list writes the paths of some entries to a file, in an order that is random and always the same, for a storm.
func (d *dataset) list(file string, keep func(entry) bool) error {
	var chosen []string
	for _, e := range d.entries {
		if keep(e) {
			chosen = append(chosen, e.path)
		}
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(chosen), func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
	var text bytes.Buffer
	for _, path := range chosen {
		text.WriteString(path)
		text.WriteByte(0)
	}
	return os.WriteFile(file, text.Bytes(), 0o644)
}

// stream returns a file with the export stream of a dataset. The store paths of its second copy (salt is not empty)
// have other hashes; change is that of narWriter.
func (b *bench) stream(ctx context.Context, d *dataset, salt string, change func([]byte) []byte) (string, error) {
	name := "export"
	if salt != "" {
		name += "-" + salt
	}
	return b.prepared(ctx, d.key, name, func(ctx context.Context, file string) error {
		f, err := os.Create(file)
		if err != nil {
			return err
		}
		names := d.names()
		if salt != "" {
			for i, t := range d.trees {
				names[i] = storeName(salt, filepath.Base(t.dir))
			}
		}
		w := newNARWriter(f)
		err = w.export(names, func(i int) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return w.tree(d.trees[i].dir, change)
		})
		return errors.Join(err, f.Close())
	})
}

// prepared returns a file of the cache folder that is made if it is not there.
func (b *bench) prepared(ctx context.Context, key, name string, build func(ctx context.Context, file string) error) (string, error) {
	dir := filepath.Join(b.cache, "prepared", key)
	file := filepath.Join(dir, name)
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	b.say("preparing %s of %s", name, key)
	unfinished := fmt.Sprintf("%s.%d", file, os.Getpid())
	err := build(ctx, unfinished)
	if err == nil {
		err = os.Rename(unfinished, file)
	}
	if err != nil {
		_ = os.RemoveAll(unfinished)
		return "", fmt.Errorf("preparing %s of %s: %w", name, key, err)
	}
	return file, nil
}
