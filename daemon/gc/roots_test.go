package gc_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/daemon/gc"
	"github.com/narfs/narfs/internal/nix"
)

// Anybody may have a link of his own taken up as an indirect root. None leads so far astray that no garbage is collected any more.
func TestLinksAstray(t *testing.T) {
	t.Parallel()
	s := open(t)
	dead(t, s, gc.Options{})
	dir := t.TempDir()
	link(t, dir+"/a", dir+"/b")
	link(t, dir+"/b", dir+"/a")
	for _, name := range []string{dir + "/a", dir + "/a/b/c", dir + "/" + strings.Repeat("n", 300)} {
		if err := gc.AddIndirect(s.StateDir(), name); err != nil {
			t.Fatal(err)
		}
	}
	put(t, s, "dead", nil)
	c := begin(t, s, gc.Options{})
	defer c.Close()
	if plan, err := c.Plan(t.Context(), true); err != nil || len(plan.Dead) != 1 {
		t.Errorf("Plan = %+v, %v; want one dead path", plan, err)
	}
	// What only cannot be looked at is not gone.
	if entries, err := os.ReadDir(s.StateDir() + "/gcroots/auto"); err != nil || len(entries) != 3 {
		t.Errorf("gcroots/auto has %v, %v; want that the 3 links are left", entries, err)
	}
}

// Roots of paths with the longest names there are, made and made again by several at once. What a crash leaves is no root.
func TestPin(t *testing.T) {
	t.Parallel()
	s := open(t)
	state := s.StateDir()
	p := put(t, s, strings.Repeat("n", 211), nil)
	other := put(t, s, "other", nil)
	var pinning sync.WaitGroup
	for i := range 8 {
		pinning.Go(func() {
			for range 20 {
				target := []nix.StorePath{p, other}[i%2]
				if err := gc.Pin(state, p.BaseName(), s.Dir().Path(target)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	pinning.Wait()
	if err := gc.Pin(state, p.BaseName(), s.Dir().Path(p)); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(state + "/gcroots/pinned")
	if err != nil || len(entries) != 1 {
		t.Errorf("gcroots/pinned has %v, %v; want one link", entries, err)
	}
	link(t, s.Dir().Path(other), state+"/gcroots/pinned/.narfs-new-123")
	if diff := cmp.Diff([]string{"other"}, dead(t, s, gc.Options{})); diff != "" {
		t.Errorf("dead, -want +got:\n%s", diff)
	}
}

// A link that is gone, and made a root again while the collector takes its name away, is a root.
func TestPruneAgainstAdd(t *testing.T) {
	t.Parallel()
	s := open(t)
	p := put(t, s, "p", nil)
	result := t.TempDir() + "/result"
	stop := make(chan struct{})
	var pruning sync.WaitGroup
	for range 2 {
		pruning.Go(func() {
			f := gc.Finder{StateDir: s.StateDir(), StoreDir: s.Dir(), Prune: true}
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := f.Find(func(gc.Root) {}, func(e *gc.UnreadableError) error { return e }); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	runs := 300
	if os.Getenv("NARFS_TEST_LONG") != "" {
		runs = 5000
	}
	for range runs {
		link(t, s.Dir().Path(p), result)
		if err := gc.AddIndirect(s.StateDir(), result); err != nil {
			t.Fatal(err)
		}
		if entries, err := os.ReadDir(s.StateDir() + "/gcroots/auto"); err != nil || len(entries) != 1 {
			t.Fatalf("gcroots/auto has %v, %v; want the link that was just put there", entries, err)
		}
		if err := os.Remove(result); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	pruning.Wait()
}

// Folders that other users need are theirs to read whatever umask the owner has.
func TestLayoutModes(t *testing.T) { //nolint:paralleltest // the umask is that of the process
	state := filepath.Join(t.TempDir(), "state")
	old := syscall.Umask(0o077)
	err := errors.Join(os.Mkdir(state, 0o755), gc.MakeLayout(state))
	syscall.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"gcroots/per-user", "profiles/per-user"} {
		if info, err := os.Stat(filepath.Join(state, dir)); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v; want mode 0755", dir, info.Mode(), err)
		}
	}
}
