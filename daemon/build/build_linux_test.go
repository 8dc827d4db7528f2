package build_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/daemon/build"
	"github.com/narfs/narfs/daemon/build/builtin"
	"github.com/narfs/narfs/daemon/build/sandbox"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
	"github.com/narfs/narfs/internal/nixwire"
	"github.com/narfs/narfs/tests/env"
)

func TestMain(m *testing.M) {
	code, ran := builtin.Main(os.Args)
	if filepath.Base(os.Args[0]) == filepath.Base(attacker) {
		code, ran = attack(os.Args[1:]), true
	}
	if ran {
		os.Exit(code) //nolint:forbidigo // this is main
	}
	m.Run()
}

// bench is a store with a builder, whose derivations have no inputs: nothing is mounted.
type bench struct {
	s *store.Store
	b *build.Builder
}

func newBench(t *testing.T) *bench {
	t.Helper()
	if err := sandbox.Available(t.Context()); err != nil {
		t.Skipf("needs a kernel that lets this user sandbox: %v", err)
	}
	s, err := store.Open(t.TempDir(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	empty, run := t.TempDir(), t.TempDir()
	env.OpenTo(t, run)
	b, err := build.New(s, build.Options{
		Mount: func(context.Context) (string, error) { return empty, nil }, LogDir: filepath.Join(s.StateDir(), "log"), RunDir: run,
	})
	if err != nil {
		t.Fatal(err)
	}
	return &bench{s, b}
}

// derivation is one that runs a script.
func derivation(name, script string) *drv.Derivation {
	return &drv.Derivation{BasicDerivation: drv.BasicDerivation{
		Name: name, Outputs: map[string]drv.Output{"out": {Kind: drv.Floating, Method: nix.MethodNAR, Algo: nix.SHA256}},
		Platform: "here", Builder: "/bin/sh", Args: []string{"-c", script},
		Env: map[string]string{"name": name, "out": build.OutputPlaceholder("out"), "PATH": "/bin:/usr/bin"},
	}, InputDrvs: map[nix.StorePath][]string{}}
}

// put adds a derivation that runs a script.
func (k *bench) put(t *testing.T, name, script string, inputs ...nix.StorePath) nix.StorePath {
	t.Helper()
	d := derivation(name, script)
	for _, in := range inputs {
		d.InputDrvs[in] = []string{"out"}
	}
	return k.add(t, d)
}

func (k *bench) add(t *testing.T, d *drv.Derivation) nix.StorePath {
	t.Helper()
	file, err := d.File(k.s.Dir())
	if err == nil {
		_, err = k.s.Add(t.Context(), strings.NewReader(string(file.Text)), store.AddOptions{
			Name: d.Name + drv.Extension, Method: nix.MethodText, References: file.References,
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return file.Path
}

// client is somebody who wants builds.
type client struct {
	mu     sync.Mutex
	lines  []string
	others []build.Event // but for output
	heard  chan struct{} // closed at the first line
	once   sync.Once
}

// said returns the lines that he has heard.
func (c *client) said() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.lines)
}

func (k *bench) want(ctx context.Context, t *testing.T, c *client, p nix.StorePath, changes ...func(*build.Settings)) build.Result {
	t.Helper()
	c.heard = make(chan struct{})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	pins := k.s.Pin("test")
	defer pins.Release()
	o := build.Settings{
		MaxJobs: 4, Cores: 1, Sandboxed: true, System: "here", LogLines: 5, Pins: pins, ImpureEnv: os.Getenv,
		SandboxPaths: []string{"/bin", "/usr/bin", "/lib?", "/lib64?", "/usr/lib", "/usr/lib64?", attacker + "=" + self},
		Hear: func(e build.Event) {
			c.mu.Lock()
			defer c.mu.Unlock()
			switch e.Kind {
			case build.EventLine:
				c.lines = append(c.lines, e.Line)
				c.once.Do(func() { close(c.heard) })
			case build.EventOutput:
			default:
				c.others = append(c.others, e)
			}
		},
	}
	for _, change := range changes {
		change(&o)
	}
	return k.b.Build(ctx, []build.Wanted{{Path: p}}, build.Normal, o)[0]
}

// A builder that the sandbox does not have: what it has of this machine is said, and else only what is wrong.
func TestNoBuilder(t *testing.T) {
	t.Parallel()
	k := newBench(t)
	for builder, want := range map[string]string{
		"/no/such": "executing '/no/such': no such file or directory (of this machine, builders see what sandbox-paths lists)",
		"/bin":     "executing '/bin': permission denied",
	} {
		d := derivation("absent", "")
		d.Builder = builder
		r := k.want(t.Context(), t, &client{}, k.add(t, d))
		if r.Status != nixwire.PermanentFailure || !strings.HasSuffix(r.Err, want) {
			t.Errorf("%v: %s; want %q", r.Status, r.Err, want)
		}
	}
}

// Who wants to know when he has heard all that has happened is told: also while the builder is silent, and at the end.
func TestHeard(t *testing.T) {
	t.Parallel()
	k := newBench(t)
	p := k.put(t, "heard", "seq 5000; exec sleep 1000")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := &client{}
	var heard int // lines, under c.mu
	k.want(ctx, t, c, p, func(o *build.Settings) {
		o.Heard = func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			if heard = len(c.lines); heard == 5000 {
				cancel()
			}
		}
	})
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) || heard != 5000 {
		t.Errorf("heard %d of %d lines: %v; want to know of 5000 while the builder is silent", heard, len(c.said()), err)
	}
}

// Two who want one derivation: it is built once, both get it, and both hear its log, also who comes late.
func TestShared(t *testing.T) {
	t.Parallel()
	k := newBench(t)
	p := k.put(t, "shared", "echo begun; sleep 1; echo done; head -c 8 /dev/urandom | od > $out")
	clients := []*client{{}, {}}
	results := make([]build.Result, 2)
	var all sync.WaitGroup
	for i, c := range clients {
		all.Go(func() { results[i] = k.want(t.Context(), t, c, p) })
	}
	all.Wait()
	for i, r := range results {
		if !r.OK() || len(r.Outputs) != 1 || r.Outputs[0].Path != results[0].Outputs[0].Path {
			t.Errorf("client %d: %+v; want the same as the other", i, r)
		}
		if got := strings.Join(clients[i].lines, " "); got != "begun done" {
			t.Errorf("client %d heard %q", i, got)
		}
	}
}

// Who leaves takes nothing from who stays; when the last one leaves, the builder ends, and its folder goes.
func TestLeave(t *testing.T) {
	t.Parallel()
	k := newBench(t)
	p := k.put(t, "long", "echo begun; while true; do sleep 1; done")
	first, second := &client{}, &client{}
	ctx1, leave1 := context.WithCancel(t.Context())
	ctx2, leave2 := context.WithCancel(t.Context())
	defer leave1()
	defer leave2()
	done1, done2 := make(chan build.Result, 1), make(chan build.Result, 1)
	go func() { done1 <- k.want(ctx1, t, first, p) }()
	go func() { done2 <- k.want(ctx2, t, second, p) }()
	wait(t, "both hear", func() bool {
		heard := true
		for _, c := range []*client{first, second} {
			c.mu.Lock()
			heard = heard && len(c.lines) > 0
			c.mu.Unlock()
		}
		return heard
	})
	leave1()
	if r := <-done1; r.OK() {
		t.Errorf("who has left has %+v", r)
	}
	select {
	case r := <-done2:
		t.Fatalf("who stays has %+v", r)
	case <-time.NewTimer(200 * time.Millisecond).C:
	}
	leave2()
	begun := time.Now()
	<-done2
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	wait(t, "the folder goes", func() bool {
		left, err := os.ReadDir(filepath.Join(k.s.StateDir(), "builds"))
		return err == nil && len(left) == 0
	})
}

// patience is for what should take a moment.
const patience = 30 * time.Second

func wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for begun := time.Now(); !done(); <-tick.C {
		if time.Since(begun) > patience {
			t.Fatalf("waiting in vain until %s", what)
		}
	}
}

