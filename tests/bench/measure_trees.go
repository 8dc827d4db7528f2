package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// measureMetadata looks at the names and attributes of everything.
func (b *bench) measureMetadata(ctx context.Context) error {
	d, volumes, err := b.mainVolumes(ctx, "metadata")
	if err != nil {
		return err
	}
	all, files := filepath.Join(b.dir, "all.list"), filepath.Join(b.dir, "files.list")
	err = errors.Join(
		d.list(all, func(entry) bool { return true }),
		d.list(files, func(e entry) bool { return e.regular }))
	if err != nil {
		return err
	}
	b.measureWork(ctx, volumes, []work{
		{"find", b.inTree("find", ".")},
		{"ls", b.inTree("ls", "-lR", ".")},
		{"du", b.inTree("du", "-s", ".")},
		{"stat", b.storm("stat", all, "")},
		{"absent", b.storm("absent", all, "")},
		{"open", b.storm("open", files, "")},
	})
	return nil
}

// measureRead reads all small files, in random order.
func (b *bench) measureRead(ctx context.Context) error {
	d, volumes, err := b.mainVolumes(ctx, "read")
	if err != nil {
		return err
	}
	small := filepath.Join(b.dir, "small.list")
	const most = 128 << 10
	if err := d.list(small, func(e entry) bool { return e.regular && e.size <= most }); err != nil {
		return err
	}
	b.measureWork(ctx, volumes, []work{{"small", b.storm("read", small, "")}})
	return nil
}

// mainVolumes returns the main dataset and its volumes for a group.
func (b *bench) mainVolumes(ctx context.Context, group string) (*dataset, []volume, error) {
	d, err := b.mainDataset(ctx)
	if err != nil {
		return nil, nil, err
	}
	s, err := b.mainState(ctx)
	if err != nil {
		return nil, nil, err
	}
	volumes, err := b.volumes(ctx, group, d, s)
	return d, volumes, err
}

// measureBig reads a big file, which is made of the largest files of the main dataset.
func (b *bench) measureBig(ctx context.Context) error {
	from, err := b.mainDataset(ctx)
	if err != nil {
		return err
	}
	size := int64(256 << 20)
	if b.quick {
		size = 32 << 20
	}
	file, err := b.prepared(ctx, fmt.Sprintf("%s-%d", from.key, size>>20), "big", func(_ context.Context, file string) error {
		return from.concatenate(file, size)
	})
	if err != nil {
		return err
	}
	d, err := newDataset("big", []string{file})
	if err != nil {
		return err
	}
	s, err := b.newStateOf(ctx, d)
	if err != nil {
		return err
	}
	volumes, err := b.volumes(ctx, "big", d, s)
	if err != nil {
		return err
	}
	name := d.trees[0].name
	b.measureWork(ctx, volumes, []work{
		{"rand", b.storm("rand", "", name)},
		{"mmap", b.storm("mmap", "", name)},
		{"touch", b.storm("touch", "", name)},
		{"seq", b.storm("seq", "", name)},
	})
	return nil
}

// concatenate makes a file of a size out of the largest files, over and over.
func (d *dataset) concatenate(file string, size int64) error {
	entries := slices.Clone(d.entries)
	slices.SortStableFunc(entries, func(a, b entry) int { return int(b.size - a.size) })
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	for i := 0; err == nil && size > 0 && d.bytes > 0; i = (i + 1) % len(entries) {
		if !entries[i].regular {
			continue
		}
		var part *os.File
		if part, err = os.Open(d.path(entries[i])); err == nil {
			var n int64
			n, err = io.Copy(f, io.LimitReader(part, size))
			size -= n
			err = errors.Join(err, part.Close())
		}
	}
	return errors.Join(err, f.Close())
}

// path returns where the file behind an entry is.
func (d *dataset) path(e entry) string {
	name, rest, _ := strings.Cut(e.path, "/")
	i := slices.IndexFunc(d.trees, func(t tree) bool { return t.name == name })
	return filepath.Join(d.trees[i].dir, rest)
}
