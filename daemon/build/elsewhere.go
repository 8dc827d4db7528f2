package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
	"github.com/narfs/narfs/internal/nixwire"
)

// Dialer begins a conversation with a machine. It ends with ctx, or Close.
type Dialer func(ctx context.Context, m Machine) (Session, error)

// Session is a conversation with the store of another machine. Its methods must not be called concurrently. After an error it is of no
// further use.
type Session interface {
	// Upload makes those of some valid paths of ours valid there that are not, as far as the other side lets us. All stay so until the
	// session ends. With substitute, they may come from elsewhere.
	Upload(ctx context.Context, paths []nix.StorePath, substitute bool) error
	// Build has a derivation built whose inputs were uploaded. When it returns, log has got all that the builder has said.
	Build(ctx context.Context, p nix.StorePath, d *drv.BasicDerivation, limits Limits, log io.Writer) (nixwire.BuildResult, error)
	// Fetch hands paths that are valid there to take, each behind what it refers to, which must read the NAR to its end. An error of take
	// is returned as it is.
	Fetch(paths []nix.StorePath, take func(info nix.PathInfo, nar io.Reader) error) error
	// Close ends it. After builds that were not interrupted it may be kept for the next one, if that is worth it.
	Close(keep bool)
}

// Limits of one build.
type Limits struct {
	Timeout    time.Duration // 0 means none, as below
	MaxSilent  time.Duration
	MaxLog     int64 // bytes
	KeepFailed bool
}

// lostError says that a machine could not do what was asked, whatever it was: it is not the build that has failed.
type lostError struct {
	err   error
	begun bool // there was a connection
}

// Error implements error.
func (e *lostError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *lostError) Unwrap() error { return e.err }

// elsewhere builds the derivation on another machine. The error is a *lostError if another may do better.
func (g *goal) elsewhere(ctx context.Context, m *Machine, start, closure []nix.StorePath) (outputs []Output, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer func() {
		if ctx.Err() != nil {
			err = context.Cause(ctx) // which has ended the session
		}
	}()
	s, err := g.b.opts.Dial(ctx, *m)
	if err != nil {
		return nil, &lostError{err: err}
	}
	keep := false
	defer func() { s.Close(keep && ctx.Err() == nil) }()
	g.tell(Event{Kind: EventStarted, Machine: m.Store})
	defer g.tell(Event{Kind: EventEnded})
	if err := g.upload(ctx, m, s, closure); err != nil {
		return nil, &lostError{fmt.Errorf("copying the inputs: %w", err), true}
	}
	d := g.d.BasicDerivation
	d.InputSrcs = nix.SortPaths(slices.Clone(start))
	log, err := g.b.newLog(g)
	if err != nil {
		return nil, err
	}
	log.limitSize(cancel)
	r, err := s.Build(ctx, g.path, &d, Limits{Timeout: g.o.Timeout, MaxSilent: g.o.MaxSilent, MaxLog: g.o.MaxLog, KeepFailed: g.o.KeepFailed}, log)
	if err != nil {
		err = &lostError{err, true}
	}
	if lerr := log.close(); err == nil {
		err = lerr
	}
	if err != nil {
		return nil, err
	}
	keep = true
	if r.Status > nixwire.AlreadyValid && r.Status != nixwire.ResolvesToAlreadyValid {
		why, note := errors.New(r.ErrorMsg), ""
		if rest, ok := strings.CutPrefix(r.ErrorMsg, errWrongHash.Error()); ok { // which no status tells
			why = fmt.Errorf("%w%s", errWrongHash, rest)
		}
		if g.o.KeepFailed {
			note = "\nnote: The failed build directory was kept on the remote builder due to `--keep-failed`."
		}
		return nil, fail(r.Status, "build of '%s' on '%s' failed: %w%s", g.b.print(g.path), m.Store, why, note)
	}
	outputs, err = g.fetch(ctx, s, r, closure)
	keep = err == nil
	return outputs, err
}

// upload copies the inputs to a machine: one goal after the other, for the next one may find there what this one has brought.
func (g *goal) upload(ctx context.Context, m *Machine, s Session, closure []nix.StorePath) error {
	b := g.b
	b.mu.Lock()
	turn := b.uploads[m.Store]
	if turn == nil {
		turn = make(chan struct{}, 1)
		b.uploads[m.Store] = turn
	}
	b.mu.Unlock()
	select {
	case turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-turn }()
	return s.Upload(ctx, closure, g.o.Substitute)
}

