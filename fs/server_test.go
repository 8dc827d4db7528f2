package fs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/narfs/narfs/casefold"
	"github.com/narfs/narfs/fs"
	"github.com/narfs/narfs/fs/fstest"
	"github.com/narfs/narfs/nar"
)

// notes is a kernel that writes down what it is told.
type notes struct {
	mu     sync.Mutex
	told   []string
	stores []store
	block  chan struct{} // if not nil, EntryNotify waits for it
}

type store struct {
	node uint64
	off  int64
	data string
}

func (n *notes) EntryNotify(parent uint64, name string) fuse.Status {
	if n.block != nil {
		<-n.block
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.told = append(n.told, fmt.Sprintf("entry %d %s", parent, name))
	return fuse.ENOENT
}

func (n *notes) InodeNotify(node uint64, off, length int64) fuse.Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.told = append(n.told, fmt.Sprintf("inode %d %d %d", node, off, length))
	return fuse.OK
}

func (n *notes) InodeNotifyStoreCache(node uint64, off int64, data []byte) fuse.Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stores = append(n.stores, store{node, off, string(data)})
	return fuse.OK
}

// allFlags is a kernel that knows everything.
const allFlags = ^uint64(0)

func newServer(t *testing.T, src fs.Source, o fs.Options, flags uint64) (*fs.Server, *notes) {
	t.Helper()
	kernel := &notes{}
	s := fs.NewServer(src, o, kernel, flags)
	t.Cleanup(s.Close)
	return s, kernel
}

const (
	hello = "00000000000000000000000000000001-hello"
	file  = "00000000000000000000000000000002-file"
	link  = "00000000000000000000000000000003-link"
)

func sample() *fstest.Memory {
	m := fstest.NewMemory()
	m.Add(hello, fstest.New(fstest.Dir(map[string]fstest.Node{
		"bin/hello": fstest.Script("#!/bin/sh\necho hello\n"),
		"bin/hi":    fstest.Link("hello"),
		"share/a":   fstest.Text("a"),
		"share/b":   {},
		"share/d/e": fstest.Text("e"),
		"share/f":   fstest.Empty(),
		".DS_Store": fstest.Text("not litter here"),
	})))
	m.Add(file, fstest.New(fstest.Text("just a file\n")))
	m.Add(link, fstest.New(fstest.Link("/nix/store/somewhere")))
	return m
}

func lookup(s *fs.Server, parent uint64, name string) (fuse.EntryOut, fuse.Status) {
	var out fuse.EntryOut
	st := s.Lookup(nil, &fuse.InHeader{NodeId: parent}, name, &out)
	return out, st
}

// walk looks up a path and returns the node.
func walk(t *testing.T, s *fs.Server, path string) uint64 {
	t.Helper()
	node := uint64(1)
	for name := range strings.SplitSeq(path, "/") {
		out, st := lookup(s, node, name)
		if st != fuse.OK || out.NodeId == 0 {
			t.Fatalf("Lookup(%d, %q) of %s = node %d, %v", node, name, path, out.NodeId, st)
		}
		node = out.NodeId
	}
	return node
}

func TestNodeID(t *testing.T) {
	for _, tc := range []struct {
		slot, index uint32
		want        uint64
	}{{1, 0, 1<<32 | 1}, {1, 41, 1<<32 | 42}, {1<<32 - 2, 1<<32 - 2, 0xfffffffe_ffffffff}} {
		if got := fs.NodeID(tc.slot, tc.index); got != tc.want {
			t.Errorf("nodeID(%d, %d) = %#x; want %#x", tc.slot, tc.index, got, tc.want)
		}
		if slot, index, ok := fs.SplitNode(tc.want); slot != tc.slot || index != tc.index || !ok {
			t.Errorf("splitNode(%#x) = %d, %d, %v; want %d, %d, true", tc.want, slot, index, ok, tc.slot, tc.index)
		}
	}
	for _, id := range []uint64{0, 1, 2, 1<<32 - 1, 1 << 32, 7 << 32} {
		if _, _, ok := fs.SplitNode(id); ok {
			t.Errorf("splitNode(%#x) is a node of a store path", id)
		}
	}
}

