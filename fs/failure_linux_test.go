package fs_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/narfs/narfs/fs"
	"github.com/narfs/narfs/fs/fstest"
)

// A server that was killed leaves a dead mount; the next one clears it away, and so does Unmount by force.
func TestDeadMount(t *testing.T) {
	dir := t.TempDir()
	kill := func() {
		p := startServer(t, dir, 0)
		if p.first != "mounted" {
			t.Fatal(p.first)
		}
		if _, err := os.ReadFile(filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		if state, err := fs.ProbeDir(t.Context(), dir); state != fs.DirDead || err != nil {
			t.Fatalf("ProbeDir after the server was killed = %v, %v; want dead", state, err)
		}
		// What the kernel has cached outlives the server.
		if got, err := os.ReadFile(filepath.Join(dir, file)); string(got) != "just a file\n" {
			t.Errorf("a cached file after the server was killed = %q, %v", got, err)
		}
	}
	kill()
	m, err := fs.New(t.Context(), sample(), dir, fs.Options{})
	if err != nil {
		t.Fatalf("mounting over a dead mount: %v", err)
	}
	if err := m.Unmount(t.Context()); err != nil {
		t.Error(err)
	}
	kill()
	if err := fs.Unmount(t.Context(), dir, true); err != nil {
		t.Errorf("Unmount of a dead mount by force = %v", err)
	}
	if state, err := fs.ProbeDir(t.Context(), dir); state != fs.DirPlain || err != nil {
		t.Errorf("ProbeDir = %v, %v; want plain", state, err)
	}
}

// A server that is killed while it has a file of its own mount open, as it has once in the beginning, does not wait for
// itself for ever.
func TestKilledWithOwnFile(t *testing.T) {
	dir := t.TempDir()
	p := startServer(t, dir, 0, "NARFS_TEST_HOLD=1")
	if p.first != "holds a lower descriptor: true <nil>" {
		t.Fatal(p.first)
	}
	_ = p.cmd.Process.Kill()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = p.cmd.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the server waits for itself")
		_ = unix.Unmount(dir, unix.MNT_FORCE) // aborts
		<-ended
	}
}

// hanging is a store that does not answer until it is let go.
type hanging struct {
	*fstest.Memory

	hang atomic.Pointer[chan struct{}]
}

func (h *hanging) wait() {
	if c := h.hang.Load(); c != nil {
		<-*c
	}
}

func (h *hanging) Lookup(name string) (uint32, error) {
	h.wait()
	return h.Memory.Lookup(name)
}

func (h *hanging) Usage() fs.Usage {
	h.wait()
	return h.Memory.Usage()
}

func TestHungMount(t *testing.T) {
	src := &hanging{Memory: sample()}
	m := mount(t, src, fs.Options{})
	c := make(chan struct{})
	src.hang.Store(&c)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond) // ProbeDir itself has more patience
	defer cancel()
	if state, err := fs.ProbeDir(ctx, m.Dir()); state != fs.DirHung || err != nil {
		t.Errorf("ProbeDir of a hung mount = %v, %v; want hung", state, err)
	}
	if n := m.Stats().InFlight; n == 0 {
		t.Error("a hung mount has nothing in flight")
	}
	src.hang.Store(nil)
	close(c)
	if state, err := fs.ProbeDir(t.Context(), m.Dir()); state != fs.DirNarfs || err != nil {
		t.Errorf("ProbeDir = %v, %v; want narfs", state, err)
	}
}

// panicky is a store that panics when it is asked for one name.
type panicky struct{ *fstest.Memory }

func (p panicky) Lookup(name string) (uint32, error) {
	if strings.HasSuffix(name, "-panic") {
		panic("as asked")
	}
	return p.Memory.Lookup(name)
}

func (p panicky) Open(slot uint32) (fs.Object, error) {
	if slot == 2 {
		panic("as asked")
	}
	return p.Memory.Open(slot)
}

func TestPanicsAreContained(t *testing.T) {
	var log strings.Builder
	m := mount(t, panicky{sample()}, fs.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for range 2 {
		for _, name := range []string{"00000000000000000000000000000000-panic", file} {
			if _, err := os.Lstat(filepath.Join(m.Dir(), name)); !errors.Is(err, unix.EIO) {
				t.Errorf("Lstat(%s) = %v; want EIO", name, err)
			}
		}
	}
	if _, err := os.Lstat(filepath.Join(m.Dir(), hello)); err != nil {
		t.Errorf("Lstat after panics = %v", err)
	}
	if s := m.Stats(); s.InFlight != 0 {
		t.Errorf("%d requests in flight after panics", s.InFlight)
	}
	if err := m.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "panic contained") || !strings.Contains(log.String(), "as asked") {
		t.Errorf("the log does not tell of the panics:\n%s", log.String())
	}
}

// Aborting the connection ends the server, which leaves no dead mount.
func TestAbort(t *testing.T) {
	needRoot(t)
	m := mount(t, sample(), fs.Options{})
	control := t.TempDir()
	if err := unix.Mount("none", control, "fusectl", 0, ""); err != nil {
		t.Skip("no fusectl here: " + err.Error())
	}
	t.Cleanup(func() { _ = unix.Unmount(control, unix.MNT_DETACH) })
	var st unix.Stat_t
	if err := unix.Stat(m.Dir(), &st); err != nil {
		t.Fatal(err)
	}
	abort := filepath.Join(control, fmt.Sprint(unix.Minor(st.Dev)), "abort")
	if err := os.WriteFile(abort, []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	m.Wait()
	if state, err := fs.ProbeDir(t.Context(), m.Dir()); state != fs.DirPlain || err != nil {
		t.Errorf("ProbeDir after an abort = %v, %v; want plain", state, err)
	}
}
