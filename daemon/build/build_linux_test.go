package build_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/narfs/narfs/daemon/build"
	"github.com/narfs/narfs/daemon/build/sandbox"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
	"github.com/narfs/narfs/internal/nixwire"
)

func TestMain(m *testing.M) {
	sandbox.Main() // this test is what its sandboxes run
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
	empty := t.TempDir()
	b, err := build.New(s, build.Options{Mount: func(context.Context) (string, error) { return empty, nil }, LogDir: filepath.Join(s.StateDir(), "log")})
	if err != nil {
		t.Fatal(err)
	}
	return &bench{s, b}
}

// put adds a derivation that runs a script.
func (k *bench) put(t *testing.T, name, script string, inputs ...nix.StorePath) nix.StorePath {
	t.Helper()
	d := &drv.Derivation{BasicDerivation: drv.BasicDerivation{
		Name: name, Outputs: map[string]drv.Output{"out": {Kind: drv.Floating, Method: nix.MethodNAR, Algo: nix.SHA256}},
		Platform: "here", Builder: "/bin/sh", Args: []string{"-c", script}, Env: map[string]string{"out": build.OutputPlaceholder("out"), "PATH": "/bin:/usr/bin"},
	}, InputDrvs: map[nix.StorePath][]string{}}
	for _, in := range inputs {
		d.InputDrvs[in] = []string{"out"}
	}
	file, err := d.File(k.s.Dir())
	if err == nil {
		_, err = k.s.Add(t.Context(), strings.NewReader(string(file.Text)), store.AddOptions{
			Name: name + drv.Extension, Method: nix.MethodText, References: file.References,
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return file.Path
}

// client is somebody who wants builds.
type client struct {
	mu    sync.Mutex
	lines []string
	heard chan struct{} // closed at the first line
	once  sync.Once
}

func (k *bench) want(ctx context.Context, t *testing.T, c *client, p nix.StorePath) build.Result {
	t.Helper()
	c.heard = make(chan struct{})
	pins := k.s.Pin("test")
	defer pins.Release()
	o := build.Settings{
		MaxJobs: 4, Cores: 1, Sandboxed: true, System: "here", LogLines: 5, Pins: pins, ImpureEnv: os.Getenv,
		SandboxPaths: []string{"/bin", "/usr/bin", "/lib?", "/lib64?", "/usr/lib", "/usr/lib64?"},
		Hear: func(e build.Event) {
			if e.Kind == build.EventLine {
				c.mu.Lock()
				c.lines = append(c.lines, e.Line)
				c.mu.Unlock()
				c.once.Do(func() { close(c.heard) })
			}
		},
	}
	return k.b.Build(ctx, []build.Wanted{{Path: p}}, build.Normal, o)[0]
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

func wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for begun := time.Now(); !done(); <-tick.C {
		if time.Since(begun) > 30*time.Second {
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
