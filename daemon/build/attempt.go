package build

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/narfs/narfs/daemon/build/builtin"
	"github.com/narfs/narfs/daemon/build/sandbox"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
	"github.com/narfs/narfs/internal/nixwire"
)

// outputPlaceholder is what stands in a derivation for the path of an output of its own that is not known before it is built.
func outputPlaceholder(name string) string {
	sum := sha256.Sum256([]byte("nix-output:" + name))
	return "/" + nix.EncodeNix32(sum[:])
}

// upstreamPlaceholder is what stands in a derivation for the path of an output of an input, which is not known before that is built.
func upstreamPlaceholder(p nix.StorePath, name string) string {
	drvName, _ := strings.CutSuffix(p.Name(), drv.Extension)
	sum := sha256.Sum256([]byte("nix-upstream-output:" + p.HashPart() + ":" + drv.OutputPathName(drvName, name)))
	return "/" + nix.EncodeNix32(sum[:])
}

// buildDirInside is where a sandboxed builder finds its build directory.
const buildDirInside = "/build"

// attempt is one run of a builder.
type attempt struct {
	g       *goal
	closure []nix.StorePath // what it sees
	scratch string          // STATE/builds/…
	inside  string          // the build directory as the builder sees it
	kind    drv.Kind
	sandbox bool                     // it sees its inputs only
	paths   map[string]nix.StorePath // of outputs, as the builder is to make them
	rewrite func(string) string      // placeholders
	log     *buildLog
	user    user // as whom the builder runs
	cpu     *sandbox.CPUTime
}

func (g *goal) attempt(ctx context.Context, closure []nix.StorePath) Result {
	a := &attempt{g: g, closure: closure, paths: map[string]nix.StorePath{}}
	var err error
	if a.user, err = g.b.takeUser(ctx, g.o.Users); err != nil {
		return resultOf(err)
	}
	defer a.user.give()
	defer func() {
		if a.scratch == "" {
			return
		}
		if err := removeTree(a.scratch); err != nil {
			g.b.opts.Logger.WarnContext(ctx, "what a build has left cannot be removed", "dir", a.scratch, "err", err)
		}
	}()
	outputs, err := a.run(ctx)
	if err != nil {
		r := resultOf(err)
		r.CPU = a.cpu
		if g.o.KeepFailed && a.scratch != "" && ctx.Err() == nil {
			if dir, err := a.keep(); err != nil {
				r.Err += fmt.Sprintf("\nnote: the build directory cannot be kept: %v", err)
			} else {
				r.Err += fmt.Sprintf("\nnote: keeping build directory '%s'", dir)
			}
		}
		return r
	}
	return Result{Status: nixwire.Built, Outputs: outputs, CPU: a.cpu}
}

func (a *attempt) run(ctx context.Context) ([]Output, error) {
	g := a.g
	if err := a.prepare(); err != nil {
		return nil, err
	}
	log, err := g.b.newLog(g)
	if err != nil {
		return nil, err
	}
	a.log = log
	g.tell(Event{Kind: EventStarted})
	defer g.tell(Event{Kind: EventEnded})
	err = a.runBuilder(ctx)
	if lerr := log.close(); err == nil {
		err = lerr
	}
	if err != nil {
		return nil, err
	}
	return a.takeOver(ctx)
}

