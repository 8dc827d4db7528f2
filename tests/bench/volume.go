package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// volume is a dataset as one system keeps it: something that can be mounted, often.
type volume interface {
	system() string
	device() string // the file or folder that holds it
	mount(ctx context.Context) (*mount, error)
}

// mount is a mounted volume.
type mount struct {
	dir     string
	pid     int // of the process that serves it, if there is one
	unmount func(context.Context) error
}

// serverCPU returns the CPU time of the process that serves the mount, in seconds.
func (m *mount) serverCPU() (float64, error) {
	if m.pid == 0 {
		return 0, nil
	}
	return cpuOf(m.pid)
}

// image is a volume in a file, which the kernel itself reads.
type image struct {
	b    *bench
	file string
	kind string
}

func (v *image) system() string { return v.kind }
func (v *image) device() string { return v.file }

func (v *image) mount(ctx context.Context) (*mount, error) { return v.mountAs(ctx, "ro") }

func (v *image) mountAs(ctx context.Context, options string) (*mount, error) {
	dir, err := os.MkdirTemp(v.b.dir, v.kind+".")
	if err != nil {
		return nil, err
	}
	if err := v.b.do(ctx, "mount", "-t", v.kind, "-o", "loop,"+options, v.file, dir); err != nil {
		return nil, err
	}
	unmount := v.b.later(func(ctx context.Context) error {
		err := v.b.do(ctx, "umount", dir)
		if err != nil {
			err = errors.Join(err, v.b.do(ctx, "umount", "--lazy", dir))
		}
		return errors.Join(err, os.Remove(dir))
	})
	return &mount{dir: dir, unmount: unmount}, nil
}

// ext4Image returns a dataset in an ext4, as Nix restores it.
func (b *bench) ext4Image(ctx context.Context, d *dataset) (*image, error) {
	if err := need("root", "mkfs.ext4", "mount", "nix-store"); err != nil {
		return nil, err
	}
	file, err := b.prepared(ctx, d.key, "ext4", func(ctx context.Context, file string) error {
		entries := int64(len(d.entries))
		size := (d.bytes+entries*4096)*11/10 + 128<<20
		if err := b.do(ctx, "truncate", "--size", fmt.Sprint(size), file); err != nil {
			return err
		}
		inodes := fmt.Sprint(entries*11/10 + 1000)
		if err := b.do(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", "-N", inodes, "-E", "lazy_itable_init=0,lazy_journal_init=0", file); err != nil {
			return err
		}
		m, err := (&image{b, file, ext4}).mountAs(ctx, "rw")
		if err != nil {
			return err
		}
		err = b.restore(ctx, d, m.dir)
		if err == nil {
			err = os.Remove(filepath.Join(m.dir, "lost+found"))
		}
		return errors.Join(err, m.unmount(context.WithoutCancel(ctx)))
	})
	return &image{b, file, ext4}, err
}

// restore makes the trees of a dataset in a folder, as Nix would make them in its store.
func (b *bench) restore(ctx context.Context, d *dataset, dir string) error {
	file := filepath.Join(b.dir, "nar")
	defer func() { _ = os.Remove(file) }()
	for _, t := range d.trees {
		f, err := os.Create(file)
		if err != nil {
			return err
		}
		w := newNARWriter(f)
		w.text("nix-archive-1")
		if err := errors.Join(w.tree(t.dir, nil), w.Flush(), f.Close()); err != nil {
			return err
		}
		c := command{args: []string{"nix-store", "--restore", filepath.Join(dir, t.name)}, stdin: file}
		if _, err := c.run(ctx, b.limit); err != nil {
			return err
		}
	}
	return nil
}

// squashfsImage returns a dataset in a squashfs, made of an ext4 that holds it.
func (b *bench) squashfsImage(ctx context.Context, d *dataset) (*image, error) {
	if err := need("root", "mksquashfs", "mount"); err != nil {
		return nil, err
	}
	file, err := b.prepared(ctx, d.key, "squashfs", func(ctx context.Context, file string) error {
		return b.withExt4(ctx, d, func(dir string) error {
			return b.do(ctx, "mksquashfs", dir, file, "-comp", "zstd", "-Xcompression-level", "3", "-b", "128K",
				"-noappend", "-no-progress", "-no-xattrs", "-quiet")
		})
	})
	return &image{b, file, squashfs}, err
}

// withExt4 calls fn with the folder on which an ext4 of a dataset is mounted.
func (b *bench) withExt4(ctx context.Context, d *dataset, fn func(dir string) error) error {
	v, err := b.ext4Image(ctx, d)
	if err != nil {
		return err
	}
	m, err := v.mount(ctx)
	if err != nil {
		return err
	}
	return errors.Join(fn(m.dir), m.unmount(context.WithoutCancel(ctx)))
}

// isMounted tells whether something is mounted on a folder, without asking that.
func isMounted(dir string) (bool, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, err
	}
	return strings.Contains(string(info), " "+dir+" "), nil
}

// await asks often, until the answer is true, an error, or ctx ends.
func await(ctx context.Context, ask func() (bool, error)) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := ask(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
