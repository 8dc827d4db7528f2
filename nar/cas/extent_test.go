package cas_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/narfs/narfs/nar/cas"
)

// An import knows where it put everything: its extents are what the index says of the chunks.
func TestExtentsOfAnImport(t *testing.T) {
	s := open(t, t.TempDir(), small())
	for seed := range uint64(6) {
		a := makeNAR(t, seed/2, 50+10*int(seed)) // seeds share pieces, and pairs of them files
		put(t, s, a)
		o, err := s.Object(a.hash)
		if err != nil {
			t.Fatal(err)
		}
		if n := s.StoredExtents(a.hash, o.Content()); n < 1 {
			t.Errorf("object %d has %d extents in the index", seed, n)
		}
		if same, err := o.PlacesEqual(); err != nil || !same {
			t.Errorf("object %d: its extents are what the index has: %t, %v", seed, same, err)
		}
		check(t, s, a)
	}
}

// Objects are read alike with extents, without, and with such as sweeps have made old.
func TestStaleExtents(t *testing.T) {
	s := open(t, t.TempDir(), small())
	keep := makeNAR(t, 1, 120)
	put(t, s, keep)
	for seed := range uint64(6) {
		put(t, s, makeNAR(t, 10+seed, 120))
	}
	old, err := s.Object(keep.hash)
	if err != nil {
		t.Fatal(err)
	}
	readFiles(t, old, keep) // loads its extents
	bare, err := s.Object(keep.hash)
	if err == nil {
		err = bare.ForgetExtents()
	}
	if err != nil {
		t.Fatal(err)
	}
	readFiles(t, bare, keep)
	var b cas.Batch
	for seed := range uint64(6) {
		b.DeleteObject(makeNAR(t, 10+seed, 120).hash)
	}
	if err := s.Commit(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	res, err := s.Sweep(t.Context(), cas.SweepOptions{Compress: true})
	if err != nil || res.Packs == 0 {
		t.Fatalf("Sweep removed %d packs, %v; want some", res.Packs, err)
	}
	for name, o := range map[string]*cas.Object{"with old extents": old, "without": bare} {
		t.Run(name, func(t *testing.T) { readFiles(t, o, keep) })
	}
	if same, err := old.PlacesEqual(); err != nil || !same {
		t.Errorf("the old extents were renewed: %t, %v", same, err)
	}
	fresh, err := s.Object(keep.hash)
	if err != nil {
		t.Fatal(err)
	}
	if same, err := fresh.PlacesEqual(); err != nil || !same {
		t.Errorf("the sweep renewed the extents in the index: %t, %v", same, err)
	}
}

// A sweep makes the extents that are not there, and a deletion takes those along that are.
func TestExtentsComeAndGo(t *testing.T) {
	s := open(t, t.TempDir(), small())
	a := makeNAR(t, 1, 50)
	put(t, s, a)
	o, err := s.Object(a.hash)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DropExtents(a.hash); err != nil {
		t.Fatal(err)
	}
	check(t, s, a)
	if _, err := s.Sweep(t.Context(), cas.SweepOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := s.StoredExtents(a.hash, o.Content()); n < 1 {
		t.Errorf("after a sweep there are %d extents", n)
	}
	var b cas.Batch
	b.DeleteObject(a.hash)
	if err := s.Commit(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	if n := s.StoredExtents(a.hash, o.Content()); n != -1 {
		t.Errorf("%d extents of a deleted object", n)
	}
}

// readFiles reads all files of an object whole and in pieces.
func readFiles(t *testing.T, o *cas.Object, a archive) {
	t.Helper()
	tree, err := o.Tree()
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range a.files {
		i, ok := tree.Resolve(path)
		if !ok || len(want) == 0 {
			continue
		}
		got := make([]byte, len(want))
		if n, err := o.ReadAt(i, got, 0); n != len(want) || !bytes.Equal(got, want) {
			t.Fatalf("ReadAt(%s) = %d, %v, or wrong bytes", path, n, err)
		}
		for _, n := range []int{1, 0} {
			off := int64(len(want) / 2)
			sp, err := o.Span(i, off, n)
			if err != nil {
				t.Fatalf("Span(%s, %d) = %v", path, off, err)
			}
			if sp.Off > off || sp.Off+int64(len(sp.Data)) <= off || !bytes.Equal(sp.Data, want[sp.Off:sp.Off+int64(len(sp.Data))]) {
				t.Errorf("Span(%s, %d) gives wrong bytes", path, off)
			}
			sp.Release()
		}
	}
	var stream bytes.Buffer
	if err := o.WriteNAR(t.Context(), &stream); err != nil || !bytes.Equal(stream.Bytes(), a.nar) {
		t.Errorf("WriteNAR = %v, or wrong bytes", err)
	}
}

// What the index has of extents is checked when it is read.
func FuzzExtents(f *testing.F) {
	f.Add([]byte{2, 100, 2, 64, 90, 0, 50, 0, 8, 40, 7}, int64(150))
	f.Add([]byte{1, 1, 2, 64, 1, 0}, int64(1))
	f.Add([]byte{0}, int64(0))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x0f, 1}, int64(1))
	f.Fuzz(func(t *testing.T, b []byte, content int64) {
		again, err := cas.RecodeExtents(b, content)
		if err != nil {
			return
		}
		size, k := binary.Uvarint(again)
		if uint64(len(again)-k) != size {
			t.Fatalf("%x becomes %x", b, again)
		}
		third, err := cas.RecodeExtents(again[k:], content)
		if err != nil || !bytes.Equal(third, again) {
			t.Errorf("%x becomes %x and then %x, %v", b, again, third, err)
		}
	})
}
