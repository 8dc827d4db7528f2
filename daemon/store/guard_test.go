package store_test

import (
	"bytes"
	"sync"
	"testing"
	"time"

	"github.com/narfs/narfs/daemon/store"
)

// TestGuard: who is warned of a deletion can keep the contents.
func TestGuard(t *testing.T) {
	s := open(t, t.TempDir())
	p, archive := somePath(t, 1, "doomed"), makeNAR(t, seeded(1))
	mustImport(t, s, infoOf(p, archive), archive)
	var kept *store.Object
	end := s.Guard(func(e store.Event) {
		if !e.Removed || e.Path != p {
			t.Errorf("warned of %+v; want the removal of %s", e, p)
		}
		var err error
		if kept, err = s.ObjectBySlot(e.Slot); err != nil {
			t.Errorf("ObjectBySlot = %v; want that it can still be opened", err)
		}
	})
	if err := s.Delete(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sweep(t.Context(), store.SweepOptions{}); err != nil {
		t.Fatal(err)
	}
	content, err := kept.Content()
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := content.WriteNAR(t.Context(), &got); err != nil || !bytes.Equal(got.Bytes(), archive) {
		t.Errorf("WriteNAR after deletion and sweep = %d bytes, %v; want the %d bytes that were imported", got.Len(), err, len(archive))
	}
	kept.Close()
	end()
	mustImport(t, s, infoOf(p, archive), archive)
	kept = nil
	if err := s.Delete(t.Context(), p); err != nil || kept != nil {
		t.Errorf("Delete after the guard's end = %v, and it was told: %v", err, kept != nil)
	}
}

// TestGuardWaits: a deletion that has begun without a guard is over when there is one. What is valid then goes no way but
// past the guard.
func TestGuardWaits(t *testing.T) {
	s := open(t, t.TempDir())
	p, archive := somePath(t, 1, "doomed"), makeNAR(t, seeded(1))
	mustImport(t, s, infoOf(p, archive), archive)
	begun, goOn := make(chan struct{}), make(chan struct{})
	defer s.Guard(func(store.Event) { close(begun); <-goOn })()
	var deleting sync.WaitGroup
	deleting.Go(func() {
		if err := s.Delete(t.Context(), p); err != nil {
			t.Error(err)
		}
	})
	<-begun
	time.AfterFunc(10*time.Millisecond, func() { close(goOn) })
	defer s.Guard(func(e store.Event) { t.Errorf("warned of %+v, which had begun before", e) })()
	if ok, err := s.IsValid(p); ok || err != nil {
		t.Errorf("IsValid during the deletion that a new guard was not warned of = %v, %v; want false", ok, err)
	}
	deleting.Wait()
}