// fetch makes valid here what a machine has built, and returns it.
func (g *goal) fetch(ctx context.Context, s Session, r nixwire.BuildResult, closure []nix.StorePath) ([]Output, error) {
	b, dir := g.b, g.b.store.Dir()
	modulo, err := b.store.Modulo(ctx, g.d)
	if err != nil {
		return nil, err
	}
	var outputs []Output
	byPath := map[nix.StorePath]string{}
	allowed := map[nix.StorePath]struct{}{}
	for _, p := range closure {
		allowed[p] = struct{}{}
	}
	for _, name := range g.d.OutputNames() {
		p, err := g.d.Outputs[name].StorePath(dir, g.d.Name, name)
		if err == nil && p.IsZero() {
			p, err = builtPath(r, name)
		}
		if err != nil {
			return nil, fail(nixwire.OutputRejected, "output '%s' of '%s': %v", name, b.print(g.path), err)
		}
		outputs = append(outputs, Output{name, p, nix.Realisation{ID: nix.DrvOutput{Hash: modulo.Hash, Output: name}, OutPath: p}})
		byPath[p], allowed[p] = name, struct{}{}
	}
	paths := make([]nix.StorePath, 0, len(outputs))
	for _, out := range outputs {
		paths = append(paths, out.Path)
	}
	absent, err := missing(g.o.Pins, paths)
	if err != nil {
		return nil, err
	}
	refused := false
	err = s.Fetch(absent, func(info nix.PathInfo, nar io.Reader) error {
		err := g.accept(&info, byPath[info.Path], allowed)
		if err == nil {
			err = b.store.Import(ctx, info, nar, store.ImportOptions{Holder: g.o.Holder, Pins: g.o.Pins})
		}
		if err != nil {
			refused = true
			return fail(nixwire.OutputRejected, "output '%s' of '%s': %v", byPath[info.Path], b.print(g.path), err)
		}
		return nil
	})
	if err != nil && !refused {
		return nil, &lostError{fmt.Errorf("copying the outputs: %w", err), true}
	}
	if err != nil {
		return nil, err
	}
	for i := range outputs {
		if g.d.Outputs[outputs[i].Name].Kind == drv.Floating {
			if err := g.register(ctx, &outputs[i].Realisation); err != nil {
				return nil, err
			}
		}
	}
	if b.opts.Changed != nil {
		b.opts.Changed(ctx)
	}
	return outputs, nil
}

// builtPath returns where a machine says that an output is. What it calls the derivation differs between versions.
func builtPath(r nixwire.BuildResult, name string) (p nix.StorePath, err error) {
	for _, o := range r.Outputs {
		if _, output, _ := strings.Cut(o.ID, "!"); output != name {
			continue
		}
		realised, err := nix.ParseRealisation([]byte(o.Realisation))
		return realised.OutPath, err
	}
	return p, errors.New("the machine does not say where it is: content-addressed derivations need Nix 2.4 or newer there")
}

// missing pins those of some paths that are valid and returns the others, in their order.
func missing(pins *store.Pins, paths []nix.StorePath) (absent []nix.StorePath, err error) {
	valid, err := pins.AddValid(paths) // in the same order
	if err != nil {
		return nil, err
	}
	for _, p := range paths {
		if len(valid) > 0 && valid[0] == p {
			valid = valid[1:]
		} else {
			absent = append(absent, p)
		}
	}
	return absent, nil
}

// accept looks at what a machine says of an output, whose contents and content address the import compares, and makes it what this store
// says of it.
func (g *goal) accept(info *nix.PathInfo, name string, allowed map[nix.StorePath]struct{}) error {
	out := g.d.Outputs[name]
	for _, ref := range info.References {
		if _, ok := allowed[ref]; !ok {
			return fmt.Errorf("it refers to '%s', which is neither an input nor an output", g.b.print(ref))
		}
	}
	switch out.Kind {
	case drv.InputAddressed:
		info.CA = nix.ContentAddress{}
	case drv.Fixed:
		info.CA = out.CA
		if len(info.References) > 0 {
			return fmt.Errorf("fixed-output derivations must not reference store paths, such as '%s'", g.b.print(info.References[0]))
		}
	default:
		if info.CA.Method != out.Method || info.CA.Hash.IsZero() || info.CA.Hash.Algo() != out.Algo {
			return fmt.Errorf("its content address is '%v'", info.CA)
		}
		if want := drv.OutputPathName(g.d.Name, name); info.Path.Name() != want {
			return fmt.Errorf("it is called '%s' instead of '%s'", info.Path.Name(), want)
		}
	}
	info.Deriver, info.Ultimate = nix.StorePath{}, false
	if !g.path.IsZero() {
		info.Deriver = g.path
	}
	return nil
}