func TestAttributes(t *testing.T) {
	s, _ := newServer(t, sample(), fs.Options{Owner: &fs.Owner{UID: 7, GID: 8}}, allFlags)
	for _, tc := range []struct {
		path       string
		mode, link uint32
		size       uint64
		blocks     uint64
	}{
		{hello, syscall.S_IFDIR | 0o555, 4, 3, 0},
		{hello + "/bin", syscall.S_IFDIR | 0o555, 2, 2, 0},
		{hello + "/bin/hello", syscall.S_IFREG | 0o555, 1, 21, 1},
		{hello + "/bin/hi", syscall.S_IFLNK | 0o777, 1, 5, 0},
		{hello + "/share", syscall.S_IFDIR | 0o555, 4, 4, 0},
		{hello + "/share/b", syscall.S_IFREG | 0o444, 1, 0, 0},
		{hello + "/.DS_Store", syscall.S_IFREG | 0o444, 1, 15, 1},
		{file, syscall.S_IFREG | 0o444, 1, 12, 1},
		{link, syscall.S_IFLNK | 0o777, 1, 20, 0},
	} {
		node := walk(t, s, tc.path)
		var out fuse.AttrOut
		if st := s.GetAttr(nil, &fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: node}}, &out); st != fuse.OK {
			t.Errorf("GetAttr(%s) = %v", tc.path, st)
		}
		want := fuse.Attr{
			Ino: node, Mode: tc.mode, Nlink: tc.link, Size: tc.size, Blocks: tc.blocks, Blksize: 4096,
			Atime: 1, Mtime: 1, Ctime: 1, Owner: fuse.Owner{Uid: 7, Gid: 8},
		}
		if diff := cmp.Diff(want, out.Attr); diff != "" {
			t.Errorf("GetAttr(%s) (-want +got):\n%s", tc.path, diff)
		}
		parent, name := uint64(1), tc.path
		if i := strings.LastIndexByte(tc.path, '/'); i > 0 {
			parent, name = walk(t, s, tc.path[:i]), tc.path[i+1:]
		}
		entry, _ := lookup(s, parent, name)
		if diff := cmp.Diff(want, entry.Attr); diff != "" {
			t.Errorf("Lookup(%s) (-want +got):\n%s", tc.path, diff)
		}
		if entry.Generation != 1 || entry.EntryValid < 1e6 || entry.AttrValid < 1e6 {
			t.Errorf("Lookup(%s) = generation %d, valid %d, %d; want 1, for ever, for ever", tc.path, entry.Generation, entry.EntryValid, entry.AttrValid)
		}
	}
}

func TestLookupFails(t *testing.T) {
	m := sample()
	s, _ := newServer(t, m, fs.Options{}, allFlags)
	top := walk(t, s, hello)
	for _, tc := range []struct {
		parent uint64
		name   string
		want   fuse.Status // OK: a negative entry
	}{
		{1, "00000000000000000000000000000009-none", fuse.OK},
		{1, ".DS_Store", fuse.OK},
		{1, "._" + hello, fuse.OK},
		{1, strings.Repeat("x", 256), fuse.Status(syscall.ENAMETOOLONG)},
		{top, "none", fuse.OK},
		{top, "BIN", fuse.OK},
		{top, strings.Repeat("x", 256), fuse.Status(syscall.ENAMETOOLONG)},
		{walk(t, s, hello+"/share/a"), "x", fuse.ENOTDIR},
		{walk(t, s, file), "x", fuse.ENOTDIR},
		{99 << 32, "x", fuse.Status(syscall.ESTALE)},
		{99<<32 | 1, "x", fuse.Status(syscall.ESTALE)},
		{top + 1000, "x", fuse.Status(syscall.ESTALE)},
	} {
		out, st := lookup(s, tc.parent, tc.name)
		if st != tc.want || out.NodeId != 0 {
			t.Errorf("Lookup(%#x, %.40q) = node %d, %v; want 0, %v", tc.parent, tc.name, out.NodeId, st, tc.want)
		}
		if st == fuse.OK && out.EntryValid < 1e6 {
			t.Errorf("Lookup(%#x, %.40q) is absent for %d s; want for ever", tc.parent, tc.name, out.EntryValid)
		}
	}
}

