package sandbox_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/narfs/narfs/daemon/build/sandbox"
)

func TestMain(m *testing.M) {
	sandbox.Main() // this test is what its sandboxes run
	m.Run()
}

// log is what a builder said so far.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// spec is a builder that runs a script, with a store of an input folder, an input file, an input link, and what is no input.
func spec(t *testing.T, sandboxed bool, script string) (sandbox.Spec, *log) {
	t.Helper()
	if err := sandbox.Available(t.Context()); err != nil {
		t.Skipf("needs a kernel that lets this user sandbox: %v", err)
	}
	dir := t.TempDir()
	for _, name := range []string{"store/in", "out", "build"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"in/file": "input", "plain": "plain", "other": "other"} {
		if err := os.WriteFile(filepath.Join(dir, "store", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("in/file", filepath.Join(dir, "store/link")); err != nil {
		t.Fatal(err)
	}
	l := &log{}
	s := sandbox.Spec{
		Sandboxed: sandboxed, StoreDir: "/nix/store", StoreMount: filepath.Join(dir, "store"), Inputs: []string{"in", "plain", "link"},
		Outputs: filepath.Join(dir, "out"), BuildDir: filepath.Join(dir, "build"), BuildDirInside: "/build",
		Builder: "/bin/sh", Args: []string{"-c", script}, Env: []string{"PATH=/bin:/usr/bin:/sbin", "A=b c"}, UID: os.Getuid(), GID: os.Getgid(), Log: l,
	}
	if !sandboxed {
		s.StoreDir, s.BuildDirInside = filepath.Join(dir, "seen"), s.BuildDir
		if err := os.Mkdir(s.StoreDir, 0o755); err != nil {
			t.Fatal(err)
		}
		return s, l
	}
	for _, name := range []string{"/bin", "/usr/bin", "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/sbin"} {
		s.Binds = append(s.Binds, sandbox.Bind{Source: name, Target: name, Optional: true, ReadOnly: true})
	}
	return s, l
}

func run(t *testing.T, s sandbox.Spec, l *log) string {
	t.Helper()
	exit, err := sandbox.Run(t.Context(), s)
	if err != nil || exit != (sandbox.Exit{}) {
		t.Fatalf("Run = %v, %v: %s", exit, err, l)
	}
	return l.String()
}

func TestSandboxed(t *testing.T) {
	t.Parallel()
	s, l := spec(t, true, `
set -e
cat /nix/store/in/file /nix/store/plain /nix/store/link; echo
ls -1 /nix/store; ls -1 /; ls -1A /etc; pwd; id -u; id -g; hostname; cat /proc/self/comm; ls /proc | grep -c '^[0-9]'
test "$A" = "b c"; env | wc -l
cat < /dev/stdin; ls -l /proc/self/fd
echo made > /nix/store/new; mkdir /nix/store/folder; echo x > /tmp/x; echo y > /build/y
for f in /nix/store/in/file /nix/store/in/new /nix/store/plain; do ( echo no > $f ) 2> /dev/null && echo wrote $f || true; done
chmod 755 /nix/store/new
for m in 4755 2755 u+s; do chmod $m /nix/store/new 2> /dev/null && echo chmod $m || true; done
cat /proc/net/dev | tail -n +3 | cut -d: -f1; cat /proc/self/status | grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):'
mount -t tmpfs none /tmp 2> /dev/null && echo mounted || true
ls /root /home 2> /dev/null || true; ls -1 /dev
`)
	// A descriptor that this process was given without care.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = r.Close(), w.Close() }()
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETFD, 0); err != nil {
		t.Fatal(err)
	}
	out := run(t, s, l)
	for _, want := range []string{
		"inputplaininput\nin\nlink\nplain\nbin\nbuild\ndev\netc\n", // nothing else of the store
		"\n/build\n1000\n100\nlocalhost\n", "\n    lo\n", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in what it said", want)
		}
	}
	for _, not := range []string{"wrote", "chmod", "mounted", "shadow", "pipe:", "socket:"} {
		if strings.Contains(out, not) {
			t.Errorf("it says %q", not)
		}
	}
	entries, err := os.ReadDir(s.Outputs)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != "folder new" {
		t.Errorf("outputs: %s; want folder new", got)
	}
}

func TestNotSandboxed(t *testing.T) {
	t.Parallel()
	s, l := spec(t, false, `set -e; cd "$STORE"; cat in/file other; mkdir new; echo x > new/file; test -e /etc/passwd; id -u`)
	s.Env = append(s.Env, "STORE="+s.StoreDir)
	out := run(t, s, l)
	if !strings.HasPrefix(out, "inputother") {
		t.Errorf("it said %q", out)
	}
	if b, err := os.ReadFile(filepath.Join(s.Outputs, "new/file")); err != nil || string(b) != "x\n" {
		t.Errorf("output: %q, %v", b, err)
	}
	if _, err := os.Stat(filepath.Join(s.StoreMount, "new")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it stands in the store itself: %v", err)
	}
}

func TestExit(t *testing.T) {
	t.Parallel()
	s, _ := spec(t, true, "exit 3")
	exit, err := sandbox.Run(t.Context(), s)
	if want := "failed with exit code 3"; err != nil || exit.String() != want {
		t.Errorf("Run = %v, %v; want %s", exit, err, want)
	}
	s, _ = spec(t, true, "")
	s.Builder = "/no/such/program"
	if _, err := sandbox.Run(t.Context(), s); !errors.Is(err, sandbox.ErrBuilder) {
		t.Errorf("Run of nothing = %v; want ErrBuilder", err)
	}
	s, _ = spec(t, true, "")
	s.Inputs = []string{"none"}
	var setup *sandbox.SetupError
	if _, err := sandbox.Run(t.Context(), s); !errors.As(err, &setup) || errors.Is(err, sandbox.ErrBuilder) {
		t.Errorf("Run with an input that is not there = %v; want a *SetupError", err)
	}
}

// When it is to end, everything that it has started ends, at once.
func TestKilled(t *testing.T) {
	t.Parallel()
	s, l := spec(t, true, `
(setsid sh -c 'while true; do echo alive >> /build/alive; sleep 0.02; done' &)
echo begun
while true; do sleep 1; done`)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { _, err := sandbox.Run(ctx, s); done <- err }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	alive := filepath.Join(s.BuildDir, "alive")
	for begun := time.Now(); ; <-tick.C {
		if b, err := os.ReadFile(alive); err == nil && len(b) > 0 && strings.Contains(l.String(), "begun") {
			break
		}
		if time.Since(begun) > 20*time.Second {
			t.Fatalf("it does not begin: %s", l)
		}
	}
	cancel()
	asked := time.Now()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v; want context.Canceled", err)
	}
	if took := time.Since(asked); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	before, _ := os.ReadFile(alive)
	<-time.NewTimer(200 * time.Millisecond).C
	if after, _ := os.ReadFile(alive); len(after) != len(before) {
		t.Error("something lives on")
	}
}
