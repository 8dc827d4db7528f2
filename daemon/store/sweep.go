package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/nar/cas"
)

// SweepOptions of one sweep. The zero value sweeps.
type SweepOptions struct {
	// DryRun only counts.
	DryRun bool
	// Compress also compresses what was stored lightly.
	Compress bool
	// Progress hears of the packs done; it may be nil.
	Progress func(done, total int)
}

// SweepResult says what a sweep did, or would do.
type SweepResult = cas.SweepResult

// Sweep gives the space of deleted paths back to the disk, as far as no other path and no handle needs it. The store can
// be used meanwhile, and an interrupted sweep does no harm.
func (s *Store) Sweep(ctx context.Context, opts SweepOptions) (SweepResult, error) {
	return s.content.Sweep(ctx, cas.SweepOptions{
		DryRun: opts.DryRun, Compress: opts.Compress, Progress: opts.Progress,
		Keep: func() ([]*cas.Object, error) { return s.handles.deleted(s.content) },
	})
}

// deleted returns the objects with handles that the content store no longer has.
func (h *handles) deleted(content *cas.Store) (objects []*cas.Object, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for hash, k := range h.kept {
		_, err := content.Object(hash)
		if err == nil {
			continue
		}
		if !errors.Is(err, cas.ErrNotFound) {
			return nil, err
		}
		objects = append(objects, k.object)
	}
	return objects, nil
}

// Stats of a store.
type Stats struct {
	cas.Stats

	Paths    int64 `json:"paths"`    // valid ones
	NarBytes int64 `json:"narBytes"` // the sum of their NARs' sizes
}

// Stats counts. It takes a while in a large store.
func (s *Store) Stats() (st Stats, err error) {
	if st.Paths, st.NarBytes, err = s.Totals(); err == nil {
		st.Stats, err = s.content.Stats()
	}
	if err != nil {
		err = fmt.Errorf("stats: %w", err)
	}
	return st, err
}

// Occupied returns the bytes of disk space that the store occupies. It takes no time to speak of.
func (s *Store) Occupied() (int64, error) {
	n, err := s.content.Occupied()
	if err != nil {
		return 0, fmt.Errorf("size of the store: %w", err)
	}
	return n, nil
}

// Usage is what paths occupy.
type Usage = cas.Usage

// Usage counts what each of paths occupies by itself, and calls each with it; the total counts what they share once. Each
// may be nil.
func (s *Store) Usage(ctx context.Context, paths []nix.StorePath, each func(nix.StorePath, Usage)) (total Usage, err error) {
	seen := cas.Seen{}
	for _, p := range paths {
		if ctx.Err() != nil {
			return total, context.Cause(ctx)
		}
		own, more, err := s.usage(p, seen, each != nil)
		if err != nil {
			return total, err
		}
		total.Logical += more.Logical
		total.Chunks += more.Chunks
		total.Unique += more.Unique
		total.Stored += more.Stored
		if each != nil {
			each(p, own)
		}
	}
	return total, nil
}

// usage counts a path: what it adds to seen, and what it occupies by itself if that is wanted.
func (s *Store) usage(p nix.StorePath, seen cas.Seen, wanted bool) (own, more Usage, err error) {
	o, err := s.Object(p)
	if err != nil {
		return own, more, err
	}
	defer o.Close()
	content, err := o.Content()
	if err == nil && wanted {
		own, err = content.Usage(nil)
	}
	if err == nil {
		more, err = content.Usage(seen)
	}
	if err != nil {
		err = fmt.Errorf("usage of path '%s': %w", s.print(p), err)
	}
	return own, more, err
}