func TestDots(t *testing.T) {
	s, _ := newServer(t, sample(), fs.Options{}, allFlags)
	for _, tc := range []struct{ from, name, want string }{
		{hello + "/share/d", ".", hello + "/share/d"},
		{hello + "/share/d", "..", hello + "/share"},
	} {
		out, st := lookup(s, walk(t, s, tc.from), tc.name)
		if want := walk(t, s, tc.want); st != fuse.OK || out.NodeId != want {
			t.Errorf("Lookup(%s, %s) = %d, %v; want %d", tc.from, tc.name, out.NodeId, st, want)
		}
	}
	for _, from := range []uint64{1, walk(t, s, hello)} {
		if out, st := lookup(s, from, ".."); st != fuse.OK || out.NodeId != 1 {
			t.Errorf("Lookup(%d, ..) = %d, %v; want 1", from, out.NodeId, st)
		}
	}
}

func TestReadlink(t *testing.T) {
	s, _ := newServer(t, sample(), fs.Options{}, allFlags)
	for path, want := range map[string]string{hello + "/bin/hi": "hello", link: "/nix/store/somewhere"} {
		if got, st := s.Readlink(nil, &fuse.InHeader{NodeId: walk(t, s, path)}); string(got) != want || st != fuse.OK {
			t.Errorf("Readlink(%s) = %q, %v; want %q", path, got, st, want)
		}
	}
	if _, st := s.Readlink(nil, &fuse.InHeader{NodeId: walk(t, s, file)}); st != fuse.EINVAL {
		t.Errorf("Readlink of a file = %v; want EINVAL", st)
	}
}

// readAll reads a file in requests of n bytes.
func readAll(s *fs.Server, node uint64, n int) ([]byte, fuse.Status) {
	var all []byte
	for {
		in := &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: node}, Offset: uint64(len(all)), Size: uint32(n)}
		res, st := s.Read(nil, in, make([]byte, n))
		if st != fuse.OK {
			return all, st
		}
		part, st := res.Bytes(nil)
		all = append(all, part...)
		res.Done()
		if st != fuse.OK || len(part) == 0 {
			return all, st
		}
	}
}

func TestRead(t *testing.T) {
	m := fstest.NewMemory()
	m.FrameSize = 10000 // no multiple of anything
	want := fstest.Bytes(300_001, 1)
	slot := m.Add(file, fstest.New(fstest.Dir(map[string]fstest.Node{"f": {Data: want}, "empty": {}})))
	s, kernel := newServer(t, m, fs.Options{}, allFlags)
	f := walk(t, s, file+"/f")
	for _, n := range []int{4096, 1 << 16, 1 << 17, 1 << 20} {
		if got, st := readAll(s, f, n); !bytes.Equal(got, want) || st != fuse.OK {
			t.Errorf("read by %d = %d bytes, %v; want %d", n, len(got), st, len(want))
		}
	}
	if got, st := readAll(s, walk(t, s, file+"/empty"), 4096); len(got) != 0 || st != fuse.OK {
		t.Errorf("read of an empty file = %d bytes, %v", len(got), st)
	}
	for _, tc := range []struct {
		node uint64
		want fuse.Status
	}{{walk(t, s, file), fuse.EISDIR}, {77<<32 | 1, fuse.Status(syscall.ESTALE)}, {1, fuse.Status(syscall.ESTALE)}} {
		if _, st := readAll(s, tc.node, 4096); st != tc.want {
			t.Errorf("read of node %#x = %v; want %v", tc.node, st, tc.want)
		}
	}
	s.Close()
	if n := m.Spans.Load(); n != 0 {
		t.Errorf("%d spans were not released", n)
	}
	// What was pushed is what the file holds there, on page boundaries.
	pushed := 0
	for _, st := range kernel.stores {
		if st.node != f || st.off%4096 != 0 || st.data != string(want[st.off:st.off+int64(len(st.data))]) {
			t.Errorf("pushed %d wrong bytes at %d of node %#x", len(st.data), st.off, st.node)
		}
		if end := st.off + int64(len(st.data)); end%4096 != 0 && end != int64(len(want)) {
			t.Errorf("pushed up to %d, within a page", end)
		}
		pushed += len(st.data)
	}
	if pushed == 0 || int64(pushed) != s.Pushed() {
		t.Errorf("pushed %d bytes, counted %d", pushed, s.Pushed())
	}
	_ = slot
}

