package cas_test

import (
	"path/filepath"
	"testing"
)

// Files that a killed process had created and not yet written to do not make the index unusable.
func TestOpenAfterKilledCreate(t *testing.T) {
	t.Parallel()
	for _, names := range [][]string{{"000099.vlog"}, {"00099.mem"}, {"000099.vlog", "00099.mem"}} {
		dir := t.TempDir()
		s := open(t, dir, small())
		a := makeNAR(t, 3, 10)
		put(t, s, a)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			writeFile(t, filepath.Join(dir, "index", name), "")
		}
		check(t, open(t, dir, small()), a)
	}
}
