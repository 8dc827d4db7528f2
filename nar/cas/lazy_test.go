package cas_test

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/narfs/narfs/nar/cas"
)

func lazyImport(tb testing.TB, s *cas.Store, a archive, i int, lazy bool) error {
	tb.Helper()
	st, err := s.Ingest(tb.Context(), strings.NewReader(string(a.nar)), cas.IngestOptions{})
	if err != nil {
		return err
	}
	b := cas.Batch{Lazy: lazy}
	b.PutObject(st)
	b.Put([]byte(strconv.Itoa(i)), a.hash[:])
	return s.Commit(tb.Context(), &b)
}

// imported returns how many of the archives, which were imported in order, are there. None may be missing before one that is.
func imported(tb testing.TB, s *cas.Store, archives []archive) (n int) {
	tb.Helper()
	gap := -1
	for i, a := range archives {
		_, kerr := s.Get([]byte(strconv.Itoa(i)))
		_, oerr := s.Object(a.hash)
		if (kerr == nil) != (oerr == nil) {
			tb.Fatalf("archive %d: key %v, object %v: half a commit", i, kerr, oerr)
		}
		switch {
		case oerr != nil && gap < 0:
			gap = i
		case oerr == nil && gap >= 0:
			tb.Fatalf("archive %d is there and %d, which came before it, is not", i, gap)
		case oerr == nil:
			n++
			check(tb, s, a)
		}
	}
	if found := verify(tb, s); len(found) > 0 {
		tb.Fatalf("Verify found %v", found)
	}
	return n
}

func marked(tb testing.TB, dir string) bool {
	tb.Helper()
	_, err := os.Stat(filepath.Join(dir, "unsynced"))
	if err != nil && !errors.Is(err, iofs.ErrNotExist) {
		tb.Fatal(err)
	}
	return err == nil
}

// Power is cut among lazy commits and others: what came before the last one that was not lazy is there, of the rest a part from
// the beginning, and the index, which knew more, is made again.
func TestPowerCutLazy(t *testing.T) {
	t.Parallel()
	for run := range longRuns(60, 20) {
		t.Run(fmt.Sprint(run), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(uint64(run), 9))
			base := t.TempDir()
			dir, after := filepath.Join(base, "before"), filepath.Join(base, "after")
			d := newDisk(filepath.Join(dir, "packs"))
			o := smallDisk(d)
			o.BootID = func() string { return "first" }
			s := open(t, dir, o)
			var archives []archive
			durable := 0
			for i := range 4 + rng.IntN(12) {
				a := makeNAR(t, uint64(100*run+i), 6)
				lazy := rng.IntN(4) > 0
				archives = append(archives, a)
				if err := lazyImport(t, s, a, i, lazy); err != nil {
					t.Fatal(err)
				}
				if !lazy {
					durable = i + 1
				}
			}
			if rng.IntN(4) == 0 {
				if err := s.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
				durable = len(archives)
			}
			if !marked(t, dir) {
				durable = len(archives) // a checkpoint came
			}
			d.cutPower(t, filepath.Join(after, "packs"), rng)
			copyTree(t, dir, after)
			o = small()
			o.PackSize = 24 << 10
			o.BootID = func() string { return "second" }
			s2 := open(t, after, o)
			got := imported(t, s2, archives)
			if got < durable {
				t.Errorf("%d commits are there; %d were durable", got, durable)
			}
			if marked(t, after) {
				t.Error("the store is marked as unsynced after opening")
			}
			if err := lazyImport(t, s2, makeNAR(t, 99_999, 6), 1000, false); err != nil {
				t.Errorf("after the power cut: %v", err)
			}
		})
	}
}

// The end of the process loses nothing.
func TestKillLazy(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	dir, after := filepath.Join(base, "before"), filepath.Join(base, "after")
	s := open(t, dir, small())
	var archives []archive
	for i := range 10 {
		archives = append(archives, makeNAR(t, uint64(i), 6))
		if err := lazyImport(t, s, archives[i], i, true); err != nil {
			t.Fatal(err)
		}
	}
	copyTree(t, dir, after)
	if err := os.CopyFS(filepath.Join(after, "packs"), os.DirFS(filepath.Join(dir, "packs"))); err != nil {
		t.Fatal(err)
	}
	if !marked(t, after) {
		t.Error("the store is not marked as unsynced")
	}
	s2 := open(t, after, small())
	if got := imported(t, s2, archives); got != len(archives) {
		t.Errorf("%d commits are there; want %d", got, len(archives))
	}
	if marked(t, after) {
		t.Error("the store is marked as unsynced after opening")
	}
}

// What nobody asks for becomes durable after a while, and closing waits for it.
func TestLazyBecomesDurable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, small())
	if err := lazyImport(t, s, makeNAR(t, 1, 6), 1, true); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for begun := time.Now(); marked(t, dir); <-tick.C {
		if time.Since(begun) > 20*time.Second {
			t.Fatal("the store is still marked as unsynced")
		}
	}
	if err := lazyImport(t, s, makeNAR(t, 2, 6), 2, true); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if marked(t, dir) {
		t.Error("the store is marked as unsynced after Close")
	}
}
