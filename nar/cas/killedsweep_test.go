package cas_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/narfs/narfs/nar/cas"
)

var errKilled = errors.New("killed")

// killFrom makes every operation from number at on fail, as if the process had ended.
func (d *disk) killFrom(at int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range 1000 {
		d.fail[d.ops+at+i] = errKilled
	}
}

// A sweep is killed at each of its writes, syncs, punches and removals. What it leaves is no damage, neither for an index
// that catches up nor for one that is made again, and the next sweep comes to the end.
func TestKilledSweep(t *testing.T) {
	t.Parallel()
	for _, compress := range []bool{false, true} {
		t.Run(fmt.Sprintf("compress %v", compress), func(t *testing.T) {
			t.Parallel()
			base := t.TempDir()
			first := filepath.Join(base, "first")
			o := small()
			o.FrameSize, o.PackSize = 32<<10, 256<<10
			s := open(t, first, o)
			var all []archive
			add := func(n int) {
				t.Helper()
				for range n {
					all = append(all, ownNAR(t, len(all)))
					put(t, s, all[len(all)-1])
				}
			}
			remove := func(which ...int) {
				t.Helper()
				var b cas.Batch
				for _, i := range which {
					b.DeleteObject(all[i].hash)
				}
				if err := s.Commit(t.Context(), &b); err != nil {
					t.Fatal(err)
				}
			}
			// A pack that gets holes while it grows, and is worth rewriting later; one that gets them when it is full; and one
			// that gets its first ones.
			add(4)
			remove(1)
			if res, err := s.Sweep(t.Context(), cas.SweepOptions{}); err != nil || res.Freed == 0 {
				t.Fatalf("Sweep = %+v, %v; want that it frees some", res, err)
			}
			add(12)
			remove(5, 10)
			if res, err := s.Sweep(t.Context(), cas.SweepOptions{}); err != nil || res.Freed == 0 {
				t.Fatalf("Sweep = %+v, %v; want that it frees some", res, err)
			}
			remove(0, 2, 3, 6, 7, 8, 12)
			closeStore(t, s)
			kept := []int{4, 9, 11, 13, 14, 15}

			holds := func(at int, how string, s *cas.Store) {
				t.Helper()
				for _, i := range kept {
					check(t, s, all[i])
				}
				if d := s.Damage(); len(d) > 0 {
					t.Errorf("killed at %d, %s: damage %v", at, how, d)
				}
				if found := verify(t, s); len(found) > 0 {
					t.Errorf("killed at %d, %s: Verify found %v", at, how, found)
				}
			}
			step := max(1, 12/longRuns(12, 3))
			for at := 1; ; at += step {
				dir := filepath.Join(base, fmt.Sprint("killed", at))
				if err := os.CopyFS(dir, os.DirFS(first)); err != nil {
					t.Fatal(err)
				}
				d := newDisk(filepath.Join(dir, "packs"))
				faulty := o
				faulty.Files = d
				s := open(t, dir, faulty)
				d.killFrom(at)
				_, err := s.Sweep(t.Context(), cas.SweepOptions{Compress: compress})
				if err != nil && !errors.Is(err, errKilled) {
					t.Fatal(err)
				}
				rebuilt := filepath.Join(base, fmt.Sprint("rebuilt", at))
				if cerr := os.CopyFS(rebuilt, os.DirFS(dir)); cerr != nil {
					t.Fatal(cerr)
				}
				_ = s.Close() // cannot write any more
				s = open(t, dir, o)
				holds(at, "caught up", s)
				closeStore(t, s)
				if s, rerr := cas.RebuildIndex(rebuilt, o); rerr != nil {
					t.Fatal(rerr)
				} else {
					holds(at, "rebuilt", s)
					if _, serr := s.Sweep(t.Context(), cas.SweepOptions{Compress: compress}); serr != nil {
						t.Fatal(serr)
					}
					holds(at, "rebuilt and swept", s)
					closeStore(t, s)
				}
				if s, rerr := cas.RebuildIndex(rebuilt, o); rerr != nil {
					t.Fatal(rerr)
				} else {
					holds(at, "rebuilt, swept and rebuilt", s)
					closeStore(t, s)
				}
				if err == nil {
					return
				}
			}
		})
	}
}
