package cas_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/narfs/narfs/nar/cas"
)

// One bit of a closed store is flipped somewhere: reading gives the right bytes or an
// error, Verify names what is damaged, and a rebuilt index mends what was only the index.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	dir := filepath.Join(base, "store")
	s := open(t, dir, small())
	var all []archive
	for seed := range uint64(6) {
		all = append(all, makeNAR(t, seed, 40))
		put(t, s, all[seed])
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	packs, err := filepath.Glob(filepath.Join(dir, "packs", "*"))
	if err != nil {
		t.Fatal(err)
	}
	tables, err := filepath.Glob(filepath.Join(dir, "index", "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("no tables in the index: %v", err)
	}
	runs := longRuns(120, 30)
	for run := range runs {
		t.Run(fmt.Sprint(run), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(uint64(run), 3))
			names := packs
			if run%3 == 0 {
				names = tables
			}
			copied := filepath.Join(t.TempDir(), "store")
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			rel, _ := filepath.Rel(dir, names[rng.IntN(len(names))])
			at := flip(t, filepath.Join(copied, rel), rng)
			s, err := cas.Open(copied, small())
			if errors.Is(err, cas.ErrIndex) && run%3 == 0 {
				if s, err = cas.RebuildIndex(copied, small()); err != nil {
					t.Fatal(err)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			bad := readAll(t, s, all)
			found := verify(t, s)
			if run%3 != 0 && len(found) == 0 {
				t.Errorf("flip at %d of %s: Verify found nothing", at, rel)
			}
			if bad > 0 && len(found) == 0 {
				t.Errorf("flip at %d of %s: %d objects unreadable and Verify found nothing", at, rel, bad)
			}
			if run%3 != 0 {
				return
			}
			closeStore(t, s)
			if s, err = cas.RebuildIndex(copied, small()); err != nil {
				t.Fatal(err)
			}
			if bad := readAll(t, s, all); bad > 0 {
				t.Errorf("flip at %d of %s: %d objects unreadable with a new index", at, rel, bad)
			}
		})
	}
}

func flip(tb testing.TB, name string, rng *rand.Rand) int {
	tb.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	at := rng.IntN(len(b))
	b[at] ^= 1 << rng.IntN(8)
	if err := os.WriteFile(name, b, 0o600); err != nil {
		tb.Fatal(err)
	}
	return at
}

// readAll reads all archives and returns how many could not be read.
func readAll(tb testing.TB, s *cas.Store, all []archive) (bad int) {
	tb.Helper()
	for _, a := range all {
		o, err := s.Object(a.hash)
		if err == nil {
			var got bytes.Buffer
			if err = o.WriteNAR(tb.Context(), &got); err == nil && !bytes.Equal(got.Bytes(), a.nar) {
				tb.Errorf("WriteNAR gave wrong bytes and no error")
			}
		}
		if err != nil {
			bad++
		}
	}
	return bad
}

// A pack that lost its end, or is gone, is reported for every object that needs it.
func TestMissingPack(t *testing.T) {
	for _, how := range []string{"truncated", "gone"} {
		t.Run(how, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir, small())
			a := makeNAR(t, 1, 300)
			put(t, s, a)
			closeStore(t, s)
			packs, err := filepath.Glob(filepath.Join(dir, "packs", "*"))
			if err != nil || len(packs) < 2 {
				t.Fatalf("packs %v, %v; want at least two", packs, err)
			}
			if how == "gone" {
				err = os.Remove(packs[0])
			} else {
				err = os.Truncate(packs[0], 5000)
			}
			if err != nil {
				t.Fatal(err)
			}
			s = open(t, dir, small())
			if bad := readAll(t, s, []archive{a}); bad != 1 {
				t.Errorf("%d objects unreadable; want 1", bad)
			}
			object := false
			for _, d := range verify(t, s) {
				object = object || d.Object && d.NarHash == a.hash
			}
			if !object {
				t.Errorf("Verify did not name the object")
			}
			// Importing the same again heals it.
			put(t, s, makeNAR(t, 2, 10))
		})
	}
}
