package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// measureScale measures a store of very many files, each a chunk of its own.
func (b *bench) measureScale(ctx context.Context) error {
	shape := crowd{paths: 10, folders: 100, files: 1000}
	if b.quick {
		shape.folders = 10
	}
	stream, err := b.prepared(ctx, shape.String(), "export", func(ctx context.Context, file string) error {
		f, err := os.Create(file)
		if err != nil {
			return err
		}
		return errors.Join(shape.write(ctx, f), f.Close())
	})
	if err != nil {
		return err
	}
	s, err := b.newState("scale")
	if err != nil {
		return err
	}
	b.say("importing %s", shape)
	if _, err := s.imports(stream).run(ctx, b.limit); err != nil {
		return err
	}
	for range b.rounds {
		if err := preload(s.dir); err != nil {
			return err
		}
		if err := b.measureStart(ctx, s, "start", b.measureFind); err != nil {
			return err
		}
		if !b.plan.series("start-dropped") {
			continue
		}
		if err := b.drop(s.dir); err != nil {
			return err
		}
		if err := b.measureStart(ctx, s, "start-dropped", nil); err != nil {
			return err
		}
	}
	return nil
}

// measureFind measures the memory of the process that serves a mount, after find.
func (b *bench) measureFind(ctx context.Context, m *mount) error {
	if !b.plan.series("find-rss") && !b.plan.series("find-anon") {
		return nil
	}
	if _, err := b.inTree("find", ".")(ctx, m.dir); err != nil {
		return err
	}
	after := memoryOf(m.pid)
	b.results.add("find-rss", narfs, sample{Bytes: after.now, Peak: after.peak, Anon: after.anon})
	b.results.add("find-anon", narfs, sample{Bytes: after.now, Peak: after.peak, Anon: after.anon})
	return nil
}

// measureStart measures the time from the start of narfs until its mount can be listed, then calls with.
func (b *bench) measureStart(ctx context.Context, s *state, series string, with func(context.Context, *mount) error) error {
	start := time.Now()
	m, err := s.mount(ctx)
	wall := time.Since(start).Seconds()
	if err != nil {
		return err
	}
	cpu, err := m.serverCPU()
	if err == nil && b.plan.series(series) {
		b.record(ctx, series, narfs, sample{Wall: wall, Server: cpu}, nil)
	}
	if err == nil && with != nil {
		err = with(ctx, m)
	}
	return errors.Join(err, m.unmount(context.WithoutCancel(ctx)))
}

// crowd is the shape of many small files, all different: folders in each path, files in each folder.
type crowd struct{ paths, folders, files int }

func (c crowd) String() string { return fmt.Sprintf("crowd-%dx%dx%d", c.paths, c.folders, c.files) }

// write writes the crowd as an export stream.
func (c crowd) write(ctx context.Context, out io.Writer) error {
	names := make([]string, c.paths)
	for i := range names {
		names[i] = storeName("narfs bench", fmt.Sprintf("%v-%d", c, i))
	}
	w := newNARWriter(out)
	return w.export(names, func(path int) error {
		w.text("(", "type", "directory")
		for folder := range c.folders {
			w.text("entry", "(", "name", fmt.Sprintf("folder-%06d", folder), "node", "(", "type", "directory")
			for file := range c.files {
				w.text("entry", "(", "name", fmt.Sprintf("file-%06d", file), "node")
				w.contents(false, fmt.Appendf(nil, "path %d, folder %d, file %d\n", path, folder, file))
				w.text(")")
			}
			w.text(")", ")")
		}
		w.text(")")
		return ctx.Err()
	})
}