func TestPushRest(t *testing.T) {
	data := fstest.Bytes(3*4096+100, 1)
	for _, tc := range []struct {
		size, start, from, to int64
		want                  [4]int64 // left from, to; right from, to (in the file); 0, 0 is nothing
	}{
		{1 << 20, 0, 0, 4096, [4]int64{0, 0, 4096, 12288}},
		{1 << 20, 0, 4096, 8192, [4]int64{0, 4096, 8192, 12288}},
		{12388, 0, 0, 4096, [4]int64{0, 0, 4096, 12388}},        // up to the end of the file
		{1 << 20, 100, 3996, 8092, [4]int64{0, 0, 8192, 12288}}, // first page begins before the frame
		{12388, 0, 8192, 12388, [4]int64{0, 8192, 0, 0}},
		{12388, 0, 0, 12388, [4]int64{}},
	} {
		var got [4]int64
		l, r, ld, rd := fs.PushRest(tc.size, tc.start, data, tc.from, tc.to)
		if len(ld) > 0 {
			got[0], got[1] = l, l+int64(len(ld))
			if !bytes.Equal(ld, data[l-tc.start:][:len(ld)]) {
				t.Errorf("rest(%+v): wrong data on the left", tc)
			}
		}
		if len(rd) > 0 {
			got[2], got[3] = r, r+int64(len(rd))
			if !bytes.Equal(rd, data[r-tc.start:][:len(rd)]) {
				t.Errorf("rest(%+v): wrong data on the right", tc)
			}
		}
		if got != tc.want {
			t.Errorf("rest(size %d, start %d, %d to %d) = %v; want %v", tc.size, tc.start, tc.from, tc.to, got, tc.want)
		}
	}
}

// names lists a directory in answers of at most n bytes.
func names(t *testing.T, s *fs.Server, node uint64, n int, plus bool) []string {
	t.Helper()
	var all []string
	for off := uint64(0); ; {
		entries, _, st := readdir(s, node, off, n, plus)
		if st != fuse.OK {
			t.Fatalf("readdir of %#x at %d: %v", node, off, st)
		}
		if len(entries) == 0 {
			return all
		}
		for _, e := range entries {
			all = append(all, e.Name)
			off = e.Off
		}
	}
}

func readdir(s *fs.Server, node, off uint64, n int, plus bool) ([]fuse.DirEntry, []fuse.EntryOut, fuse.Status) {
	list := fuse.NewDirEntryList(make([]byte, n), off)
	in := &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: node}, Offset: off}
	if plus {
		st := s.ReadDirPlus(nil, in, list)
		entries, outs, err := fuse.ParseDirLookupEntries(list.Bytes())
		if err != nil {
			panic(err)
		}
		return entries, outs, st
	}
	st := s.ReadDir(nil, in, list)
	entries, err := fuse.ParseDirEntries(list.Bytes())
	if err != nil {
		panic(err)
	}
	return entries, make([]fuse.EntryOut, len(entries)), st
}

