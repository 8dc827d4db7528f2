package build

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
	"github.com/narfs/narfs/internal/nixwire"
)

// goal is a derivation that somebody wants outputs of.
type goal struct {
	b      *Builder
	path   nix.StorePath
	d      *drv.Derivation // nil until it is read
	given  bool            // by who wants it, with paths for inputs
	mode   Mode
	o      Settings // of who began it
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when result is there
	result Result

	mu      sync.Mutex // guards the rest
	hearers map[*hearer]struct{}
	past    []Event // for who comes late
	size    int     // bytes of past
}

// hearer is somebody who wants a goal, and is told what happens by a goroutine of his own: he may be slow, and others must not wait for
// him.
type hearer struct {
	events chan Event
	gone   chan struct{} // closed when he has left
	told   chan struct{} // closed when he has heard all
}

// hearerQueue is how many events may wait for somebody.
const hearerQueue = 1024

// maxPast bounds what is kept for who comes late.
const maxPast = 256 << 10

// join adds somebody who wants the goal, and will be told what has happened. Where heard is not nil, he wants to know when that is all.
func (g *goal) join(hear func(Event), heard func()) *hearer {
	g.mu.Lock()
	defer g.mu.Unlock()
	h := &hearer{events: make(chan Event, hearerQueue+len(g.past)), gone: make(chan struct{}), told: make(chan struct{})}
	for _, e := range g.past {
		h.events <- e
	}
	if g.hearers == nil {
		g.hearers = map[*hearer]struct{}{}
	}
	g.hearers[h] = struct{}{}
	go func() {
		defer close(h.told)
		for e := range h.events {
			hear(e)
			if heard != nil && len(h.events) == 0 {
				heard()
			}
		}
	}()
	return h
}

// leave takes somebody out and returns how many are left.
func (g *goal) leave(h *hearer) int {
	close(h.gone) // whoever waits for him holds the lock
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.hearers, h)
	close(h.events)
	return len(g.hearers)
}

// tell tells all who are there of something that happens in this goal.
func (g *goal) tell(e Event) {
	e.Path, e.seq = g.path, g.b.events.Add(1)
	g.pass(e)
}

// pass tells all who are there of something that happens here or in a goal that this one waits for. The builder waits for one who is
// slow if he is the only one; of several, each hears what he can.
func (g *goal) pass(e Event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.size += len(e.Line) + len(e.Data) + 64; g.size <= maxPast {
		g.past = append(g.past, e)
	}
	for h := range g.hearers {
		if len(g.hearers) == 1 {
			select {
			case h.events <- e:
			case <-h.gone:
			}
			continue
		}
		select {
		case h.events <- e:
		default: // too slow
		}
	}
}

// run works until there is a result.
func (g *goal) run(ctx context.Context, key goalKey) {
	defer close(g.done)
	defer func() {
		g.b.mu.Lock()
		defer g.b.mu.Unlock()
		if g.b.goals[key] == g {
			delete(g.b.goals, key)
		}
	}()
	defer func() {
		if what := recover(); what != nil {
			g.result = failed(nixwire.MiscFailure, "build of '%s': internal error: %v", g.b.print(g.path), what)
			g.b.opts.Logger.ErrorContext(ctx, "panic contained", "drv", g.path.BaseName(), "panic", what)
		}
	}()
	// The goal may outlive who began it.
	g.o.Pins = g.b.store.Pin("build of " + g.path.BaseName())
	defer g.o.Pins.Release()
	g.o.Hear, g.o.Heard = g.pass, nil
	g.result = g.work(ctx)
	if g.d != nil && !g.impure() {
		g.b.recordOutputs(ctx, g.result.Outputs, g.o)
	}
	if ctx.Err() != nil && !g.result.OK() {
		g.result = failed(nixwire.MiscFailure, "build of '%s' was interrupted: %v", g.b.print(g.path), context.Cause(ctx))
	}
}

func (g *goal) work(ctx context.Context) Result {
	b := g.b
	if g.d == nil {
		g.o.Pins.Add(g.path)
		d, err := b.store.Derivation(g.path)
		if err != nil {
			return failed(nixwire.MiscFailure, "%v", err)
		}
		g.d = d
	}
	r, ok := b.there(ctx, g.path, g.d, nil, g.o)
	switch kind, _ := g.d.Kind(); {
	case ok && (g.mode == Normal || !r.OK()):
		return r
	case !ok && g.mode == Check && kind != drv.Impure:
		return failed(nixwire.MiscFailure, "some outputs of '%s' are not valid, so checking is not possible", b.print(g.path))
	}
	inputs, r := g.inputs(ctx)
	if !r.OK() {
		return r
	}
	if resolved, ok := g.resolve(inputs); ok {
		return g.viaResolved(ctx, resolved)
	}
	return g.build(ctx, inputs)
}

// input is an output of an input derivation.
type input struct {
	drv   nix.StorePath
	name  string
	path  nix.StorePath
	later bool // its path was not known before it was built
}

