package fs_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/narfs/narfs/fs"
	"github.com/narfs/narfs/fs/fstest"
)

func TestCounters(t *testing.T) {
	m := sample()
	s, _ := newServer(t, m, fs.Options{}, allFlags)
	top := walk(t, s, hello) // 1
	bin := walk(t, s, hello+"/bin")
	other := walk(t, s, file)
	readdir(s, bin, 0, 4096, true)
	want := map[uint64]int64{top >> 32: 5, other >> 32: 1}
	check := func(doing string) {
		t.Helper()
		for slot, n := range want {
			if got := s.Refs(uint32(slot)); got != n {
				t.Errorf("references to slot %d after %s = %d; want %d", slot, doing, got, n)
			}
		}
	}
	check("lookups and readdirplus")
	lookup(s, top, "none")
	lookup(s, 1, "none")
	readdir(s, bin, 0, 4096, false)
	check("what gives no reference")
	readdir(s, 1, 0, 4096, true)
	want[top>>32]++
	want[other>>32]++
	check("readdirplus of the root")
	s.Forget(top, 3)
	s.Forget(bin, 2)
	s.Forget(other, 2)
	want[top>>32] -= 5
	want[other>>32] = 0
	check("forgets")
	s.Forget(1, 100)
	s.Forget(fuse.FUSE_UNKNOWN_INO, 1)
	check("forgetting the root")
}

func TestCountersConcurrently(t *testing.T) {
	s, _ := newServer(t, sample(), fs.Options{}, allFlags)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 200 {
				top, _ := lookup(s, 1, hello)
				out, _ := lookup(s, top.NodeId, "bin")
				s.Forget(out.NodeId, 1)
				s.Forget(top.NodeId, 1)
			}
		})
	}
	wg.Wait()
	if got := s.Refs(1); got != 0 {
		t.Errorf("references after all were given back = %d; want 0", got)
	}
}

func TestObjectsAreBounded(t *testing.T) {
	m := fstest.NewMemory()
	dir := fstest.Dir(nil)
	for i := range 100 {
		dir.Dir[fmt.Sprintf("file-%04d", i)] = fstest.Text("x")
	}
	const paths = 300
	for i := range paths {
		m.Add(fmt.Sprintf("%032d-p", i), fstest.New(dir))
	}
	const limit = 100_000
	s, _ := newServer(t, m, fs.Options{CacheBytes: limit}, allFlags)
	for i := range paths {
		walk(t, s, fmt.Sprintf("%032d-p/file-0050", i))
		if _, size := s.Loaded(); size > limit {
			t.Fatalf("%d bytes of trees are loaded; want at most %d", size, limit)
		}
	}
	opens := m.Opens.Load()
	walk(t, s, fmt.Sprintf("%032d-p/file-0050", paths-1))
	if got := m.Opens.Load() - opens; got != 0 {
		t.Errorf("the last tree used was opened %d times again", got)
	}
	walk(t, s, fmt.Sprintf("%032d-p/file-0050", 0))
	if got := m.Opens.Load() - opens; got != 1 {
		t.Errorf("a tree that had to go was opened %d times; want 1", got)
	}
}

func TestObjectsLoadOnce(t *testing.T) {
	m := sample()
	s, _ := newServer(t, m, fs.Options{}, allFlags)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() { lookup(s, 1, hello) })
	}
	wg.Wait()
	if got := m.Opens.Load(); got != 1 {
		t.Errorf("%d opens for 32 lookups at once; want 1", got)
	}
}

// A removed path: its nodes answer as long as the Source has it, and ESTALE then.
func TestRemoved(t *testing.T) {
	m := sample()
	s, kernel := newServer(t, m, fs.Options{CacheBytes: 1}, allFlags)
	node := walk(t, s, hello+"/share/a")
	slot := m.Remove(hello)
	s.Changed(hello)
	if out, _ := lookup(s, 1, hello); out.NodeId != 0 {
		t.Error("a removed path was found")
	}
	if got, st := readAll(s, node, 4096); string(got) != "a" || st != fuse.OK {
		t.Errorf("read below a removed path = %q, %v", got, st)
	}
	m.Drop(slot)
	walk(t, s, file) // takes the place in the cache
	if _, st := readAll(s, node, 4096); st != fuse.Status(syscall.ESTALE) {
		t.Errorf("read below a dropped path = %v; want ESTALE", st)
	}
	if err := s.Notes.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"entry 1 " + hello, "inode 1 0 0"}, kernel.told); diff != "" {
		t.Errorf("notifies (-want +got):\n%s", diff)
	}
}

func TestSyncWaits(t *testing.T) {
	kernel := &notes{block: make(chan struct{})}
	s := fs.NewServer(sample(), fs.Options{}, kernel, allFlags)
	t.Cleanup(s.Close)
	for _, name := range []string{"a", "b", "c"} {
		s.Changed(name)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Notes.Sync(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Sync = %v; want canceled", err)
	}
	close(kernel.block)
	if err := s.Notes.Sync(t.Context()); err != nil {
		t.Errorf("Sync = %v", err)
	}
	kernel.mu.Lock()
	defer kernel.mu.Unlock()
	entries := slices.DeleteFunc(slices.Clone(kernel.told), func(s string) bool { return strings.HasPrefix(s, "inode") })
	if diff := cmp.Diff([]string{"entry 1 a", "entry 1 b", "entry 1 c"}, entries); diff != "" {
		t.Errorf("notifies (-want +got):\n%s", diff)
	}
	if last := kernel.told[len(kernel.told)-1]; last != "inode 1 0 0" {
		t.Errorf("the last notify is %s; want that of the listing", last)
	}
}

func TestRequestsAreCounted(t *testing.T) {
	s, _ := newServer(t, sample(), fs.Options{}, allFlags)
	node := walk(t, s, hello+"/share/a")
	readAll(s, node, 4096)
	s.Forget(node, 1)
	want := map[string]int64{"LOOKUP": 3, "READ": 2, "FORGET": 1}
	if got := s.Requests(); !maps.Equal(got, want) {
		t.Errorf("requests = %v; want %v", got, want)
	}
}