func TestReadDir(t *testing.T) {
	m := sample()
	big := fstest.Dir(nil)
	want := []string{".", ".."}
	for i := range 3000 {
		name := fmt.Sprintf("entry-%05d", i)
		big.Dir[name] = fstest.Text(name)
		want = append(want, name)
	}
	const bigName = "00000000000000000000000000000004-big"
	slot := m.Add(bigName, fstest.New(big))
	for _, plus := range []bool{false, true} {
		s, _ := newServer(t, m, fs.Options{}, allFlags)
		node := walk(t, s, bigName)
		for _, n := range []int{300, 4096, 1 << 20} {
			before := s.Refs(slot)
			if diff := cmp.Diff(want, names(t, s, node, n, plus)); diff != "" {
				t.Errorf("names by %d (-want +got):\n%s", n, diff)
			}
			refs := int64(0)
			if plus {
				refs = 3000
			}
			if got := s.Refs(slot) - before; got != refs {
				t.Errorf("listing with plus %v took %d references; want %d", plus, got, refs)
			}
		}
		if diff := cmp.Diff([]string{".", "..", hello, file, link, bigName}, names(t, s, 1, 300, plus)); diff != "" {
			t.Errorf("root (-want +got):\n%s", diff)
		}
		// Any position leads to the same rest, in any order.
		for _, k := range []int{2999, 0, 1, 2, 1500, 3001} {
			entries, outs, _ := readdir(s, node, uint64(k), 4096, plus)
			if len(entries) == 0 || entries[0].Name != want[k] {
				t.Errorf("readdir at %d = %v; want %s first", k, entries, want[k])
			}
			for j, e := range entries {
				if e.Ino == 0 || e.Ino == fuse.FUSE_UNKNOWN_INO {
					t.Errorf("entry %s has inode %d", e.Name, e.Ino)
				}
				if plus && e.Name[0] != '.' && (outs[j].NodeId != e.Ino || outs[j].Ino != e.Ino) {
					t.Errorf("entry %s has inode %d, node %d, attr %d", e.Name, e.Ino, outs[j].NodeId, outs[j].Ino)
				}
				if plus && e.Name[0] == '.' && outs[j].NodeId != 0 {
					t.Errorf("entry %s has node %d; want none", e.Name, outs[j].NodeId)
				}
			}
		}
		if _, _, st := readdir(s, walk(t, s, file), 0, 4096, plus); st != fuse.ENOTDIR {
			t.Errorf("readdir of a file = %v; want ENOTDIR", st)
		}
	}
}

// A listing of the root that goes on while paths come and go has everything that was there all the time, once.
func TestRootListingStaysInOrder(t *testing.T) {
	m := fstest.NewMemory()
	stay := map[string]bool{}
	for i := range 500 {
		name := fmt.Sprintf("%032d-stay", i)
		m.Add(name, fstest.New(fstest.Text("x")))
		stay[name] = true
		m.Add(fmt.Sprintf("%032d-go", i), fstest.New(fstest.Text("x")))
	}
	s, _ := newServer(t, m, fs.Options{}, allFlags)
	seen := map[string]int{}
	off := uint64(0)
	for i := 0; ; i++ {
		entries, _, st := readdir(s, 1, off, 1000, i%2 == 0)
		if st != fuse.OK {
			t.Fatal(st)
		}
		if len(entries) == 0 {
			break
		}
		for _, e := range entries {
			seen[e.Name]++
			off = e.Off
		}
		gone := fmt.Sprintf("%032d-go", (i*7)%500)
		m.Remove(gone)
		s.Changed(gone)
		came := fmt.Sprintf("%032d-new", i)
		m.Add(came, fstest.New(fstest.Text("x")))
		s.Changed(came)
		if i%3 == 0 {
			readdir(s, 1, 0, 1000, false) // somebody else starts anew
		}
	}
	for name := range stay {
		if seen[name] != 1 {
			t.Errorf("%s was listed %d times; want 1", name, seen[name])
		}
	}
	for name, n := range seen {
		if n != 1 {
			t.Errorf("%s was listed %d times", name, n)
		}
	}
}