// inputs has the input derivations realised.
func (g *goal) inputs(ctx context.Context) (all []input, r Result) {
	wanted := make([]Wanted, 0, len(g.d.InputDrvs))
	for _, p := range slices.SortedFunc(maps.Keys(g.d.InputDrvs), nix.StorePath.Compare) {
		if err := g.checkPure(p); err != nil {
			return nil, resultOf(err)
		}
		wanted = append(wanted, Wanted{p, g.d.InputDrvs[p]})
	}
	bad, cause, given := 0, "", ""
	for i, r := range g.b.Build(ctx, wanted, Normal, g.o) {
		if !r.OK() {
			bad++
			if strings.Contains(r.Cause, ErrGivenUp.Error()) {
				given = r.Cause
			} else if cause == "" {
				cause = r.Cause
			}
			continue
		}
		d, err := g.b.store.Derivation(wanted[i].Path)
		if err != nil {
			return nil, failed(nixwire.MiscFailure, "%v", err)
		}
		for _, out := range r.Outputs {
			kind := d.Outputs[out.Name].Kind
			all = append(all, input{wanted[i].Path, out.Name, out.Path, kind != drv.InputAddressed && kind != drv.Fixed})
		}
	}
	if bad > 0 {
		cause = cmp.Or(cause, given)
		r := failed(nixwire.DependencyFailed, "%d dependencies of derivation '%s' failed to build: %s", bad, g.b.print(g.path), cause)
		r.Cause = cause
		return nil, r
	}
	return all, Result{}
}

// checkPure refuses an input that is another each time, unless the output is the same all the same.
func (g *goal) checkPure(p nix.StorePath) error {
	own, err := g.d.Kind()
	if err != nil || own == drv.Impure || own == drv.Fixed {
		return err
	}
	d, err := g.b.store.Derivation(p)
	if err != nil {
		return err
	}
	if kind, err := d.Kind(); err != nil || kind == drv.Impure {
		return fail(nixwire.MiscFailure, "pure derivation '%s' depends on impure derivation '%s'", g.b.print(g.path), g.b.print(p))
	}
	return nil
}

// resolve returns the derivation with the paths of its inputs, if it does not know them all.
func (g *goal) resolve(inputs []input) (*drv.Derivation, bool) {
	dir := g.b.store.Dir()
	var pairs []string
	for _, in := range inputs {
		if in.later {
			pairs = append(pairs, upstreamPlaceholder(in.drv, in.name), dir.Path(in.path))
		}
	}
	if len(pairs) == 0 {
		return nil, false
	}
	rewrite := strings.NewReplacer(pairs...).Replace
	d := &drv.Derivation{BasicDerivation: g.d.BasicDerivation}
	d.Builder = rewrite(d.Builder)
	d.Args = slices.Clone(d.Args)
	for i := range d.Args {
		d.Args[i] = rewrite(d.Args[i])
	}
	d.Env = make(map[string]string, len(g.d.Env))
	for name, value := range g.d.Env {
		d.Env[rewrite(name)] = rewrite(value)
	}
	d.InputSrcs = slices.Clone(d.InputSrcs)
	for _, in := range inputs {
		d.InputSrcs = append(d.InputSrcs, in.path)
	}
	d.InputSrcs = nix.SortPaths(d.InputSrcs)
	d.Outputs = maps.Clone(d.Outputs)
	return d, true
}

// viaResolved waits for the goal of the derivation that this one is with the paths of its inputs.
func (g *goal) viaResolved(ctx context.Context, d *drv.Derivation) Result {
	b, dir := g.b, g.b.store.Dir()
	modulo, err := b.store.Modulo(ctx, d)
	if err != nil {
		return failed(nixwire.MiscFailure, "resolve '%s': %v", b.print(g.path), err)
	}
	for name, out := range d.Outputs {
		if out.Kind != drv.Deferred {
			continue
		}
		p, err := drv.OutputPath(dir, d.Name, name, modulo.Hash)
		if err != nil {
			return failed(nixwire.MiscFailure, "resolve '%s': %v", b.print(g.path), err)
		}
		d.Outputs[name] = drv.Output{Kind: drv.InputAddressed, Path: p}
		d.Env[name] = dir.Path(p)
	}
	file, err := d.File(dir)
	if err == nil {
		_, err = b.store.Add(ctx, bytes.NewReader(file.Text), store.AddOptions{
			Name: d.Name + drv.Extension, Method: nix.MethodText, References: file.References, Pins: g.o.Pins, Lazy: true, Holder: g.o.Holder,
		})
	}
	if err != nil {
		return failed(nixwire.MiscFailure, "resolve '%s': %v", b.print(g.path), err)
	}
	r := b.realise(ctx, file.Path, nil, nil, g.mode, g.o)
	if !r.OK() {
		return r
	}
	own, err := b.store.Modulo(ctx, g.d)
	if err != nil {
		return failed(nixwire.MiscFailure, "%v", err)
	}
	if g.impure() {
		return r
	}
	for i, out := range r.Outputs {
		realised := nix.Realisation{ID: nix.DrvOutput{Hash: own.Hash, Output: out.Name}, OutPath: out.Path}
		if err := g.register(ctx, &realised); err != nil {
			return failed(nixwire.MiscFailure, "%v", err)
		}
		r.Outputs[i].Realisation = realised
	}
	return r
}

