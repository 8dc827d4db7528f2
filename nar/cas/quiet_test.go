package cas_test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
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
