package fs_test

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
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

// asked is a Source that calls a function whenever it is asked whether a slot is there.
type asked struct {
	*fstest.Memory

	hear func(slot uint32)
	gone bool
}

func (a *asked) Top(slot uint32) (fs.Top, error) {
	o, err := a.Open(slot)
	if err != nil {
		return fs.Top{}, err
	}
	tree, err := o.Tree()
	return fs.TopOf(tree), err
}

func (a *asked) Open(slot uint32) (fs.Object, error) {
	a.hear(slot)
	if a.gone {
		return nil, iofs.ErrNotExist
	}
	return a.Memory.Open(slot)
}

// A request that begins at a store path is counted before the Source is asked whether that is there, so that who has the
// Source say no, and then looks at the count, cannot miss it. If the answer is no, nothing is counted.
func TestCountedBeforeAsked(t *testing.T) {
	for name, ask := range map[string]func(*fs.Server) (found bool){
		"LOOKUP of a name": func(s *fs.Server) bool { out, _ := lookup(s, 1, hello); return out.NodeId != 0 },
		"LOOKUP of a node": func(s *fs.Server) bool {
			out, _ := lookup(s, fs.NodeID(1, 2), ".")
			return out.NodeId != 0
		},
		"READDIRPLUS": func(s *fs.Server) bool { readdir(s, 1, 0, 4096, true); return s.Refs(1) > 0 },
	} {
		for _, gone := range []bool{false, true} {
			src := &asked{Memory: sample(), gone: gone}
			s, _ := newServer(t, src, fs.Options{}, allFlags)
			calls := 0
			src.hear = func(slot uint32) {
				if calls++; s.Refs(slot) != 1 {
					t.Errorf("%s: %d references to slot %d when the Source is asked; want 1", name, s.Refs(slot), slot)
				}
			}
			found := ask(s)
			want := int64(1)
			if gone {
				want = 0
			}
			if calls == 0 || found == gone || s.Refs(1) != want {
				t.Errorf("%s: asked %d times, found %v, %d references after it; want %v, %d", name, calls, found, s.Refs(1), !gone, want)
			}
		}
	}
}

// What was dropped is asked for again: a tree in memory does not outlive the Source's handle.
func TestDrop(t *testing.T) {
	m := sample()
	s, _ := newServer(t, m, fs.Options{}, allFlags)
	node := walk(t, s, hello+"/share/a")
	slot := m.Remove(hello)
	m.Drop(slot)
	if refs := s.Drop(slot); refs != 3 {
		t.Errorf("Drop of what the kernel knows = %d; want 3", refs)
	}
	if got, st := readAll(s, node, 4096); string(got) != "a" || st != fuse.OK {
		t.Errorf("read after Drop returned references = %q, %v; want a", got, st)
	}
	s.Forget(node, 3)
	if refs := s.Drop(slot); refs != 0 {
		t.Errorf("Drop of what the kernel has forgotten = %d; want 0", refs)
	}
	if n, size := s.Loaded(); n != 0 || size != 0 {
		t.Errorf("%d trees of %d bytes are loaded after Drop; want none", n, size)
	}
	if out, st := lookup(s, node, "."); st != fuse.Status(syscall.ESTALE) || s.Refs(slot) != 0 {
		t.Errorf("LOOKUP of a dropped node = %d, %v, and %d references; want ESTALE and none", out.NodeId, st, s.Refs(slot))
	}
}

// A tree that is dropped while it is loaded is not remembered, and whoever waits for it gets it.
func TestDropWhileLoading(t *testing.T) {
	src := &asked{Memory: sample()}
	s, _ := newServer(t, src, fs.Options{}, allFlags)
	src.hear = func(slot uint32) {
		if s.Refs(slot) == 0 { // GETATTR of a node that the kernel does not know, which is no business of ours
			s.Drop(slot)
		}
	}
	var out fuse.AttrOut
	if st := s.GetAttr(nil, &fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: fs.NodeID(1, 2)}}, &out); st != fuse.OK {
		t.Errorf("GetAttr during Drop = %v; want OK", st)
	}
	if n, size := s.Loaded(); n != 0 || size != 0 {
		t.Errorf("%d trees of %d bytes are loaded; want none", n, size)
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