func TestHideListing(t *testing.T) {
	s, _ := newServer(t, sample(), fs.Options{HideListing: true}, allFlags)
	if _, _, st := readdir(s, 1, 0, 4096, true); st != fuse.EACCES {
		t.Errorf("readdir of a hidden root = %v; want EACCES", st)
	}
	var out fuse.AttrOut
	s.GetAttr(nil, &fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: 1}}, &out)
	if want := uint32(syscall.S_IFDIR | 0o111); out.Mode != want {
		t.Errorf("mode of a hidden root = %o; want %o", out.Mode, want)
	}
	walk(t, s, hello+"/bin/hello")
}

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

func TestViews(t *testing.T) {
	m := fstest.NewMemory()
	m.Add(hello, fstest.New(fstest.Dir(map[string]fstest.Node{
		"net/xt_CONNMARK.h": fstest.Text("upper"),
		"net/xt_connmark.h": fstest.Text("lower"),
		"net/other":         fstest.Text("other"),
		"plain/a":           fstest.Text("a"),
		"Dir/x":             fstest.Text("X"),
		"dir/x":             fstest.Text("x"),
	})))
	hacked := "xt_connmark.h" + casefold.Suffix + "1"
	for _, tc := range []struct {
		name  string
		o     fs.Options
		list  []string
		finds map[string]string // path to content, "" for absent
	}{
		{
			"exact",
			fs.Options{},
			[]string{".", "..", "other", "xt_CONNMARK.h", "xt_connmark.h"},
			map[string]string{
				"net/xt_CONNMARK.h": "upper", "net/xt_connmark.h": "lower", "net/" + hacked: "", "net/XT_CONNMARK.H": "", "NET/other": "",
				"Dir/x": "X", "dir/x": "x",
			},
		},
		{
			"hacked",
			fs.Options{CaseHack: true},
			[]string{".", "..", "other", "xt_CONNMARK.h", hacked},
			map[string]string{
				"net/xt_CONNMARK.h": "upper", "net/xt_connmark.h": "lower", "net/" + hacked: "lower", "net/XT_CONNMARK.H": "",
				"Dir/x": "X", "dir/x": "x", "dir" + casefold.Suffix + "1/x": "x",
			},
		},
		{
			"hacked and folded",
			fs.Options{CaseHack: true, CaseInsensitive: true},
			[]string{".", "..", "other", "xt_CONNMARK.h", hacked},
			map[string]string{
				"net/xt_CONNMARK.h": "upper", "net/xt_connmark.h": "lower", "net/" + hacked: "lower", "net/" + strings.ToUpper(hacked): "lower",
				"NET/OTHER": "other", "net/absent": "", "net/XT_connMARK.h": "upper",
			},
		},
		{
			"folded",
			fs.Options{CaseInsensitive: true},
			[]string{".", "..", "other", "xt_CONNMARK.h", "xt_connmark.h"},
			map[string]string{"net/xt_CONNMARK.h": "upper", "net/xt_connmark.h": "lower", "Net/Other": "other", "pLain/A": "a"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, _ := newServer(t, m, tc.o, allFlags)
			if diff := cmp.Diff(tc.list, names(t, s, walk(t, s, hello+"/net"), 4096, false)); diff != "" {
				t.Errorf("list (-want +got):\n%s", diff)
			}
			for path, want := range tc.finds {
				node := walk(t, s, hello)
				for name := range strings.SplitSeq(path, "/") {
					out, st := lookup(s, node, name)
					if node = out.NodeId; node == 0 || st != fuse.OK {
						break
					}
				}
				switch {
				case node == 0 && want != "":
					t.Errorf("%s is absent", path)
				case node != 0:
					if got, _ := readAll(s, node, 4096); string(got) != want {
						t.Errorf("%s = %q; want %q", path, got, want)
					}
				}
			}
		})
	}
}

