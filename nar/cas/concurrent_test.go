package cas_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/narfs/narfs/nar/cas"
)

// Imports, reads, deletions and sweeps at once: what is acknowledged stays readable, whatever
// the sweeps do meanwhile.
func TestConcurrentSweep(t *testing.T) {
	for name, o := range map[string]cas.Options{"many packs": small(), "one pack": onePack()} {
		t.Run(name, func(t *testing.T) { concurrentSweep(t, o) })
	}
}

func concurrentSweep(t *testing.T, o cas.Options) {
	t.Helper()
	s := open(t, t.TempDir(), o)
	var archives []archive
	for seed := range uint64(12) {
		archives = append(archives, makeNAR(t, seed, 30))
	}
	stop := make(chan struct{})
	var sweeper, workers sync.WaitGroup
	sweeper.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := s.Sweep(t.Context(), cas.SweepOptions{Compress: rand.IntN(2) == 0}); err != nil {
				t.Errorf("Sweep: %v", err)
				return
			}
		}
	})
	sweeper.Go(func() { // also who only counts
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := s.Stats(); err != nil {
				t.Errorf("Stats: %v", err)
				return
			}
		}
	})
	for w := range 4 {
		workers.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			for round := range longRuns(60, 12) {
				a := archives[rng.IntN(3)*4+w] // every worker has its own objects, chunks are shared
				if err := putReadDelete(t, s, a, fmt.Sprintf("%d/%d", w, round), round%3 != 0); err != nil {
					t.Errorf("worker %d, round %d: %v", w, round, err)
					return
				}
			}
		})
	}
	workers.Wait()
	close(stop)
	sweeper.Wait()
	if found := verify(t, s); len(found) > 0 {
		t.Errorf("Verify found %v", found)
	}
}

func putReadDelete(t *testing.T, s *cas.Store, a archive, key string, remove bool) error {
	t.Helper()
	st, err := s.Ingest(t.Context(), bytes.NewReader(a.nar), cas.IngestOptions{})
	if err != nil {
		return err
	}
	var b cas.Batch
	b.PutObject(st)
	b.Put([]byte(key), a.hash[:])
	if err := s.Commit(t.Context(), &b); err != nil {
		return err
	}
	o, err := s.Object(a.hash)
	if err != nil {
		return err
	}
	var got bytes.Buffer
	if err := o.WriteNAR(t.Context(), &got); err != nil {
		return err
	}
	if !bytes.Equal(got.Bytes(), a.nar) {
		return errors.New("other bytes")
	}
	if _, err := o.Usage(nil); err != nil {
		return err
	}
	if remove {
		var b cas.Batch
		b.DeleteObject(a.hash)
		return s.Commit(t.Context(), &b)
	}
	return nil
}

// A sweep leaves alone what is staged, and what it was told to keep.
func TestSweepKeeps(t *testing.T) {
	s := open(t, t.TempDir(), small())
	a, kept := makeNAR(t, 1, 80), makeNAR(t, 2, 80)
	st, err := s.Ingest(t.Context(), bytes.NewReader(a.nar), cas.IngestOptions{})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, kept)
	o, err := s.Object(kept.hash)
	if err != nil {
		t.Fatal(err)
	}
	var b cas.Batch
	b.DeleteObject(kept.hash)
	if err := s.Commit(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := s.Sweep(t.Context(), cas.SweepOptions{Keep: func() ([]*cas.Object, error) { return []*cas.Object{o}, nil }, Compress: true}); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.WriteNAR(t.Context(), io.Discard); err != nil {
		t.Errorf("deleted object that was kept: %v", err)
	}
	b = cas.Batch{}
	b.PutObject(st)
	if err := s.Commit(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	check(t, s, a)
	if _, err := s.Sweep(t.Context(), cas.SweepOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := o.WriteNAR(t.Context(), io.Discard); !errors.Is(err, cas.ErrCorrupt) {
		t.Errorf("deleted object after a sweep: %v; want ErrCorrupt", err)
	}
	check(t, s, a)
}

// What is staged keeps a frame of which a part was dead long before.
func TestSweepOfHalfDeadFrame(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), onePack())
	data := make([]byte, 3000)
	rng := rand.NewChaCha8([32]byte{3})
	_, _ = rng.Read(data)
	whole, half := fileNAR(t, data), fileNAR(t, data[:2500])
	put(t, s, whole)
	put(t, s, half)
	var b cas.Batch
	b.DeleteObject(whole.hash)
	if err := s.Commit(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	if res, err := s.Sweep(t.Context(), cas.SweepOptions{}); err != nil || res.Chunks == 0 || res.Packs > 0 {
		t.Fatalf("Sweep = %+v, %v; want that it takes some chunks of a frame that remains", res, err)
	}
	st, err := s.Ingest(t.Context(), bytes.NewReader(half.nar), cas.IngestOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Discard()
	if _, err := s.Sweep(t.Context(), cas.SweepOptions{Compress: true}); err != nil {
		t.Errorf("Sweep = %v", err)
	}
	check(t, s, half)
}

// A sweep that cannot be told what is still being read takes nothing.
func TestSweepKeepFails(t *testing.T) {
	s := open(t, t.TempDir(), small())
	a := makeNAR(t, 1, 80)
	put(t, s, a)
	o, err := s.Object(a.hash)
	if err != nil {
		t.Fatal(err)
	}
	var b cas.Batch
	b.DeleteObject(a.hash)
	if err := s.Commit(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	unknown := errors.New("unknown")
	if res, err := s.Sweep(t.Context(), cas.SweepOptions{Keep: func() ([]*cas.Object, error) { return nil, unknown }}); !errors.Is(err, unknown) || res.Chunks != 0 {
		t.Errorf("Sweep = %+v, %v; want %v", res, err, unknown)
	}
	if err := o.WriteNAR(t.Context(), io.Discard); err != nil {
		t.Errorf("deleted object after the sweep that failed: %v", err)
	}
}

// What is staged is found also while a sweep begins, when its chunks move from the pending set to the index.
func TestLocateAcrossSweep(t *testing.T) {
	s := open(t, t.TempDir(), small())
	st, err := s.Ingest(t.Context(), bytes.NewReader(makeNAR(t, 1, 10).nar), cas.IngestOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Discard()
	if err := cas.LocateAcross(st, func() error { _, err := s.Sweep(t.Context(), cas.SweepOptions{}); return err }); err != nil {
		t.Errorf("looking for staged chunks across a sweep: %v", err)
	}
}
