package cas_test

import (
	"testing"

	"github.com/narfs/narfs/nar/cas"
)

// A sweep that punches holes into a pack while Verify reads it leaves no damage.
func TestVerifyBesideSweep(t *testing.T) {
	s := open(t, t.TempDir(), cas.Options{})
	stays, goes := makeNAR(t, 1, 600), makeNAR(t, 2, 200)
	put(t, s, stays)
	put(t, s, goes)
	var found []cas.Damage
	freed := int64(-1)
	err := s.Verify(t.Context(), cas.VerifyOptions{Progress: func(int64, int64) {
		if freed >= 0 {
			return
		}
		// Now the first pack is being read.
		var b cas.Batch
		b.DeleteObject(goes.hash)
		if err := s.Commit(t.Context(), &b); err != nil {
			t.Error(err)
		}
		res, err := s.Sweep(t.Context(), cas.SweepOptions{})
		if err != nil {
			t.Error(err)
		}
		freed = res.Freed
	}}, func(d cas.Damage) { found = append(found, d) })
	if err != nil {
		t.Fatal(err)
	}
	if freed <= 0 {
		t.Errorf("the sweep freed %d bytes; the test shows nothing", freed)
	}
	for _, d := range found {
		t.Errorf("Verify found %v", d.Err)
	}
	check(t, s, stays)
}
