package store_test

import (
	"sync"
	"testing"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

// The totals are exact whenever the count begins: beside imports and deletions, and after the next opening.
func TestTotals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	archive := makeNAR(t, seeded(1))
	add := func(s *store.Store, n int) nix.StorePath {
		info := infoOf(somePath(t, n, "totals"), archive)
		mustImport(t, s, info, archive)
		return info.Path
	}
	const before, beside = 300, 150
	var paths []nix.StorePath
	for n := range before {
		paths = append(paths, add(s, n))
	}
	mustClose(t, s)
	check := func(s *store.Store, want int) {
		t.Helper()
		paths, bytes, err := s.Totals()
		if err != nil || paths != int64(want) || bytes != int64(want)*int64(len(archive)) {
			t.Errorf("Totals() = %d, %d, %v; want %d, %d", paths, bytes, err, want, want*len(archive))
		}
	}
	for round := range 4 {
		s = open(t, dir)
		if most, _, known := s.TotalsIfKnown(); known || most < before { // begins
			t.Errorf("TotalsIfKnown() = %d, _, %v at first; want at least %d and false", most, known, before)
		}
		var work sync.WaitGroup
		work.Go(func() {
			for n := range beside {
				add(s, 1000*(round+1)+n)
			}
		})
		if round%2 == 1 { // with deletions, too
			work.Go(func() {
				for _, p := range paths[round*20:][:20] {
					if err := s.Delete(t.Context(), p); err != nil {
						t.Error(err)
					}
				}
			})
		}
		work.Wait()
		deleted := (round + 1) / 2 * 20
		check(s, before+(round+1)*beside-deleted)
		if got, _, known := s.TotalsIfKnown(); !known || got != int64(before+(round+1)*beside-deleted) {
			t.Errorf("TotalsIfKnown() = %d, _, %v after Totals", got, known)
		}
		mustClose(t, s)
	}
	// Who closes while it is counted does not wait long, and nobody counts behind.
	s = open(t, dir)
	s.TotalsIfKnown()
	mustClose(t, s)
	if _, _, err := s.Totals(); err == nil {
		t.Error("Totals() of a store that is closed = nil")
	}
}
