package store_test

import (
	"testing"
	"time"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

// TestCollectReportWaits: who is told of deleted and kept paths may wait for somebody, such as the reader of a pipe, without
// keeping all others from the store.
func TestCollectReportWaits(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	archive := makeNAR(t, node{text: "x"})
	dead, kept := infoOf(somePath(t, 1, "dead"), archive), infoOf(somePath(t, 2, "kept"), archive)
	mustImport(t, s, dead, archive)
	mustImport(t, s, kept, archive)
	pins := s.Pin("session 7")
	pins.Add(kept.Path)
	c, err := s.BeginCollection(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	others := func() {
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.Pin("session 8").Add(dead.Path)
			mustImport(t, s, dead, archive)
		}()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Error("nobody can use the store while the collector tells what it does")
		}
	}
	told := 0
	report := store.CollectReport{
		Deleted: func(infos []nix.PathInfo) { told += len(infos); others() },
		Kept:    func(nix.StorePath, error) { told++; others() },
	}
	if err := c.Delete(t.Context(), []nix.StorePath{dead.Path, kept.Path}, report); err != nil || told != 2 {
		t.Errorf("Delete = %v, and %d paths were told; want 2", err, told)
	}
	mustHave(t, s, dead, archive)
}
