package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/nar"
	"github.com/narfs/narfs/nar/cas"
)

// ManyOptions of one ImportMany. The zero value is good.
type ManyOptions struct {
	// Holder, Compression and Pins are as in ImportOptions. Whoever gives the paths is trusted.
	Holder      string
	Compression cas.Compression
	Pins        *Pins
	// Parallel is how many paths are read at the same time; 0 means 1. It is for many small paths, which leave processors idle one by
	// one: one large path uses several.
	Parallel int
	// Start hears of each path whose contents are about to be read, Progress of the bytes of NARs that are, Done of each path
	// that became valid, Failed of each that did not for a reason that is its own. They may be nil. Start and Progress
	// are called concurrently, the others from different goroutines, each from one at a time.
	Start    func(nix.PathInfo)
	Progress func(n int)
	Done     func(nix.PathInfo)
	Failed   func(nix.PathInfo, error)
}

// SourceError says that what a path was to be read from could not be read.
type SourceError struct {
	Path string // in full
	Err  error
}

// Error implements error.
func (e *SourceError) Error() string { return fmt.Sprintf("path '%s': %v", e.Path, e.Err) }

// Unwrap gives the cause.
func (e *SourceError) Unwrap() error { return e.Err }

// MissingReferenceError says that a path was not imported because one that it refers to was not.
type MissingReferenceError struct{ Path, Reference string } // in full

// Error implements error.
func (e *MissingReferenceError) Error() string {
	return fmt.Sprintf("path '%s': it refers to '%s', which was not imported", e.Path, e.Reference)
}

// ImportMany makes paths valid whose NARs write writes. Infos come in order: what a path refers to before it, unless it is
// valid and pinned; an info with an error is of a path that cannot be had. Paths that are valid already are left as they are. The infos
// are asked for one at a time, and write is called concurrently.
//
// What is wrong with a single path, ends that path alone, and those that refer to it: Failed hears of it. Those are the errors that
// come with infos and from write, which are wrapped in *SourceError, *MismatchError, *RefusedError, *nar.FormatError and
// *MissingReferenceError. Other errors end all; then those paths are valid of which Done has heard.
func (s *Store) ImportMany(ctx context.Context, infos iter.Seq2[nix.PathInfo, error], write func(context.Context, nix.PathInfo, io.Writer) error, opts ManyOptions) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m := &many{
		s: s, ctx: ctx, q: s.newQueue(ctx, opts.Done), write: write, failed: map[nix.StorePath]struct{}{},
		opts: opts, imp: ImportOptions{Holder: opts.Holder, Compression: opts.Compression, Pins: opts.Pins},
	}
	parallel := max(opts.Parallel, 1)
	// A large path must not keep those behind it from being read; their trees are in memory meanwhile.
	order := make(chan *candidate, aheadPerReader*parallel)
	var readers sync.WaitGroup
	readers.Go(func() {
		defer close(order)
		slots := make(chan struct{}, parallel)
		for info, err := range infos {
			c := &candidate{info: info, err: err, ready: make(chan struct{})}
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			select {
			case order <- c:
			case <-ctx.Done():
				return
			}
			readers.Go(func() {
				defer close(c.ready)
				defer func() { <-slots }()
				m.read(c)
			})
		}
	})
	var err error
	for c := range order {
		<-c.ready
		if err == nil {
			if err = m.put(c); err != nil {
				cancel(err)
			}
		}
		if c.reg != nil {
			c.reg.end()
		}
	}
	readers.Wait()
	if qerr := m.q.close(); qerr != nil {
		err = qerr
	}
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}

// aheadPerReader is how many paths may be read, for each that is being read, while one before them still is.
const aheadPerReader = 8

// many is one ImportMany.
type many struct {
	s     *Store
	ctx   context.Context //nolint:containedctx // of the one call that it serves
	q     *queue
	write func(context.Context, nix.PathInfo, io.Writer) error
	opts  ManyOptions
	imp   ImportOptions // the same of each path

	failed map[nix.StorePath]struct{} // put's
}

// candidate is a path on its way.
type candidate struct {
	info  nix.PathInfo
	err   error // of this path alone
	fatal error
	ready chan struct{} // closed when the rest is there
	reg   *registration // nil if there is nothing to register
}

// read stages the contents of a path.
func (m *many) read(c *candidate) {
	if c.err != nil {
		return
	}
	if c.err = m.s.checkClaims(&c.info, m.imp); c.err != nil {
		return
	}
	m.imp.pin(c.info)
	m.q.pins.Add(c.info.Path) // also what is valid stays so: others refer to it
	valid, err := m.s.db.Has(c.info.Path)
	if err != nil || valid {
		c.fatal = err
		return
	}
	if m.opts.Start != nil {
		m.opts.Start(c.info)
	}
	ca := newCAHash(c.info)
	staged, err := m.s.ingestFrom(m.ctx, m.imp.staging(ca.tap()), func(w io.Writer) error {
		err := m.write(m.ctx, c.info, &countingWriter{w, m.opts.Progress})
		if err != nil && !errors.Is(err, errIngestEnded) {
			err = &SourceError{m.s.print(c.info.Path), err}
		}
		return err
	})
	if err == nil {
		if err = m.s.compare(m.ctx, &c.info, staged, ca); err != nil {
			staged.Discard()
		}
	}
	switch {
	case err == nil:
		c.reg = &registration{info: c.info, staged: staged}
	case m.ctx.Err() == nil && ofPathAlone(err):
		c.err = m.s.importError(c.info.Path, err)
	default:
		c.fatal = m.s.importError(c.info.Path, err)
	}
}

// ofPathAlone reports whether an error says nothing about other paths.
func ofPathAlone(err error) bool {
	var source *SourceError
	var mismatch *MismatchError
	var refused *RefusedError
	var format *nar.FormatError
	return errors.As(err, &source) || errors.As(err, &mismatch) || errors.As(err, &refused) || errors.As(err, &format) || errors.Is(err, errBehind)
}

// put hands a path that was read over to the queue. Its lock is taken now: so nobody holds one while he waits for a path
// before it.
func (m *many) put(c *candidate) error {
	if c.fatal != nil {
		return c.fatal
	}
	if c.err == nil && c.reg != nil {
		c.err = m.checkReferences(c.info)
	}
	if c.err != nil {
		m.failed[c.info.Path] = struct{}{}
		if m.opts.Failed != nil {
			m.opts.Failed(c.info, c.err)
		}
		return nil
	}
	if c.reg == nil {
		return nil
	}
	old, unlock, err := m.q.lock(c.info.Path, m.imp)
	if err != nil {
		return err
	}
	if old != nil {
		unlock() // somebody else was faster
		return nil
	}
	reg := c.reg
	reg.unlock, c.reg = unlock, nil
	return m.q.put(reg)
}

func (m *many) checkReferences(info nix.PathInfo) error {
	i := slices.IndexFunc(info.References, func(ref nix.StorePath) bool { _, ok := m.failed[ref]; return ok })
	if i < 0 {
		return nil
	}
	return &MissingReferenceError{m.s.print(info.Path), m.s.print(info.References[i])}
}
