package fs_test

import (
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/narfs/narfs/fs"
	"github.com/narfs/narfs/fs/fstest"
)

// notes is a kernel that writes down what it is told.
type notes struct {
	mu     sync.Mutex
	told   []string
	stores []store
	block  chan struct{} // if not nil, EntryNotify waits for it

	noPrune bool
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

func (n *notes) PruneNotify(nodes []uint64) fuse.Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.noPrune {
		return fuse.ENOSYS
	}
	n.told = append(n.told, fmt.Sprintf("prune %d", len(nodes)))
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

// soon reports whether ok becomes true. What it waits for takes a moment, and much longer on a machine that is busy.
func soon(ok func() bool) bool {
	for range 30_000 {
		if ok() {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return false
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
		{hello + "/share/a", ".", hello + "/share/a"},
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