// In the root, another spelling of a store path is found too, but not remembered for long: no notify would end that.
func TestFoldedRoot(t *testing.T) {
	m := sample()
	s, _ := newServer(t, m, fs.Options{CaseInsensitive: true}, allFlags)
	upper := strings.ToUpper(hello)
	out, st := lookup(s, 1, upper)
	if want := walk(t, s, hello); out.NodeId != want || st != fuse.OK || out.EntryValid > 1 {
		t.Errorf("Lookup(%s) = %d, %v for %d s; want %d for a second", upper, out.NodeId, st, out.EntryValid, want)
	}
	m.Remove(hello)
	s.Changed(hello)
	if out, st := lookup(s, 1, upper); out.NodeId != 0 || st != fuse.OK || out.EntryValid > 1 {
		t.Errorf("Lookup(%s) after its removal = %d, %v for %d s; want 0 for a second", upper, out.NodeId, st, out.EntryValid)
	}
}

func TestErrors(t *testing.T) {
	errs, statuses := fs.Errnos()
	for i, err := range errs {
		wrapped := fmt.Errorf("open slot 3: %w", err)
		if got := fs.Status(wrapped); got != statuses[i] {
			t.Errorf("status(%v) = %v; want %v", wrapped, got, statuses[i])
		}
	}
	for _, tc := range []struct {
		err  error
		want fuse.Status
	}{
		{nil, fuse.OK},
		{errors.New("bad checksum"), fuse.EIO},
		{syscall.ENOSYS, fuse.EIO}, // would switch the request off
		{syscall.ENOENT, fuse.Status(syscall.ESTALE)},
		{&iofs.PathError{Op: "open", Path: "pack", Err: syscall.EACCES}, fuse.EACCES},
		{context.Canceled, fuse.EINTR},
		{io.EOF, fuse.EIO},
	} {
		if got := fs.Status(tc.err); got != tc.want {
			t.Errorf("status(%v) = %v; want %v", tc.err, got, tc.want)
		}
	}
}

func TestDamage(t *testing.T) {
	m := fstest.NewMemory()
	o := fstest.New(fstest.Dir(map[string]fstest.Node{"f": fstest.Text("content")}))
	m.Add(hello, o)
	s, _ := newServer(t, m, fs.Options{}, allFlags)
	node := walk(t, s, hello+"/f")
	bad := errors.New("frame 7 has a wrong checksum")
	o.Fail.Store(&bad)
	for _, n := range []int{4096, 1 << 20} {
		if got, st := readAll(s, node, n); st != fuse.EIO || len(got) != 0 {
			t.Errorf("read of a damaged file = %q, %v; want EIO", got, st)
		}
	}
	o.Fail.Store(nil)
	if got, st := readAll(s, node, 4096); string(got) != "content" || st != fuse.OK {
		t.Errorf("read after the repair = %q, %v", got, st)
	}
}

func TestEverythingElseIsRefused(t *testing.T) {
	s, _ := newServer(t, sample(), fs.Options{}, allFlags)
	_, write := s.Write(nil, nil, nil)
	_, writev := s.Writev(nil, nil, nil)
	_, copyRange := s.CopyFileRange(nil, nil)
	for name, got := range map[string]fuse.Status{
		"setattr": s.SetAttr(nil, nil, nil), "mknod": s.Mknod(nil, nil, "", nil), "mkdir": s.Mkdir(nil, nil, "", nil),
		"unlink": s.Unlink(nil, nil, ""), "rmdir": s.Rmdir(nil, nil, ""), "rename": s.Rename(nil, nil, "", ""),
		"link": s.Link(nil, nil, "", nil), "symlink": s.Symlink(nil, nil, "", "", nil), "create": s.Create(nil, nil, "", nil),
		"tmpfile": s.Tmpfile(nil, nil, nil), "write": write, "writev": writev, "copy_file_range": copyRange,
		"fallocate": s.Fallocate(nil, nil), "setxattr": s.SetXAttr(nil, nil, "", nil), "removexattr": s.RemoveXAttr(nil, nil, ""),
		"open for writing": s.Open(nil, &fuse.OpenIn{Flags: syscall.O_RDWR}, nil),
	} {
		if got != fuse.EROFS {
			t.Errorf("%s = %v; want EROFS", name, got)
		}
	}
}

