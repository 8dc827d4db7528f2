package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/daemon/lock"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

func TestOpen(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	o := options()
	o.StoreDir, o.What = "/other/store/", "test"
	s, err := store.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Dir(); got != "/other/store" {
		t.Errorf("Dir = %s; want /other/store", got)
	}
	var owned *lock.OwnedError
	if _, err := store.Open(dir, o); !errors.As(err, &owned) || owned.What != "test" {
		t.Errorf("second Open = %v; want *lock.OwnedError with what the first does", err)
	}
	mustClose(t, s)

	o.StoreDir = nix.DefaultStoreDir
	if _, err := store.Open(dir, o); err == nil || !strings.Contains(err.Error(), "is a store for /other/store and not for /nix/store") {
		t.Errorf("Open for another store directory = %v; want that it is refused", err)
	}
	o.StoreDir = ""
	if s, err = store.Open(dir, o); err != nil {
		t.Fatal(err)
	}
	if got := s.Dir(); got != "/other/store" {
		t.Errorf("Dir after Open without one = %s; want /other/store", got)
	}
	mustClose(t, s)
	o.StoreDir = "relative"
	if _, err := store.Open(t.TempDir(), o); err == nil {
		t.Error("Open for a relative store directory succeeded")
	}
	// What failed gives the state directory back.
	o.StoreDir = ""
	if s, err = store.Open(dir, o); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
}

func TestQueries(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	// a <- b <- c, and c refers to itself; d has the contents of a.
	a, b, c, d := somePath(t, 1, "a"), somePath(t, 2, "b"), somePath(t, 3, "c"), somePath(t, 4, "d")
	drv := somePath(t, 5, "b.drv")
	one, two := makeNAR(t, seeded(1)), makeNAR(t, seeded(2))
	archives := [][]byte{one, one, two, one}
	infos := []nix.PathInfo{infoOf(a, one), infoOf(b, one, a), infoOf(c, two, b, c), infoOf(d, one)}
	infos[1].Deriver, infos[1].Ultimate = drv, true
	for i, info := range infos {
		mustImport(t, s, info, archives[i])
	}
	check := func(s *store.Store) {
		t.Helper()
		for i, info := range infos {
			mustHave(t, s, info, archives[i])
		}
		for _, tt := range []struct {
			name string
			call func() ([]nix.StorePath, error)
			want []nix.StorePath
		}{
			{"Referrers(a)", func() ([]nix.StorePath, error) { return s.Referrers(a) }, []nix.StorePath{b}},
			{"Referrers(c)", func() ([]nix.StorePath, error) { return s.Referrers(c) }, []nix.StorePath{c}},
			{"Referrers(drv)", func() ([]nix.StorePath, error) { return s.Referrers(drv) }, nil},
			{"Closure(c)", func() ([]nix.StorePath, error) { return s.Closure(c) }, []nix.StorePath{a, b, c}},
			{"Closure(b, d)", func() ([]nix.StorePath, error) { return s.Closure(b, d) }, []nix.StorePath{a, b, d}},
			{"ReferrersClosure(a)", func() ([]nix.StorePath, error) { return s.ReferrersClosure(a) }, []nix.StorePath{a, b, c}},
			{"Derived(drv)", func() ([]nix.StorePath, error) { return s.Derived(drv) }, []nix.StorePath{b}},
			{"ValidPaths", func() ([]nix.StorePath, error) { return s.ValidPaths([]nix.StorePath{drv, a}) }, []nix.StorePath{a}},
			{"Missing", func() ([]nix.StorePath, error) { return s.Missing([]nix.StorePath{drv, a}) }, []nix.StorePath{drv}},
			{"Sorted", func() ([]nix.StorePath, error) { return s.Sorted([]nix.StorePath{c, b, a}) }, nil},
		} {
			got, err := tt.call()
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
			if tt.name == "Sorted" { // the only one whose order is not that of the names
				tt.want = []nix.StorePath{a, b, c}
			} else {
				tt.want = nix.SortPaths(tt.want)
			}
			if diff := cmp.Diff(tt.want, got, exact); diff != "" {
				t.Errorf("%s, -want +got:\n%s", tt.name, diff)
			}
		}
		for _, f := range []func(...nix.StorePath) ([]nix.StorePath, error){s.Closure, s.ReferrersClosure} {
			if _, err := f(drv); !errors.Is(err, store.ErrNotValid) {
				t.Errorf("closure of an absent path = %v; want ErrNotValid", err)
			}
		}
		if got, err := s.ByHashPart(b.HashPart()); got != b || err != nil {
			t.Errorf("ByHashPart = %s, %v; want %s", got, err, b)
		}
		if _, err := s.ByHashPart("short"); err == nil || !strings.Contains(err.Error(), "invalid hash part") {
			t.Errorf("ByHashPart(short) = %v; want invalid hash part", err)
		}
		if diff := cmp.Diff(nix.SortPaths([]nix.StorePath{a, b, c, d}), allPaths(t, s), exact); diff != "" {
			t.Errorf("All, -want +got:\n%s", diff)
		}
		slots := map[nix.StorePath]uint32{}
		if err := s.Slots(func(p nix.StorePath, slot uint32) bool { slots[p] = slot; return true }); err != nil {
			t.Error(err)
		}
		for i, info := range infos {
			slot, err := s.Slot(info.Path)
			if err != nil || slot != uint32(i+1) || slots[info.Path] != slot {
				t.Errorf("Slot(%s) = %d, %v, in Slots %d; want %d", info.Path, slot, err, slots[info.Path], i+1)
			}
			p, top, err := s.BySlot(slot)
			want := store.Top{Type: 1, Size: int64(len(seeded([]int{1, 1, 2, 1}[i]).entries)), Subdirs: 1}
			if p != info.Path || top != want || err != nil {
				t.Errorf("BySlot(%d) = %s, %+v, %v; want %s, %+v", slot, p, top, err, info.Path, want)
			}
		}
		if _, _, err := s.BySlot(99); !errors.Is(err, store.ErrNotValid) {
			t.Errorf("BySlot(99) = %v; want ErrNotValid", err)
		}
		paths, size, err := s.Totals()
		if want := int64(3*infos[0].NarSize + infos[2].NarSize); paths != 4 || size != want || err != nil {
			t.Errorf("Totals = %d, %d, %v; want 4, %d", paths, size, err, want)
		}
		st, err := s.Stats()
		if err != nil || st.Paths != 4 || st.Objects != 2 {
			t.Errorf("Stats = %+v, %v; want 4 paths and 2 objects", st, err)
		}
		mustVerify(t, s)
	}
	check(s)
	mustClose(t, s)
	check(open(t, dir))
}

