package cas_test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/narfs/narfs/nar/cas"
)

// Who opens and closes a store without changing it writes nothing: no checkpoint, no table for it, and nothing that would
// pile up. Only Badger's MANIFEST has another time then, as it is cut to the length that it has.
func TestNothingChanged(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	s := open(t, dir, small())
	put(t, s, makeNAR(t, 1, 100))
	closeStore(t, s)
	now := func() string {
		packs, index := state(t, filepath.Join(dir, "packs")), state(t, filepath.Join(dir, "index"))
		return packs + regexp.MustCompile(`(?m)^MANIFEST (\d+) \d+`).ReplaceAllString(index, "MANIFEST $1")
	}
	before := now()
	for range 3 {
		s = open(t, dir, small())
		check(t, s, makeNAR(t, 1, 100))
		closeStore(t, s)
		if after := now(); before != after {
			t.Fatalf("from\n%s\nto\n%s", before, after)
		}
	}
	// A process that was killed when it had told all that it had changed leaves as little to do.
	s = open(t, dir, small())
	put(t, s, makeNAR(t, 2, 5))
	killed := filepath.Join(t.TempDir(), "killed")
	if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	dir = killed
	closeStore(t, open(t, dir, small()))
	before = now()
	closeStore(t, open(t, dir, small()))
	if after := now(); before != after {
		t.Errorf("after a kill: from\n%s\nto\n%s", before, after)
	}
}

// Occupied says what the files occupy, without holes.
func TestOccupied(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := onePack()
	o.FrameSize = 32 << 10
	s := open(t, dir, o)
	for i := range 8 {
		put(t, s, ownNAR(t, i))
	}
	before, err := s.Occupied()
	if size := sizeOf(t, packFile(dir)); err != nil || before < size || before > 4*size+8<<20 {
		t.Errorf("Occupied = %d, %v; want about the pack's %d, and the index", before, err, size)
	}
	var b cas.Batch
	for i := range 6 {
		b.DeleteObject(ownNAR(t, i).hash)
	}
	if err := s.Commit(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sweep(t.Context(), cas.SweepOptions{}); err != nil {
		t.Fatal(err)
	}
	if after, err := s.Occupied(); err != nil || after >= before {
		t.Errorf("after a sweep, Occupied = %d, %v; want less than %d", after, err, before)
	}
}
