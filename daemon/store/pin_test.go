package store_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

func TestAddValid(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	archive := makeNAR(t, node{text: "x"})
	var valid []nix.StorePath
	for i := range 3 {
		info := infoOf(somePath(t, i, "p"), archive)
		mustImport(t, s, info, archive)
		valid = append(valid, info.Path)
	}
	asked := []nix.StorePath{valid[2], somePath(t, 9, "p"), valid[0], valid[2], valid[1]}
	pins := s.Pin("session")
	got, err := pins.AddValid(asked)
	if want := []nix.StorePath{valid[2], valid[0], valid[2], valid[1]}; err != nil || !slices.Equal(got, want) {
		t.Errorf("AddValid = %v, %v; want %v", got, err, want)
	}
	if got := pins.Len(); got != 3 {
		t.Errorf("Len() = %d; want 3: what is not valid is not pinned", got)
	}
	var inUse *store.InUseError
	if err := s.Delete(t.Context(), valid[1]); !errors.As(err, &inUse) {
		t.Errorf("Delete = %v; want *InUseError", err)
	}
	pins.Release()
	if err := s.Delete(t.Context(), valid...); err != nil {
		t.Errorf("Delete after Release = %v", err)
	}
}

// What is answered to be valid stays so, whoever deletes meanwhile.
func TestAddValidAgainstDelete(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	archive := makeNAR(t, node{text: "x"})
	info := infoOf(somePath(t, 1, "p"), archive)
	for range 60 {
		mustImport(t, s, info, archive)
		var wg sync.WaitGroup
		wg.Go(func() { _ = s.Delete(t.Context(), info.Path) })
		pins := s.Pin("session")
		got, err := pins.AddValid([]nix.StorePath{info.Path})
		wg.Wait()
		after, verr := s.IsValid(info.Path)
		if err != nil || verr != nil || after != (len(got) == 1) {
			t.Fatalf("AddValid = %v, %v; valid after a deletion beside it: %v, %v", got, err, after, verr)
		}
		pins.Release()
	}
}

func TestImportPins(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	archive := makeNAR(t, node{text: "x"})
	ref := infoOf(somePath(t, 1, "ref"), archive)
	mustImport(t, s, ref, archive)
	info := infoOf(somePath(t, 2, "p"), archive, ref.Path)
	pins := s.Pin("session 3")
	opts := store.ImportOptions{Pins: pins}
	if err := s.Import(t.Context(), info, bytes.NewReader(archive), opts); err != nil {
		t.Fatal(err)
	}
	for _, p := range []nix.StorePath{info.Path, ref.Path} {
		if got := s.Pinned()[p]; !slices.Equal(got, []string{"session 3"}) {
			t.Errorf("Pinned[%s] = %v; want the session", p, got)
		}
	}
	pins.Release()
}

// Two who import one path: one writes, the other waits and takes the result, or gives up after a while and says who it was.
func TestImportWaits(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	archive := makeNAR(t, node{text: strings.Repeat("x", 100)})
	info := infoOf(somePath(t, 1, "p"), archive)
	first, rest := io.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Import(t.Context(), info, first, store.ImportOptions{Holder: "session 1 (alice)"}); err != nil {
			t.Errorf("the first Import = %v", err)
		}
	})
	if _, err := rest.Write(archive[:50]); err != nil {
		t.Fatal(err)
	}
	err := s.Import(t.Context(), info, bytes.NewReader(archive), store.ImportOptions{LockTimeout: time.Millisecond})
	var timeout *store.LockTimeoutError
	if !errors.As(err, &timeout) || timeout.By != "session 1 (alice)" {
		t.Errorf("Import while another has the lock = %v; want *LockTimeoutError by session 1", err)
	}
	wg.Go(func() {
		if err := s.Import(t.Context(), info, bytes.NewReader(archive), store.ImportOptions{}); err != nil {
			t.Errorf("the second Import = %v", err)
		}
	})
	if _, err := rest.Write(archive[50:]); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	mustHave(t, s, info, archive)
	if locks := s.Locks(); len(locks) > 0 {
		t.Errorf("locks are left: %v", locks)
	}
}
