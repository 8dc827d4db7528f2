package cas_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/narfs/narfs/nar/cas"
)

// withLog has a store tell what it finds.
func withLog(o cas.Options) (cas.Options, *bytes.Buffer) {
	var said bytes.Buffer
	o.Logger = slog.New(slog.NewTextHandler(&said, nil))
	return o, &said
}

// indexFiles are the files of an index, by their names.
func indexFiles(tb testing.TB, dir string) (names []string) {
	tb.Helper()
	ents, err := os.ReadDir(filepath.Join(dir, "index"))
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range ents {
		names = append(names, e.Name())
	}
	return names
}

// Whatever is done to a file of the index, Open gives a store that has everything, and says so if it had to make the
// index again. What only reading can find, Verify finds.
func TestDamagedIndex(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	dir := filepath.Join(base, "store")
	s := open(t, dir, small())
	var all []archive
	for seed := range uint64(6) {
		all = append(all, makeNAR(t, seed, 40))
		put(t, s, all[seed])
		if seed == 3 {
			closeStore(t, s)
			s = open(t, dir, small())
		}
	}
	killed := filepath.Join(base, "killed")
	if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	spoil := map[string]func(rng *rand.Rand, b []byte) []byte{
		"missing":   nil,
		"empty":     func(*rand.Rand, []byte) []byte { return nil },
		"truncated": func(rng *rand.Rand, b []byte) []byte { return b[:rng.IntN(len(b))] },
		"cut":       func(_ *rand.Rand, b []byte) []byte { return b[:len(b)-1] },
		"flipped": func(rng *rand.Rand, b []byte) []byte {
			b[rng.IntN(min(len(b), 64<<10))] ^= 1 << rng.IntN(8)
			return b
		},
		"flipped at the end": func(rng *rand.Rand, b []byte) []byte {
			b[len(b)-1-rng.IntN(min(len(b), 100))] ^= 1 << rng.IntN(8)
			return b
		},
		"zeroed": func(rng *rand.Rand, b []byte) []byte {
			clear(b[rng.IntN(len(b)):])
			return b
		},
	}
	for _, from := range []string{dir, killed} {
		var rebuilt atomic.Int64
		t.Cleanup(func() {
			if n := rebuilt.Load(); n < 8 {
				t.Errorf("the index of the store that was %s was made again %d times", filepath.Base(from), n)
			}
		})
		for _, name := range indexFiles(t, from) {
			for how, change := range spoil {
				for run := range longRuns(20, 1) {
					t.Run(fmt.Sprintf("%s %s %s %d", filepath.Base(from), name, how, run), func(t *testing.T) {
						t.Parallel()
						copied := filepath.Join(t.TempDir(), "store")
						if err := os.CopyFS(copied, os.DirFS(from)); err != nil {
							t.Fatal(err)
						}
						file := filepath.Join(copied, "index", name)
						b, err := os.ReadFile(file)
						switch {
						case err != nil:
							t.Fatal(err)
						case change == nil:
							err = os.Remove(file)
						case len(b) == 0:
							return
						default:
							err = os.WriteFile(file, change(rand.New(rand.NewPCG(uint64(run), 5)), b), 0o600)
						}
						if err != nil {
							t.Fatal(err)
						}
						o, said := withLog(small())
						s := open(t, copied, o)
						if strings.Contains(said.String(), "made again") {
							rebuilt.Add(1)
						}
						bad, found := readAll(t, s, all), verify(t, s)
						if bad > 0 && (len(found) == 0 || !strings.HasSuffix(name, ".sst") && !strings.HasSuffix(name, ".mem")) {
							t.Errorf("%d objects are unreadable; Verify found %v", bad, found)
						}
						closeStore(t, s)
					})
				}
			}
		}
	}
}