// ENOSYS only to kernels that know what it means.
func TestOpen(t *testing.T) {
	for _, tc := range []struct {
		flags     uint64
		file, dir fuse.Status
	}{
		{0, fuse.OK, fuse.OK},
		{fuse.CAP_NO_OPEN_SUPPORT, fuse.ENOSYS, fuse.OK},
		{allFlags, fuse.ENOSYS, fuse.ENOSYS},
	} {
		s, _ := newServer(t, sample(), fs.Options{}, tc.flags)
		var out, dirOut fuse.OpenOut
		in := &fuse.OpenIn{InHeader: fuse.InHeader{NodeId: walk(t, s, file)}}
		if st := s.Open(nil, in, &out); st != tc.file {
			t.Errorf("Open with %#x = %v; want %v", tc.flags, st, tc.file)
		}
		if st := s.OpenDir(nil, in, &dirOut); st != tc.dir {
			t.Errorf("OpenDir with %#x = %v; want %v", tc.flags, st, tc.dir)
		}
		if tc.flags == 0 && (out.OpenFlags != fuse.FOPEN_KEEP_CACHE || dirOut.OpenFlags != fuse.FOPEN_KEEP_CACHE|fuse.FOPEN_CACHE_DIR) {
			t.Errorf("flags = %#x, %#x; want the caches kept", out.OpenFlags, dirOut.OpenFlags)
		}
	}
}

func TestXAttrs(t *testing.T) {
	m := fstest.NewMemory()
	o := fstest.New(fstest.Dir(map[string]fstest.Node{"f": fstest.Text("x")}))
	o.Attrs = []fs.XAttr{{Name: "hash", Value: []byte("sha256:abc")}, {Name: "size", Value: []byte("123")}}
	m.Add(hello, o)
	s, _ := newServer(t, m, fs.Options{XAttr: true}, allFlags)
	h := &fuse.InHeader{NodeId: walk(t, s, hello)}
	buf := make([]byte, 100)
	n, st := s.ListXAttr(nil, h, buf)
	if got, want := string(buf[:n]), "user.narfs.hash\x00user.narfs.size\x00"; got != want || st != fuse.OK {
		t.Errorf("ListXAttr = %q, %v; want %q", got, st, want)
	}
	if n, st := s.ListXAttr(nil, h, nil); n != 32 || st != fuse.ERANGE {
		t.Errorf("ListXAttr without a buffer = %d, %v; want 32, ERANGE", n, st)
	}
	n, st = s.GetXAttr(nil, h, "user.narfs.hash", buf)
	if got := string(buf[:n]); got != "sha256:abc" || st != fuse.OK {
		t.Errorf("GetXAttr = %q, %v", got, st)
	}
	for _, name := range []string{"user.narfs.none", "user.hash", "security.capability"} {
		if _, st := s.GetXAttr(nil, h, name, buf); st != fuse.ENOATTR {
			t.Errorf("GetXAttr(%s) = %v; want ENOATTR", name, st)
		}
	}
	if n, st := s.ListXAttr(nil, &fuse.InHeader{NodeId: 1}, buf); n != 0 || st != fuse.OK {
		t.Errorf("ListXAttr of the root = %d, %v; want 0, OK", n, st)
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

func TestStatFs(t *testing.T) {
	s, _ := newServer(t, sample(), fs.Options{}, allFlags)
	var out fuse.StatfsOut
	if st := s.StatFs(nil, nil, &out); st != fuse.OK {
		t.Fatal(st)
	}
	want := fuse.StatfsOut{Blocks: 256 + 262144, Bfree: 262144, Bavail: 262144, Files: 3, Bsize: 4096, Frsize: 4096, NameLen: nar.MaxName}
	if diff := cmp.Diff(want, out); diff != "" {
		t.Errorf("StatFs (-want +got):\n%s", diff)
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
