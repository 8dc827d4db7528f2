package fstest

import (
	"bytes"
	"errors"
	iofs "io/fs"
	"testing"

	"github.com/narfs/narfs/fs"
	"github.com/narfs/narfs/nar"
)

// TestSource checks that a fs.Source, and its objects, keep their promises. paths are the base names of all its
// valid paths, read gives the content of a regular file of one of them by other means.
func TestSource(t *testing.T, src fs.Source, paths []string, read func(path, file string) ([]byte, error)) {
	t.Helper()
	slots := map[string]uint32{}
	for _, path := range paths {
		slot, err := src.Lookup(path)
		if err != nil {
			t.Errorf("Lookup(%s) = %v", path, err)
			continue
		}
		if slot == 0 || slot == 1<<32-1 {
			t.Errorf("Lookup(%s) = slot %d, which must not be", path, slot)
		}
		slots[path] = slot
		checkPath(t, src, path, slot, read)
	}
	checkList(t, src, slots)
	for _, path := range []string{"", ".", "..", ".DS_Store", "none", "00000000000000000000000000000000-none-of-these"} {
		if slot, err := src.Lookup(path); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("Lookup(%q) = %d, %v; want not exist", path, slot, err)
		}
	}
	if _, err := src.Open(1<<32 - 2); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("Open of a slot that is not used = %v; want not exist", err)
	}
	if u := src.Usage(); u.Paths != int64(len(paths)) || u.Used < 0 || u.Free < 0 {
		t.Errorf("Usage() = %+v; want %d paths", u, len(paths))
	}
}

func checkList(t *testing.T, src fs.Source, slots map[string]uint32) {
	t.Helper()
	listed := map[string]uint32{}
	err := src.List(func(name string, slot uint32) bool {
		if _, dup := listed[name]; dup {
			t.Errorf("List yields %s twice", name)
		}
		listed[name] = slot
		return true
	})
	if err != nil {
		t.Errorf("List = %v", err)
	}
	for path, slot := range slots {
		if listed[path] != slot {
			t.Errorf("List has %s in slot %d; Lookup in %d", path, listed[path], slot)
		}
	}
	if len(listed) != len(slots) {
		t.Errorf("List yields %d paths; want %d", len(listed), len(slots))
	}
	n := 0
	if err := src.List(func(string, uint32) bool { n++; return false }); err != nil || n > 1 {
		t.Errorf("List went on after false: %d paths, %v", n, err)
	}
}

func checkPath(t *testing.T, src fs.Source, path string, slot uint32, read func(path, file string) ([]byte, error)) {
	t.Helper()
	o, err := src.Open(slot)
	if err != nil {
		t.Errorf("Open(%d) of %s = %v", slot, path, err)
		return
	}
	tree, err := o.Tree()
	if err != nil {
		t.Errorf("Tree of %s = %v", path, err)
		return
	}
	if tops, ok := src.(fs.TopSource); ok {
		if top, err := tops.Top(slot); top != fs.TopOf(tree) || err != nil {
			t.Errorf("Top(%d) of %s = %+v, %v; want %+v", slot, path, top, err, fs.TopOf(tree))
		}
	}
	for i := range uint32(tree.Len()) {
		if tree.Type(i) != nar.TypeRegular {
			continue
		}
		want, err := read(path, tree.Path(i))
		if err != nil {
			t.Errorf("reading %s of %s for comparison: %v", tree.Path(i), path, err)
			continue
		}
		if int64(len(want)) != tree.Size(i) {
			t.Errorf("%s of %s has %d bytes in the tree; want %d", tree.Path(i), path, tree.Size(i), len(want))
			continue
		}
		checkFile(t, o, i, path+"/"+tree.Path(i), want)
	}
}

// checkFile reads a file in pieces of several sizes and by spans.
func checkFile(t *testing.T, o fs.Object, node uint32, name string, want []byte) {
	t.Helper()
	for _, size := range []int{len(want), 1000, 70_000} {
		size = min(size, len(want))
		for off := 0; off < len(want); off += size * 3 {
			p := make([]byte, min(size, len(want)-off))
			if n, err := o.ReadAt(node, p, int64(off)); n != len(p) || !bytes.Equal(p, want[off:off+n]) {
				t.Errorf("ReadAt(%s, %d bytes at %d) = %d, %v, or wrong bytes", name, len(p), off, n, err)
				return
			}
		}
	}
	var held []func()
	for off := int64(0); off < int64(len(want)); {
		n := min(len(held)%3*1000, len(want)-int(off)) // 0 is all
		data, start, release, err := o.Span(node, off, n)
		if err != nil {
			t.Errorf("Span(%s, %d, %d) = %v", name, off, n, err)
			break
		}
		held = append(held, release)
		end := start + int64(len(data))
		if start > off || end <= off || end > int64(len(want)) || !bytes.Equal(data, want[start:end]) {
			t.Errorf("Span(%s, %d) = %d to %d, or wrong bytes; want around %d", name, off, start, end, off)
			break
		}
		off = end
		if len(held) > 64 {
			held[0]()
			held = held[1:]
		}
	}
	for _, release := range held {
		release()
	}
	if frames, ok := o.(fs.FrameObject); ok {
		checkFrame(t, o, frames, node, name, want)
	}
}

// checkFrame compares what else is in the frame around the middle of a file with what ReadAt says.
func checkFrame(t *testing.T, o fs.Object, frames fs.FrameObject, node uint32, name string, want []byte) {
	t.Helper()
	if len(want) == 0 {
		return
	}
	middle := int64(len(want) / 2)
	pieces := 0
	err := frames.Frame(node, middle, func(p fs.Piece) bool {
		pieces++
		content := make([]byte, len(p.Data))
		if n, err := o.ReadAt(p.Node, content, p.Off); n != len(content) || n == 0 || p.Node == node || !bytes.Equal(content, p.Data) {
			t.Errorf("Frame(%s, %d) yields wrong bytes for node %d at %d (%v)", name, middle, p.Node, p.Off, err)
		}
		return true
	})
	if err != nil {
		t.Errorf("Frame(%s, %d) = %v", name, middle, err)
	}
	calls := 0
	if err := frames.Frame(node, middle, func(fs.Piece) bool { calls++; return false }); err != nil || calls != min(pieces, 1) {
		t.Errorf("Frame(%s, %d) goes on after false: %d calls, %v", name, middle, calls, err)
	}
}