func TestUsage(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	for i := range 3 { // the first two have the same contents, the third shares some
		archive := makeNAR(t, seeded(i/2))
		mustImport(t, s, infoOf(somePath(t, i, "x"), archive), archive)
	}
	var each []store.Usage
	total, err := s.Usage(t.Context(), allPaths(t, s), func(_ nix.StorePath, u store.Usage) { each = append(each, u) })
	if err != nil {
		t.Fatal(err)
	}
	var sum store.Usage
	for _, u := range each {
		if u.Logical == 0 || u.Chunks == 0 || u.Unique == 0 || u.Stored == 0 {
			t.Errorf("Usage of one path = %+v; want no zeros", u)
		}
		sum.Logical += u.Logical
		sum.Unique += u.Unique
	}
	st, err := s.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if total.Logical != sum.Logical || total.Unique >= sum.Unique || total.Unique > st.Unique {
		t.Errorf("total = %+v, sum %+v, Stats %+v; want the same logical size and what is shared counted once", total, sum, st)
	}
}

func TestSignatures(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	key, err := nix.GenerateSecretKey("test-1")
	if err != nil {
		t.Fatal(err)
	}
	archive := makeNAR(t, node{text: "x"})
	info := infoOf(somePath(t, 1, "x"), archive)
	imp := func(info nix.PathInfo) error {
		return s.Import(t.Context(), info, bytes.NewReader(archive), store.ImportOptions{RequireSignature: true, Keys: []nix.PublicKey{key.Public()}})
	}
	if err := imp(info); err == nil || !strings.Contains(err.Error(), "because it lacks a valid signature") {
		t.Errorf("Import without a signature = %v", err)
	}
	absent(t, s, info.Path)
	signed := info
	if err := signed.Sign(s.Dir(), key); err != nil {
		t.Fatal(err)
	}
	if err := imp(signed); err != nil {
		t.Fatal(err)
	}
	mustHave(t, s, signed, archive)
	other, err := nix.GenerateSecretKey("another-1")
	if err != nil {
		t.Fatal(err)
	}
	both := signed
	if err := both.Sign(s.Dir(), other); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.AddSignatures(t.Context(), info.Path, both.Signatures...); err != nil {
			t.Fatal(err)
		}
		mustHave(t, s, both, archive)
	}
	if err := s.AddSignatures(t.Context(), somePath(t, 2, "y")); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("AddSignatures of an absent path = %v; want ErrNotValid", err)
	}
	// What is content-addressed needs none.
	ca, err := s.Add(t.Context(), strings.NewReader("text"), store.AddOptions{Name: "ca", Method: nix.MethodText})
	if err != nil {
		t.Fatal(err)
	}
	archive = readNAR(t, s, ca.Path)
	if err := s.Delete(t.Context(), ca.Path); err != nil {
		t.Fatal(err)
	}
	if err := imp(ca); err != nil {
		t.Error(err)
	}
	mustVerify(t, s)
}

// Slots are given once, whatever happens between.
func TestSlots(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	given := map[uint32]string{}
	archive := makeNAR(t, node{text: "x"})
	for run := range 3 {
		s := open(t, dir)
		for i := range 80 { // more than are written down at a time
			p := somePath(t, i, "x")
			mustImport(t, s, infoOf(p, archive), archive)
			slot, err := s.Slot(p)
			if err != nil {
				t.Fatal(err)
			}
			if at, ok := given[slot]; ok {
				t.Fatalf("run %d gave slot %d to %s; it had been given in %s", run, slot, p, at)
			}
			given[slot] = fmt.Sprint("run ", run)
		}
		if err := s.Delete(t.Context(), allPaths(t, s)...); err != nil {
			t.Fatal(err)
		}
		mustClose(t, s)
	}
}

func TestRebuildIndex(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	archive := makeNAR(t, seeded(7))
	info := infoOf(somePath(t, 1, "x"), archive)
	mustImport(t, s, info, archive)
	mustClose(t, s)
	o := options()
	o.RebuildIndex = true
	told := 0
	o.Content.Replay = func(int64, int64) { told++ }
	s, err := store.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, s)
	mustHave(t, s, info, archive)
	if told == 0 {
		t.Error("Replay was not called")
	}
}
