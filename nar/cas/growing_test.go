package cas_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/narfs/narfs/nar/cas"
)

// state is what stands in a folder: names, sizes, times and inodes.
func state(tb testing.TB, dir string) string {
	tb.Helper()
	ents, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	text := ""
	for _, e := range ents {
		info, err := e.Info()
		if err != nil {
			tb.Fatal(err)
		}
		text += fmt.Sprintf("%s %d %v %v\n", e.Name(), info.Size(), info.ModTime().UnixNano(), inode(info))
	}
	return text
}

func packNames(tb testing.TB, dir string) (names []string) {
	tb.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "packs", "*"))
	if err != nil {
		tb.Fatal(err)
	}
	return names
}

// Also a store that is smaller than one pack gets its better compression, and its space back; and a sweep with nothing
// to do does nothing.
func TestSweepOfGrowingPack(t *testing.T) {
	t.Parallel()
	for _, compress := range []bool{false, true} {
		t.Run(fmt.Sprintf("compress %v", compress), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := open(t, dir, onePack())
			sweep := func(want bool) {
				t.Helper()
				res, err := s.Sweep(t.Context(), cas.SweepOptions{Compress: compress})
				if err != nil || (res.Packs > 0) != want {
					t.Errorf("Sweep = %+v, %v; want that it rewrites the pack: %v", res, err, want)
				}
			}
			a := makeNAR(t, 1, 100)
			put(t, s, a)
			put(t, s, makeNAR(t, 2, 300))
			if compress {
				sweep(true)
			} else {
				sweep(false)
			}
			var b cas.Batch
			b.DeleteObject(makeNAR(t, 2, 300).hash)
			if err := s.Commit(t.Context(), &b); err != nil {
				t.Fatal(err)
			}
			sweep(true)
			check(t, s, a)
			st, err := s.Stats()
			if err != nil || st.Packs != 1 || compress && st.Light > 0 || st.PackBytes > 2*st.Unique {
				t.Errorf("Stats = %+v, %v", st, err)
			}
			before := state(t, filepath.Join(dir, "packs"))
			for range 3 {
				sweep(false)
			}
			if after := state(t, filepath.Join(dir, "packs")); after != before {
				t.Errorf("sweeps with nothing to do have changed the packs\n%s\nto\n%s", before, after)
			}
			// A little that comes is no reason to write everything again, and much of it makes no heap of packs.
			total := int64(0)
			for i := range 30 {
				put(t, s, makeNAR(t, uint64(10+i), 20))
				res, err := s.Sweep(t.Context(), cas.SweepOptions{Compress: compress})
				if err != nil {
					t.Fatal(err)
				}
				total += res.Moved
			}
			if st, err = s.Stats(); err != nil || st.Packs > 1 {
				t.Errorf("after many small imports: %+v, %v; want one pack", st, err)
			}
			if total > 8*st.Unique {
				t.Errorf("%d bytes were written again for %d", total, st.Unique)
			}
			closeStore(t, s)
			if s, err = cas.RebuildIndex(dir, onePack()); err != nil {
				t.Fatal(err)
			}
			check(t, s, a)
			if found := verify(t, s); len(found) > 0 || len(s.Damage()) > 0 {
				t.Errorf("Verify found %v, Open %v", found, s.Damage())
			}
			closeStore(t, s)
		})
	}
}

// What a sweep says that it has freed is what the packs occupy less, also where it writes again what is live.
func TestFreed(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "store"), onePack())
	defer closeStore(t, s)
	gone := makeNAR(t, 1, 2000)
	put(t, s, gone)
	put(t, s, makeNAR(t, 2, 500))
	before, err := s.Stats()
	if err != nil {
		t.Fatal(err)
	}
	var b cas.Batch
	b.DeleteObject(gone.hash)
	if err := s.Commit(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	res, err := s.Sweep(t.Context(), cas.SweepOptions{})
	if err != nil || res.Moved == 0 {
		t.Fatalf("Sweep = %+v, %v; want that it writes the pack again", res, err)
	}
	after, err := s.Stats()
	if err != nil {
		t.Fatal(err)
	}
	// Records make the difference.
	if less := before.PackBytes - after.PackBytes; res.Freed < less*9/10 || res.Freed > less*11/10 {
		t.Errorf("Sweep = %+v; the packs have %d bytes less", res, less)
	}
}

// Damage that nothing needs goes with a sweep. One that an object needs keeps its pack; and if not even its place is
// known, nothing is given back.
func TestSweepOfDamage(t *testing.T) {
	t.Parallel()
	for _, rebuilt := range []bool{false, true} {
		for _, what := range []string{"data", "records"} {
			t.Run(fmt.Sprintf("%s, rebuilt %v", what, rebuilt), func(t *testing.T) {
				t.Parallel()
				dir := filepath.Join(t.TempDir(), "store")
				all := logOf(t, dir, filepath.Join(t.TempDir(), "early"), 6, true)
				b, err := os.ReadFile(packFile(dir))
				if err != nil {
					t.Fatal(err)
				}
				at := all[2].from + 2000
				if what == "records" {
					at = all[2].to - 20
				}
				b[at] ^= 1
				writeFile(t, packFile(dir), string(b))
				var s *cas.Store
				if rebuilt {
					if s, err = cas.RebuildIndex(dir, onePack()); err != nil {
						t.Fatal(err)
					}
				} else {
					s = open(t, dir, onePack())
				}
				holds := func() {
					t.Helper()
					for i, r := range all {
						if i != 2 || what == "records" && !rebuilt {
							check(t, s, r.archive)
						}
					}
				}
				for range 3 {
					_, err := s.Sweep(t.Context(), cas.SweepOptions{Compress: true})
					if refused := errors.Is(err, cas.ErrCorrupt); refused != (what == "data" && rebuilt) || err != nil && !refused {
						t.Fatal(err)
					}
					holds()
				}
				if names := packNames(t, dir); len(names) > 2 {
					t.Errorf("packs %v; want that damage keeps one at most", names)
				}
				if what == "data" {
					put(t, s, all[2].archive) // as it is broken, so is what finds it
					var b cas.Batch
					b.DeleteObject(all[2].hash)
					if err := s.Commit(t.Context(), &b); err != nil {
						t.Fatal(err)
					}
					if _, err := s.Sweep(t.Context(), cas.SweepOptions{}); err != nil {
						t.Fatal(err)
					}
				}
				// The log is whole again, and says all that the index has.
				if found := verify(t, s); len(found) > 0 {
					t.Errorf("Verify found %v", found)
				}
				closeStore(t, s)
				if s, err = cas.RebuildIndex(dir, onePack()); err != nil {
					t.Fatal(err)
				}
				if d := s.Damage(); len(d) > 0 {
					t.Errorf("damage is left: %v", d)
				}
				holds()
				closeStore(t, s)
			})
		}
	}
}
