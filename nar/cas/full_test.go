package cas_test

import (
	"bytes"
	"errors"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/narfs/narfs/nar/cas"
)

// fullDisk has as much room as it is told.
type fullDisk struct {
	*disk

	free atomic.Int64
}

func (d *fullDisk) Free() (int64, error) { return d.free.Load(), nil }

// On a full disk nothing can be added, and what is deleted and swept gives room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	d := &fullDisk{disk: newDisk(t.TempDir())}
	d.free.Store(1 << 40)
	o := small()
	o.Files, o.Reserve = d, 1<<20
	s := open(t, t.TempDir(), o)
	var all []archive
	for seed := range uint64(8) {
		all = append(all, makeNAR(t, seed, 100))
		put(t, s, all[seed])
	}
	d.free.Store(1<<20 - 1)
	if _, err := s.Ingest(t.Context(), bytes.NewReader(all[0].nar), cas.IngestOptions{}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Ingest = %v; want ENOSPC", err)
	}
	var b cas.Batch
	b.Put([]byte("x"), []byte("y"))
	b.DeleteObject(all[0].hash)
	if err := s.Commit(t.Context(), &b); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Commit that puts something = %v; want ENOSPC", err)
	}
	b = cas.Batch{}
	for i, a := range all {
		if i%4 != 0 { // so that some packs are worth rewriting
			b.DeleteObject(a.hash)
		}
	}
	if err := s.Commit(t.Context(), &b); err != nil {
		t.Errorf("Commit that deletes = %v", err)
	}
	res, err := s.Sweep(t.Context(), cas.SweepOptions{})
	if err != nil || res.Freed == 0 || res.Moved != 0 {
		t.Errorf("Sweep = %+v, %v; want that it frees some and moves nothing", res, err)
	}
	d.free.Store(1 << 40)
	if res, err = s.Sweep(t.Context(), cas.SweepOptions{}); err != nil || res.Moved == 0 {
		t.Errorf("Sweep with room = %+v, %v; want that it rewrites packs", res, err)
	}
	for i, a := range all {
		if i%4 == 0 {
			check(t, s, a)
		}
	}
	if found := verify(t, s); len(found) > 0 {
		t.Errorf("Verify found %v", found)
	}
}
