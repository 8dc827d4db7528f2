package main

import (
	"context"
	"errors"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// measureSize compares what the main dataset takes on disk. Sizes are the same each time, so there is one round.
func (b *bench) measureSize(ctx context.Context) error {
	d, err := b.mainDataset(ctx)
	if err != nil {
		return err
	}
	s, err := b.mainState(ctx)
	if err != nil {
		return err
	}
	stored, err := s.stored()
	if err != nil {
		return err
	}
	sizes := map[string]int64{narfs: stored, raw: d.bytes}
	for _, other := range []struct {
		system string
		size   func(context.Context, *dataset) (int64, error)
	}{{squashfs, b.squashfsSize}, {casync, b.casyncSize}} {
		if !b.plan.against("size", other.system) {
			continue
		}
		size, err := other.size(ctx, d)
		if err != nil {
			b.failed(ctx, "size of "+other.system, err)
			continue
		}
		sizes[other.system] = size
	}
	for system, size := range sizes {
		b.results.add("size", system, sample{Bytes: size})
		if system == narfs {
			size = s.imported
		}
		b.results.add("size-imported", system, sample{Bytes: size})
	}
	return nil
}

func (b *bench) squashfsSize(ctx context.Context, d *dataset) (int64, error) {
	v, err := b.squashfsImage(ctx, d)
	if err != nil {
		return 0, err
	}
	info, err := os.Stat(v.file)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// casyncSize returns the bytes of all chunks and of the index that casync makes of a dataset. How many blocks of a disk
// its tens of thousands of files take is not counted, to its advantage.
func (b *bench) casyncSize(ctx context.Context, d *dataset) (int64, error) {
	if err := need("casync"); err != nil {
		return 0, err
	}
	file, err := b.prepared(ctx, d.key, "casync-size", func(ctx context.Context, file string) error {
		return b.withExt4(ctx, d, func(dir string) error {
			out, err := os.MkdirTemp(b.dir, "casync.")
			if err != nil {
				return err
			}
			err = b.do(ctx, "casync", "make", "--compression=zstd", "--store="+filepath.Join(out, "chunks"), filepath.Join(out, "index.caidx"), dir)
			if err != nil {
				return err
			}
			var size int64
			err = filepath.WalkDir(out, func(_ string, entry iofs.DirEntry, err error) error {
				if err != nil || !entry.Type().IsRegular() {
					return err
				}
				info, err := entry.Info()
				if err == nil {
					size += info.Size()
				}
				return err
			})
			return errors.Join(err, os.WriteFile(file, []byte(strconv.FormatInt(size, 10)), 0o644))
		})
	})
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}