// What is not the index's fault is no reason to make it again.
func TestIndexElsewhere(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("root may read every file")
	}
	dir := t.TempDir()
	s := open(t, dir, small())
	put(t, s, makeNAR(t, 1, 10))
	closeStore(t, s)
	if err := os.Chmod(filepath.Join(dir, "index", "MANIFEST"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := cas.Open(dir, small()); !errors.Is(err, syscall.EACCES) || errors.Is(err, cas.ErrIndex) {
		t.Errorf("Open = %v; want EACCES", err)
	}
}

// The index's folder is removed under an open store: it says so and ends, and the next one has all that was acknowledged.
func TestRemovedIndex(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, onePack())
	a, b := makeNAR(t, 1, 30), makeNAR(t, 2, 30)
	put(t, s, a)
	if err := os.RemoveAll(filepath.Join(dir, "index")); err != nil {
		t.Fatal(err)
	}
	put(t, s, b)
	if err := s.Close(); err == nil || !strings.Contains(err.Error(), "was removed") {
		t.Errorf("Close = %v; want that the folder was removed", err)
	}
	o, said := withLog(onePack())
	s = open(t, dir, o)
	if !strings.Contains(said.String(), "the index is missing and is made again") {
		t.Errorf("Open said %q", said)
	}
	check(t, s, a)
	check(t, s, b)
}

// Badger takes a table's block that is damaged for one that has no keys. A sweep on such an index costs nothing that
// an object needs: made again, the index has everything.
func TestSweepOnDamagedIndex(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	s := open(t, dir, small())
	var all []archive
	for seed := range uint64(8) {
		all = append(all, makeNAR(t, seed, 60))
		put(t, s, all[seed])
	}
	var b cas.Batch
	b.DeleteObject(all[7].hash)
	if err := s.Commit(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	var refused atomic.Int64
	t.Cleanup(func() {
		if refused.Load() == 0 {
			t.Error("no sweep was refused")
		}
	})
	for run := range longRuns(200, 20) {
		t.Run(fmt.Sprint(run), func(t *testing.T) {
			t.Parallel()
			copied := filepath.Join(t.TempDir(), "store")
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			tables, err := filepath.Glob(filepath.Join(copied, "index", "*.sst"))
			if err != nil || len(tables) == 0 {
				t.Fatalf("tables %v, %v", tables, err)
			}
			rng := rand.New(rand.NewPCG(uint64(run), 17))
			name := tables[rng.IntN(len(tables))]
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			at := rng.IntN(len(b) * 9 / 10)
			if run%2 == 0 {
				at = bytes.Index(b, all[rng.IntN(7)].hash[:]) // where the objects are
			}
			s := open(t, copied, small()) // which would notice some of it
			o := cas.SweepOptions{Compress: run%3 != 0}
			if run%4 == 1 {
				o.Keep = func() ([]*cas.Object, error) { // what is live is known by then
					flipInPlace(t, name, int64(at))
					return nil, nil
				}
			} else {
				flipInPlace(t, name, int64(at))
			}
			if _, err := s.Sweep(t.Context(), o); err != nil {
				refused.Add(1)
			}
			closeStore(t, s)
			if s, err = cas.RebuildIndex(copied, small()); err != nil {
				t.Fatal(err)
			}
			for _, a := range all[:7] {
				check(t, s, a)
			}
			closeStore(t, s)
		})
	}
}

// flipInPlace changes a file that is mapped into memory.
func flipInPlace(tb testing.TB, name string, at int64) {
	tb.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		tb.Fatal(err)
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	b[0] ^= 4
	_, werr := f.WriteAt(b[:], at)
	if err := errors.Join(err, werr, f.Close()); err != nil {
		tb.Fatal(err)
	}
}

// A flipped bit in a block that holds records makes no path vanish.
func TestDamagedRecords(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	s := open(t, dir, onePack())
	a := makeNAR(t, 1, 40)
	put(t, s, a)
	closeStore(t, s)
	tables, err := filepath.Glob(filepath.Join(dir, "index", "*.sst"))
	if err != nil || len(tables) != 1 {
		t.Fatalf("tables %v, %v; want one", tables, err)
	}
	b, err := os.ReadFile(tables[0])
	if err != nil {
		t.Fatal(err)
	}
	b[bytes.Index(b, a.hash[:])] ^= 1
	writeFile(t, tables[0], string(b))
	o, said := withLog(onePack())
	s = open(t, dir, o)
	check(t, s, a)
	if !strings.Contains(said.String(), "made again") {
		t.Errorf("Open said %q", said)
	}
}
