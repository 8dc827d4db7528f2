package fs_test

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/narfs/narfs/fs"
	"github.com/narfs/narfs/fs/fstest"
)

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

// topMemory is a fs.TopSource.
type topMemory struct{ *fstest.Memory }

func (m topMemory) Top(slot uint32) (fs.Top, error) {
	o, err := m.Open(slot)
	if err != nil {
		return fs.Top{}, err
	}
	m.Opens.Add(-1) // by the mount do they count
	tree, err := o.Tree()
	if err != nil {
		return fs.Top{}, err
	}
	return fs.TopOf(tree), nil
}

// The root is listed without loading trees, as far as the Source allows that.
func TestRootNeedsNoTrees(t *testing.T) {
	list := func(src fs.Source, plus bool) (entries []fuse.DirEntry, outs []fuse.EntryOut) {
		s, _ := newServer(t, src, fs.Options{Owner: &fs.Owner{}}, allFlags)
		entries, outs, st := readdir(s, 1, 0, 4096, plus)
		if st != fuse.OK {
			t.Fatal(st)
		}
		return entries, outs
	}
	with, without := topMemory{sample()}, sample()
	for _, plus := range []bool{false, true} {
		tops, topOuts := list(with, plus)
		if n := with.Opens.Load(); n != 0 {
			t.Errorf("plus %v: a TopSource was asked to open %d objects", plus, n)
		}
		entries, outs := list(without, plus)
		if diff := cmp.Diff(outs, topOuts); diff != "" {
			t.Errorf("plus %v: without and with a TopSource (-without +with):\n%s", plus, diff)
		}
		if !plus {
			if n := without.Opens.Load(); n != 0 {
				t.Errorf("a listing without attributes opened %d objects", n)
			}
			for i := 2; i < len(entries); i++ { // after the dots
				entries[i].Mode = tops[i].Mode // it was not worth finding out
			}
		}
		if diff := cmp.Diff(entries, tops); diff != "" {
			t.Errorf("plus %v: without and with a TopSource (-without +with):\n%s", plus, diff)
		}
	}
}

// A listing that goes on after a path was removed must not bring it back.
func TestRootForgetsRemoved(t *testing.T) {
	m := sample()
	s, _ := newServer(t, m, fs.Options{}, allFlags)
	entries, _, _ := readdir(s, 1, 0, 4096, false)
	m.Remove(file)
	s.Changed(file)
	rest, _, _ := readdir(s, 1, entries[1].Off, 4096, true)
	var got []string
	for _, e := range rest {
		got = append(got, e.Name)
	}
	if diff := cmp.Diff([]string{hello, link}, got); diff != "" {
		t.Errorf("the rest of the root (-want +got):\n%s", diff)
	}
	if n := s.Refs(2); n != 0 {
		t.Errorf("%d references to what was removed", n)
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
