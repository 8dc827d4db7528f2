package store_test

import (
	"bytes"
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/nar/cas"
)

func open(t testing.TB, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(dir, store.Options{Content: cas.Options{Reserve: -1, CacheBytes: 8 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestAddTree(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	info, err := s.AddTree(t.Context(), "/usr/include/linux", store.AddOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var all []nix.PathInfo
	for i, err := range s.All() {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, i)
	}
	if diff := cmp.Diff([]nix.PathInfo{info}, all, cmp.Comparer(func(a, b nix.StorePath) bool { return a == b }), cmp.Comparer(func(a, b nix.Hash) bool { return a == b }), cmp.Comparer(func(a, b nix.ContentAddress) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	o, err := s.Object(info.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	c, err := o.Content()
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := c.WriteNAR(t.Context(), &got); err != nil {
		t.Fatal(err)
	}
	want, err := exec.Command("nix-store", "--dump", "/usr/include/linux").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Error("differs")
	}
	if err := s.Delete(t.Context(), info.Path); err != nil {
		t.Fatal(err)
	}
	if err := s.Import(t.Context(), info, &got, store.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	slot, err := s.Slot(info.Path)
	if err != nil || slot != 2 {
		t.Errorf("Slot = %d, %v; want 2", slot, err)
	}
	s.Close()
	s = open(t, dir)
	if _, err := s.PathInfo(info.Path); err != nil {
		t.Error(err)
	}
}
