package fs_test

import (
	"fmt"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/narfs/narfs/casefold"
	"github.com/narfs/narfs/fs"
	"github.com/narfs/narfs/fs/fstest"
)

// The handlers by themselves, without a kernel: a request costs 15 µs and more in the kernel.

func microServer(b *testing.B, o fs.Options) (s *fs.Server, dir uint64) {
	b.Helper()
	top := fstest.Dir(nil)
	for d := range 1000 {
		sub := fstest.Dir(nil)
		for f := range 100 {
			sub.Dir[fmt.Sprintf("some-file-%d.h", f)] = fstest.Text("x")
		}
		top.Dir[fmt.Sprintf("directory-%d", d)] = sub
	}
	m := fstest.NewMemory()
	m.Add(hello, fstest.New(top))
	s = fs.NewServer(m, o, &notes{}, allFlags)
	b.Cleanup(s.Close)
	out, _ := lookup(s, 1, hello)
	out, st := lookup(s, out.NodeId, "directory-500")
	if st != fuse.OK {
		b.Fatal(st)
	}
	return s, out.NodeId
}

func BenchmarkLookup(b *testing.B) {
	s, dir := microServer(b, fs.Options{})
	var out fuse.EntryOut
	h := &fuse.InHeader{NodeId: dir}
	b.ReportAllocs()
	for b.Loop() {
		s.Lookup(nil, h, "some-file-55.h", &out)
	}
}

func BenchmarkReadDirPlus(b *testing.B) {
	s, dir := microServer(b, fs.Options{})
	in := &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: dir}}
	buf := make([]byte, 32<<10)
	b.ReportAllocs()
	for b.Loop() {
		s.ReadDirPlus(nil, in, fuse.NewDirEntryList(buf, 0))
	}
}

// Loading a tree of 101,001 nodes into the view.
func BenchmarkLoad(b *testing.B) {
	for name, o := range map[string]fs.Options{"exact": {}, "ascii": {CaseHack: true}, "apfs": {CaseHack: true, Rule: casefold.APFS}} {
		b.Run(name, func(b *testing.B) {
			o.CacheBytes = 1 // keeps one
			s, _ := microServer(b, o)
			for b.Loop() {
				s.Reload(1)
			}
		})
	}
}