// A failure is told once, however long the chain of those that depend on it, and by its cause.
func TestFailures(t *testing.T) {
	t.Parallel()
	k := newBench(t)
	p := k.put(t, "bad", "echo why; exit 7")
	for range 5 {
		p = k.put(t, "above", "echo never", p)
	}
	c := &client{}
	r := k.want(t.Context(), t, c, p)
	if r.Status != nixwire.DependencyFailed || strings.Count(r.Err, "failed to build") != 1 || !strings.Contains(r.Err, "failed with exit code 7") {
		t.Errorf("result %v: %s", r.Status, r.Err)
	}
	if got := strings.Join(c.lines, " "); got != "why" {
		t.Errorf("heard %q", got)
	}
}

// What happens is told: when a builder runs, which phase it is in, and why it could not be built, once, however many wait for it.
func TestEvents(t *testing.T) {
	t.Parallel()
	k := newBench(t)
	p := k.put(t, "phases", `echo '@nix {"action":"setPhase","phase":"first"}'; echo '@nix {"action":"setPhase","phase":}'; echo '@nix {"action":"msg"}'; exit 7`)
	p = k.put(t, "above", "echo never", p)
	c := &client{}
	r := k.want(t.Context(), t, c, p)
	var got []string
	for _, e := range c.others {
		text := fmt.Sprint(e.Kind, " ", e.Path.Name(), " ", e.Line)
		if e.Why != nil {
			text += e.Why.Err
			if e.Why.Cause != r.Cause {
				t.Errorf("cause %q; want that of the result, %q", e.Why.Cause, r.Cause)
			}
		}
		got = append(got, strings.ReplaceAll(text, k.s.Dir().Path(e.Path), "IT"))
	}
	want := []string{
		fmt.Sprint(build.EventStarted, " phases.drv "), fmt.Sprint(build.EventPhase, " phases.drv first"), fmt.Sprint(build.EventEnded, " phases.drv "),
		fmt.Sprint(build.EventFailed, " phases.drv builder for 'IT' failed with exit code 7;\nlast 2 log lines:\n> @nix {\"action\":\"setPhase\",\"phase\":}\n"+
			"> @nix {\"action\":\"msg\"}\nFor full logs, run 'nix log IT'."),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	// What no builder runs for fails, too.
	c = &client{}
	other := &drv.Derivation{BasicDerivation: drv.BasicDerivation{
		Name: "other", Outputs: map[string]drv.Output{"out": {Kind: drv.Floating, Method: nix.MethodNAR, Algo: nix.SHA256}}, Platform: "elsewhere", Builder: "/bin/sh",
	}}
	if r := k.want(t.Context(), t, c, k.add(t, other)); len(c.others) != 1 || c.others[0].Kind != build.EventFailed || c.others[0].Why.Err != r.Err {
		t.Errorf("events %+v; want one with %q", c.others, r.Err)
	}
}

func TestWrongHash(t *testing.T) {
	t.Parallel()
	k := newBench(t)
	sum, err := nix.NewHash(nix.SHA256, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	d := &drv.Derivation{BasicDerivation: drv.BasicDerivation{
		Name: "fixed", Outputs: map[string]drv.Output{"out": {Kind: drv.Fixed, CA: nix.ContentAddress{Method: nix.MethodFlat, Hash: sum}}},
		Platform: "here", Builder: "/bin/sh", Args: []string{"-c", "echo other > $out"}, Env: map[string]string{},
	}}
	out, err := d.Outputs["out"].StorePath(k.s.Dir(), "fixed", "out")
	if err != nil {
		t.Fatal(err)
	}
	d.Env["out"] = k.s.Dir().Path(out)
	r := k.want(t.Context(), t, &client{}, k.add(t, d))
	if !r.WrongHash || r.Status != nixwire.OutputRejected || !strings.HasPrefix(r.Err, "hash mismatch in fixed-output derivation '") {
		t.Errorf("result %+v", r)
	}
	if r := k.want(t.Context(), t, &client{}, k.put(t, "nothing", "exit 0")); r.WrongHash || r.Status != nixwire.OutputRejected {
		t.Errorf("of one that makes nothing: %+v", r)
	}
}

// Logs are found in all the places where Nix keeps them, and what is damaged is no end of one.
func TestOpenLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	read := func(p nix.StorePath) (string, error) {
		log, err := build.OpenLog(dir, p)
		if err != nil {
			return "", err
		}
		defer log.Close() //nolint:errcheck // only read
		text, err := io.ReadAll(log)
		return string(text), err
	}
	for i, name := range []string{"compressed", "all in one folder", "as it is"} {
		p, err := nix.ParseBaseName(strings.Repeat("a", 32) + fmt.Sprintf("-%d.drv", i))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := read(p); !errors.Is(err, build.ErrNoLog) {
			t.Errorf("OpenLog before there is one = %v; want ErrNoLog", err)
		}
		w, err := build.NewLogWriter(dir, p)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.WriteString(w, "text\n")
		if err = errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		compressed := build.LogFile(dir, p)
		switch name {
		case "all in one folder":
			err = os.Rename(compressed, filepath.Join(dir, "drvs", p.BaseName()+".bz2"))
		case "as it is":
			err = errors.Join(os.Remove(compressed), os.WriteFile(strings.TrimSuffix(compressed, ".bz2"), []byte("text\n"), 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
		if text, err := read(p); err != nil || text != "text\n" {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
	p, err := nix.ParseBaseName(strings.Repeat("a", 32) + "-0.drv")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(build.LogFile(dir, p), 20); err != nil {
		t.Fatal(err)
	}
	if text, err := read(p); err == nil {
		t.Errorf("a damaged log reads as %q", text)
	}
}
