package store

import (
	"context"
	"fmt"
	"io"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/nar/cas"
)

// CopyOptions of one Copy. The zero value is good.
type CopyOptions struct {
	// RequireSignature and Keys are as in ImportOptions.
	RequireSignature bool
	Keys             []nix.PublicKey
	// Repair copies the contents of paths that are valid in dst, too.
	Repair bool
	// Compression of what is new to dst.
	Compression cas.Compression
	// Start hears of each path whose contents are about to be copied, Progress of the bytes of NARs that are, Done of each path
	// that became valid. They may be nil, and are called from different goroutines, each from one at a time.
	Start    func(nix.PathInfo)
	Progress func(n int)
	Done     func(nix.PathInfo)
}

// Missing returns those of paths that are not valid, in their order.
func (s *Store) Missing(paths []nix.StorePath) (missing []nix.StorePath, err error) {
	for _, p := range paths {
		ok, err := s.db.Has(p)
		if err != nil {
			return nil, err
		}
		if !ok {
			missing = append(missing, p)
		}
	}
	return missing, nil
}

// Copy makes paths of src valid in dst, which must have the same store directory. What they refer to must be among them
// or valid in dst: see Closure. They are pinned in src meanwhile. All that is known about a path is copied, but for its
// having been built here. After an error some of the paths may be valid.
func Copy(ctx context.Context, dst, src *Store, paths []nix.StorePath, opts CopyOptions) error {
	if dst.storeDir != src.storeDir {
		return fmt.Errorf("copy: paths of %s cannot be copied to a store for %s", src.storeDir, dst.storeDir)
	}
	pins := src.Pin("copy to " + dst.dir)
	defer pins.Release()
	pins.Add(paths...)
	sorted, err := src.Sorted(paths)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	q := dst.newQueue(ctx, opts.Done)
	for _, p := range sorted {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		} else {
			err = q.copy(src, p, opts)
		}
		if err != nil {
			err = fmt.Errorf("copy path '%s': %w", src.print(p), err)
			break
		}
	}
	if qerr := q.close(); qerr != nil {
		err = fmt.Errorf("copy: %w", qerr)
	}
	return err
}

func (q *queue) copy(src *Store, p nix.StorePath, opts CopyOptions) error {
	imp := ImportOptions{
		Holder: "copy from " + src.dir, RequireSignature: opts.RequireSignature, Keys: opts.Keys, Repair: opts.Repair, Compression: opts.Compression,
	}
	old, unlock, err := q.lock(p, imp)
	if err != nil {
		return err
	}
	if old != nil && !opts.Repair {
		unlock()
		return nil
	}
	queued := false
	defer func() {
		if !queued {
			unlock()
		}
	}()
	info, err := src.PathInfo(p)
	if err != nil {
		return err
	}
	info.Ultimate = false
	if err := q.s.checkClaims(&info, imp); err != nil {
		return err
	}
	if opts.Start != nil {
		opts.Start(info)
	}
	reg := &registration{info: info, unlock: unlock}
	ca := newCAHash(info)
	reg.staged, err = q.s.ingestFrom(q.ctx, imp.staging(ca.tap()), func(w io.Writer) error {
		return src.WriteNAR(q.ctx, p, &countingWriter{w, opts.Progress})
	})
	if err != nil {
		return err
	}
	if err = q.s.compare(q.ctx, &reg.info, reg.staged, ca); err == nil && old != nil {
		err = q.s.putAgain(q.ctx, reg.staged)
	}
	if err != nil || old != nil {
		reg.staged.Discard()
		return err
	}
	queued = true
	return q.put(reg)
}

type countingWriter struct {
	w     io.Writer
	count func(int)
}

// Write implements io.Writer.
func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	if c.count != nil {
		c.count(n)
	}
	return n, err
}