// prepare makes the scratch folders and decides where outputs are made.
func (a *attempt) prepare() (err error) {
	g := a.g
	if a.kind, err = g.d.Kind(); err != nil {
		return err
	}
	noChroot := g.d.Env["__noChroot"] == "1"
	a.sandbox = g.o.Sandboxed
	if g.o.Relaxed {
		a.sandbox = !noChroot && !a.network()
	} else if a.sandbox && noChroot {
		return fail(nixwire.MiscFailure, "derivation '%s' has '__noChroot' set, but that's not allowed when 'sandbox' is 'true'", g.b.print(g.path))
	}
	if err := os.MkdirAll(g.b.dir, 0o700); err != nil {
		return err
	}
	if a.scratch, err = os.MkdirTemp(g.b.dir, g.d.Name+"-"); err != nil {
		return err
	}
	for _, name := range []string{"build", "out"} {
		dir := filepath.Join(a.scratch, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		if err := a.user.own(dir); err != nil {
			return err
		}
	}
	a.inside = filepath.Join(a.scratch, "build")
	switch {
	case a.sandbox:
		a.inside = buildDirInside
	case a.user.lock != nil && runtime.GOOS == "linux": // it could not reach its folder by the host's path
		a.inside = filepath.Join(g.b.opts.RunDir, "build")
	}
	var pairs []string
	for _, name := range g.d.OutputNames() {
		p, err := g.d.Outputs[name].StorePath(g.b.store.Dir(), g.d.Name, name)
		if err == nil && p.IsZero() {
			p, err = freshPath(drv.OutputPathName(g.d.Name, name))
		}
		if err != nil {
			return err
		}
		a.paths[name] = p
		pairs = append(pairs, outputPlaceholder(name), g.b.print(p))
	}
	a.rewrite = strings.NewReplacer(pairs...).Replace
	return nil
}

// freshPath returns a path that no store has: that of an output before it is known.
func freshPath(name string) (nix.StorePath, error) {
	var random [20]byte
	_, _ = rand.Read(random[:]) // never fails
	return nix.ParseBaseName(nix.EncodeNix32(random[:]) + "-" + name)
}

// environment returns what the builder gets as its environment, after it has written the files that belong to it.
func (a *attempt) environment() ([]string, error) {
	g := a.g
	env := map[string]string{
		"PATH": "/path-not-set", "HOME": "/homeless-shelter", "NIX_STORE": string(g.b.store.Dir()),
		"NIX_BUILD_CORES": fmt.Sprint(g.o.Cores),
	}
	if _, structured := g.d.Env["__json"]; structured {
		if err := a.structured(env); err != nil {
			return nil, err
		}
	} else {
		asFile := strings.Fields(g.d.Env["passAsFile"])
		for name, value := range g.d.Env {
			if !slices.Contains(asFile, name) {
				env[name] = value
				continue
			}
			sum := sha256.Sum256([]byte(name))
			file := ".attr-" + nix.EncodeNix32(sum[:])
			if err := a.writeFile(file, a.rewrite(value)); err != nil {
				return nil, err
			}
			env[name+"Path"] = filepath.Join(a.inside, file)
		}
		if err := a.exportGraph(); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{"NIX_BUILD_TOP", "TMPDIR", "TEMPDIR", "TMP", "TEMP", "PWD"} {
		env[name] = a.inside
	}
	if a.kind == drv.Fixed {
		env["NIX_OUTPUT_CHECKED"] = "1"
	}
	if a.network() && g.o.ImpureEnv != nil {
		for name := range strings.FieldsSeq(g.d.Env["impureEnvVars"]) {
			env[name] = g.o.ImpureEnv(name)
		}
	}
	if g.d.Builder == "builtin:fetchurl" && g.o.Mirrors != "" {
		env[builtin.EnvMirrors] = g.o.Mirrors
	}
	env["NIX_LOG_FD"], env["TERM"] = "2", "xterm-256color"
	list := make([]string, 0, len(env))
	for name, value := range env {
		list = append(list, a.rewrite(name)+"="+a.rewrite(value))
	}
	slices.Sort(list)
	return list, nil
}

// writeFile puts a file into the build directory, before the builder runs.
func (a *attempt) writeFile(name, text string) error {
	name = filepath.Join(a.scratch, "build", name)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		return err
	}
	return a.user.own(name)
}

// keep puts the build directory, which the builder has left, where others may look at it, and returns where that is.
func (a *attempt) keep() (dir string, err error) {
	kept := a.g.b.keptDir()
	if err := os.MkdirAll(kept, 0o711); err != nil { //nolint:gosec // who knows a name may look
		return "", err
	}
	dir = filepath.Join(kept, filepath.Base(a.scratch))
	from := filepath.Join(a.scratch, "build")
	return dir, errors.Join(os.Chmod(from, 0o755), os.Rename(from, dir)) //nolint:gosec // as said
}

// network reports whether the builder may use the network.
func (a *attempt) network() bool { return a.kind == drv.Fixed || a.kind == drv.Impure }

func (a *attempt) binds() (all []sandbox.Bind) {
	if !a.sandbox {
		return nil
	}
	for _, text := range a.g.o.SandboxPaths {
		text, optional := strings.CutSuffix(text, "?")
		target, source, ok := strings.Cut(text, "=")
		if !ok {
			source = target
		}
		all = append(all, sandbox.Bind{Source: source, Target: target, Optional: optional})
	}
	return all
}

func (a *attempt) runBuilder(ctx context.Context) error {
	g := a.g
	env, err := a.environment()
	if err != nil {
		return err
	}
	program, args := a.rewrite(g.d.Builder), make([]string, 0, len(g.d.Args))
	for _, arg := range g.d.Args {
		args = append(args, a.rewrite(arg))
	}
	if g.d.IsBuiltin() {
		if !slices.Contains(builtin.Names(), g.d.Builder) {
			return fail(nixwire.MiscFailure, "unsupported builtin builder '%s'", strings.TrimPrefix(g.d.Builder, "builtin:"))
		}
		program, args = builtin.Program, []string{g.d.Builder}
	}
	mount, err := g.b.opts.Mount(ctx)
	if err != nil {
		return fmt.Errorf("no mount to build from: %w", err)
	}
	spec := sandbox.Spec{
		Sandboxed: a.sandbox, StoreDir: string(g.b.store.Dir()), StoreMount: mount, Outputs: filepath.Join(a.scratch, "out"),
		BuildDir: filepath.Join(a.scratch, "build"), BuildDirInside: a.inside, Binds: a.binds(),
		Builder: program, Args: args, Env: env, Dir: a.inside, UID: a.user.uid, GID: a.user.gid, Network: a.network() || !a.sandbox, Log: a.log,
	}
	if g.o.Cgroups {
		a.cpu = &sandbox.CPUTime{}
		spec.Cgroup, spec.CPU = true, a.cpu
	}
	for _, p := range a.closure {
		spec.Inputs = append(spec.Inputs, p.BaseName())
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer a.log.limit(ctx, cancel, g)()
	exit, err := sandbox.Run(ctx, spec)
	return a.outcome(ctx, program, exit, err)
}

// outcome is nil if a builder has ended well, else what went wrong.
func (a *attempt) outcome(ctx context.Context, program string, exit sandbox.Exit, err error) error {
	g := a.g
	if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil {
		return cause
	}
	if errors.Is(err, sandbox.ErrBuilder) {
		why, hint := err, ""
		if number, ok := errors.AsType[syscall.Errno](err); ok {
			why = number
		}
		if errors.Is(err, syscall.ENOENT) && a.sandbox && !strings.HasPrefix(program, string(g.b.store.Dir())+"/") {
			hint = " (of this machine, builders see what sandbox-paths lists)"
		}
		return fail(nixwire.PermanentFailure, "builder for '%s' failed: executing '%s': %v%s", g.b.print(g.path), program, why, hint)
	}
	if err != nil {
		return fmt.Errorf("builder for '%s': %w", g.b.print(g.path), err)
	}
	if exit == (sandbox.Exit{}) {
		return nil
	}
	text := fmt.Sprintf("builder for '%s' %v", g.b.print(g.path), exit)
	if tail := a.log.tail(); len(tail) > 0 {
		text += fmt.Sprintf(";\nlast %d log lines:\n> %s\n", len(tail), strings.Join(tail, "\n> "))
		text += fmt.Sprintf("For full logs, run '%s %s'.", LogCommand, g.b.print(g.path))
	}
	status := nixwire.PermanentFailure
	if a.network() {
		status = nixwire.TransientFailure
	}
	return &statusError{status, errors.New(text)}
}