// impure reports whether the outputs are others each time, so that nobody is told that they are there.
func (g *goal) impure() bool {
	kind, err := g.d.Kind()
	return err == nil && kind == drv.Impure
}

// register signs a realisation and records it.
func (g *goal) register(ctx context.Context, r *nix.Realisation) error {
	if err := g.o.sign(r); err != nil {
		return err
	}
	return g.b.store.RealiseAnew(ctx, *r)
}

// build builds the derivation, whose inputs are there.
func (g *goal) build(ctx context.Context, inputs []input) (r Result) {
	defer func() {
		if !r.OK() && ctx.Err() == nil {
			g.tell(Event{Kind: EventFailed, Why: &r})
		}
	}()
	place, err := g.placing()
	if err != nil {
		return failed(nixwire.MiscFailure, "%v", err)
	}
	start := append([]nix.StorePath(nil), g.d.InputSrcs...)
	for _, in := range inputs {
		start = append(start, in.path)
	}
	absent, err := missing(g.o.Pins, start)
	if err != nil {
		return failed(nixwire.MiscFailure, "%v", err)
	}
	if len(absent) > 0 {
		return failed(nixwire.MiscFailure, "input '%s' of '%s' is not valid", g.b.print(absent[0]), g.b.print(g.path))
	}
	closure, err := g.b.store.Closure(start...)
	if err != nil {
		return failed(nixwire.MiscFailure, "%v", err)
	}
	begun, lost := time.Now(), 0
	for {
		m, err := g.place(ctx, place)
		if err != nil {
			r := resultOf(err)
			if lost > 0 && ctx.Err() == nil {
				r.Status = nixwire.TransientFailure
			}
			return r
		}
		r, again := g.buildAt(ctx, m, start, closure, &lost)
		if again {
			continue
		}
		if r.OK() && g.o.PostBuildHook != "" && g.mode == Normal {
			if err := g.runHook(ctx, r.Outputs); err != nil {
				return failed(nixwire.MiscFailure, "%v", err)
			}
		}
		r.Times, r.Start, r.Stop = 1, begun, time.Now()
		return r
	}
}

// buildAt builds the derivation on a machine, or here, in the slot that it has, and gives that back. Again says that the machine, not the
// build, has failed, and another place is to be looked for: whatever is wrong before a build begins, and once if it had.
func (g *goal) buildAt(ctx context.Context, m *Machine, start, closure []nix.StorePath, lost *int) (r Result, again bool) {
	defer g.b.leave(m)
	if m == nil {
		return g.attempt(ctx, closure), false
	}
	outputs, err := g.elsewhere(ctx, m, start, closure)
	trouble, isLost := errors.AsType[*lostError](err)
	switch {
	case err == nil:
		return Result{Status: nixwire.Built, Outputs: outputs}, false
	case !isLost || ctx.Err() != nil:
		return resultOf(err), false
	}
	if trouble.begun {
		*lost++
	}
	g.o.troubles.add(m, err)
	text := fmt.Sprintf("cannot build on '%s': %v", m.Store, err)
	if *lost > 1 {
		return failed(nixwire.TransientFailure, "%s", text), false
	}
	g.tell(Event{Kind: EventLine, Line: text})
	return Result{}, true
}

// statusError is the failure of a build.
type statusError struct {
	status nixwire.Status
	err    error
}

// Error implements error.
func (e *statusError) Error() string { return e.err.Error() }

func fail(status nixwire.Status, format string, args ...any) error {
	return &statusError{status, fmt.Errorf(format, args...)}
}

func resultOf(err error) Result {
	if s, ok := errors.AsType[*statusError](err); ok {
		r := failed(s.status, "%v", s.err)
		r.WrongHash = errors.Is(s.err, errWrongHash)
		return r
	}
	return failed(nixwire.MiscFailure, "%v", err)
}

// runHook runs the program that is to hear of what was built.
func (g *goal) runHook(ctx context.Context, outputs []Output) error {
	paths := make([]string, 0, len(outputs))
	for _, out := range outputs {
		paths = append(paths, g.b.print(out.Path))
	}
	if err := g.b.store.Flush(ctx); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, g.o.PostBuildHook)
	cmd.Env = os.Environ()
	if os.Getenv("NIX_REMOTE") == "" && g.b.opts.Remote != "" {
		cmd.Env = append(cmd.Env, "NIX_REMOTE="+g.b.opts.Remote) // Nix's commands would take the store directory for theirs
	}
	cmd.Env = append(cmd.Env, "DRV_PATH="+g.b.print(g.path), "OUT_PATHS="+strings.Join(paths, " "))
	out, err := cmd.CombinedOutput()
	for line := range strings.SplitSeq(strings.TrimSuffix(string(out), "\n"), "\n") {
		if line != "" {
			g.tell(Event{Kind: EventLine, Line: "post-build-hook: " + line})
		}
	}
	if err != nil {
		return fmt.Errorf("post-build-hook '%s' of '%s': %w", g.o.PostBuildHook, g.b.print(g.path), err)
	}
	return nil
}
