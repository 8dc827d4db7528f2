package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/nar/cas"
)

// tamper changes records behind the store's back.
func tamper(tb testing.TB, dir string, change func(s *cas.Store, b *cas.Batch)) {
	tb.Helper()
	s, err := cas.Open(filepath.Join(dir, "store"), options().Content)
	if err != nil {
		tb.Fatal(err)
	}
	defer mustClose(tb, s)
	var b cas.Batch
	change(s, &b)
	if err := s.Commit(tb.Context(), &b); err != nil {
		tb.Fatal(err)
	}
}

// sourceOf is a Source that has what a store has.
func sourceOf(s *store.Store) store.Source {
	return func(ctx context.Context, p nix.StorePath) (nix.PathInfo, io.ReadCloser, error) {
		info, err := s.PathInfo(p)
		if err != nil {
			return info, nil, err
		}
		var b bytes.Buffer
		err = s.WriteNAR(ctx, p, &b)
		return info, io.NopCloser(&b), err
	}
}

// damaged is a store with a graph of paths that was changed while it was closed, and another one that was not.
func damaged(tb testing.TB, change func(dir string, infos []nix.PathInfo)) (s, whole *store.Store, infos []nix.PathInfo, archives [][]byte) {
	tb.Helper()
	dir := tb.TempDir()
	whole = open(tb, tb.TempDir())
	infos, archives = graph(tb, whole, 10)
	s = open(tb, dir)
	if err := store.Copy(tb.Context(), s, whole, allPaths(tb, whole), store.CopyOptions{}); err != nil {
		tb.Fatal(err)
	}
	mustClose(tb, s)
	change(dir, infos)
	return open(tb, dir), whole, infos, archives
}

// flipPacks flips a bit in many places of all packs.
func flipPacks(tb testing.TB, dir string) {
	tb.Helper()
	packs, err := filepath.Glob(filepath.Join(dir, "store", "packs", "*.pack"))
	if err != nil || len(packs) == 0 {
		tb.Fatalf("no packs: %v", err)
	}
	for _, name := range packs {
		b, err := os.ReadFile(name)
		if err != nil {
			tb.Fatal(err)
		}
		// Frames of data come first; records, at the end, must stay.
		for at := 5000; at < len(b)/2; at += 9000 {
			b[at] ^= 1
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
}

// What is wrong is found, told with the paths concerned, and repaired in the way that is left.
func TestVerifyRepair(t *testing.T) {
	t.Parallel()
	// Path 3 of the graph and whatever refers to it.
	const victim = 3
	key := func(kind byte, p nix.StorePath, rest string) []byte {
		return []byte(string(kind) + p.BaseName() + rest)
	}
	for _, tt := range []struct {
		name    string
		change  func(s *cas.Store, b *cas.Batch, info nix.PathInfo)
		packs   func(tb testing.TB, dir string)
		want    string // in one of the problems
		damaged bool
	}{
		{name: "nothing"},
		{name: "bits flipped in packs", packs: flipPacks, want: "corrupt", damaged: true},
		{name: "pack truncated", packs: truncatePack, want: "", damaged: true},
		{name: "pack missing", packs: removePack, want: "", damaged: true},
		{name: "contents missing", change: func(_ *cas.Store, b *cas.Batch, info nix.PathInfo) {
			hash, _ := info.NarHash.SHA256()
			b.DeleteObject(hash)
		}, want: "contents are missing", damaged: true},
		{name: "info unreadable", change: func(s *cas.Store, b *cas.Batch, info nix.PathInfo) {
			v, err := s.Get(key('p', info.Path, ""))
			if err != nil {
				t.Fatal(err)
			}
			v[20] ^= 1
			b.Put(key('p', info.Path, ""), v)
		}, want: "wrong checksum", damaged: true},
		{name: "reference not valid", change: func(_ *cas.Store, b *cas.Batch, info nix.PathInfo) {
			b.Delete(key('p', info.Path, ""))
		}, want: "is not valid", damaged: true},
		{name: "referrer missing", change: func(_ *cas.Store, b *cas.Batch, info nix.PathInfo) {
			for _, ref := range info.References {
				b.Delete(key('r', ref, "\x00"+info.Path.BaseName()))
			}
		}, want: "is missing"},
		{name: "referrer too many", change: func(_ *cas.Store, b *cas.Batch, info nix.PathInfo) {
			b.Put(key('r', info.Path, "\x00"+info.Path.BaseName()), []byte{})
		}, want: "does not follow"},
		{name: "slot of another path", change: func(s *cas.Store, b *cas.Batch, _ nix.PathInfo) {
			v, err := s.Get([]byte("s\x00\x00\x00\x01"))
			if err != nil {
				t.Fatal(err)
			}
			b.Put([]byte("s\x00\x00\x00\x02"), v)
		}, want: "slot"},
		{name: "rubbish", change: func(_ *cas.Store, b *cas.Batch, _ nix.PathInfo) {
			b.Put([]byte("d rubbish"), []byte("x"))
			b.Put([]byte("p rubbish"), []byte("x"))
			b.Put([]byte("o"), nil)
			b.Put([]byte("s"), nil)
		}, want: "rubbish"},
	} {
		for _, how := range []string{"from a source", "by dropping"} {
			t.Run(tt.name+", repaired "+how, func(t *testing.T) {
				t.Parallel()
				s, whole, infos, archives := damaged(t, func(dir string, infos []nix.PathInfo) {
					if tt.packs != nil {
						tt.packs(t, dir)
					}
					if tt.change != nil {
						tamper(t, dir, func(s *cas.Store, b *cas.Batch) { tt.change(s, b, infos[victim]) })
					}
				})
				found, hurt := []string{}, false
				err := s.Verify(t.Context(), store.VerifyOptions{Contents: true}, func(p store.Problem) {
					found = append(found, p.Err.Error())
					hurt = hurt || p.Damaged
					if p.Damaged && (len(p.Paths) == 0 || !strings.Contains(p.Err.Error(), s.Dir().Path(p.Paths[0]))) {
						t.Errorf("problem %v does not say which path, of %v", p.Err, p.Paths)
					}
				})
				if err != nil {
					t.Fatal(err)
				}
				if got := strings.Join(found, "\n"); (got == "") != (tt.want == "" && !tt.damaged) || !strings.Contains(got, tt.want) || hurt != tt.damaged {
					t.Errorf("Verify found %q, damage %v; want %q, %v", got, hurt, tt.want, tt.damaged)
				}
				o := store.RepairOptions{Verify: store.VerifyOptions{Contents: true}, Drop: true}
				if how == "from a source" {
					o.Source, o.Drop = sourceOf(whole), false
				}
				w := s.Watch()
				defer w.Close()
				seen := slotsOf(t, s)
				var actions []store.Repaired
				if err := s.Repair(t.Context(), o, func(r store.Repaired) { actions = append(actions, r) }); err != nil {
					t.Fatal(err)
				}
				for _, r := range actions {
					if r.Action == store.ActionNone && len(r.Paths) > 0 {
						t.Errorf("nothing was done about %v: %v", r.Err, r.RepairErr)
					}
				}
				// What was damaged and is not needed goes with a sweep.
				if _, err := s.Sweep(t.Context(), store.SweepOptions{}); err != nil {
					t.Fatal(err)
				}
				mustBeSound(t, s)
				// Who watches knows what is there.
				for slot, p := range watched(t, w, seen) {
					if got, err := s.Slot(p); err != nil || got != slot {
						t.Errorf("a watcher takes %s in slot %d for valid; it is in %d, %v", p, slot, got, err)
					}
				}
				valid := 0
				for i, info := range infos {
					if ok, err := s.IsValid(info.Path); err != nil || ok {
						valid++
						mustHave(t, s, info, archives[i])
					}
				}
				if complete := !tt.damaged || !o.Drop; (valid == len(infos)) != complete {
					t.Errorf("%d of %d paths are valid", valid, len(infos))
				}
			})
		}
	}
}

func slotsOf(tb testing.TB, s *store.Store) map[uint32]nix.StorePath {
	tb.Helper()
	slots := map[uint32]nix.StorePath{}
	if err := s.Slots(func(p nix.StorePath, slot uint32) bool { slots[slot] = p; return true }); err != nil {
		tb.Fatal(err)
	}
	return slots
}

// watched returns slots after what a watcher has heard.
func watched(tb testing.TB, w *store.Watcher, slots map[uint32]nix.StorePath) map[uint32]nix.StorePath {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	cancel() // what is there
	events, _ := w.Next(ctx)
	for _, e := range events {
		if e.Removed {
			delete(slots, e.Slot)
		} else {
			slots[e.Slot] = e.Path
		}
	}
	return slots
}

// onePack returns the first pack of a store in a state directory.
func onePack(tb testing.TB, dir string) string {
	tb.Helper()
	packs, err := filepath.Glob(filepath.Join(dir, "store/packs/*.pack"))
	if err != nil || len(packs) == 0 {
		tb.Fatalf("packs: %v, %v", packs, err)
	}
	return packs[0]
}

func truncatePack(tb testing.TB, dir string) {
	tb.Helper()
	name := onePack(tb, dir)
	info, err := os.Stat(name)
	if err == nil {
		err = os.Truncate(name, info.Size()/2)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

func removePack(tb testing.TB, dir string) {
	tb.Helper()
	if err := os.Remove(onePack(tb, dir)); err != nil {
		tb.Fatal(err)
	}
}

// mustBeSound checks that nothing is damaged that a path needs.
func mustBeSound(tb testing.TB, s *store.Store) {
	tb.Helper()
	err := s.Verify(tb.Context(), store.VerifyOptions{Contents: true}, func(p store.Problem) {
		if len(p.Paths) > 0 || p.Damaged {
			tb.Errorf("Verify found %v", p.Err)
		}
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// Verification of some paths says nothing of others.
func TestVerifySome(t *testing.T) {
	t.Parallel()
	s, _, infos, _ := damaged(t, func(dir string, _ []nix.PathInfo) { flipPacks(t, dir) })
	bad := map[nix.StorePath]bool{}
	var total, last int64
	o := store.VerifyOptions{Contents: true, Progress: func(done, all int64) { last, total = done, all }}
	if err := s.Verify(t.Context(), o, func(p store.Problem) {
		for _, path := range p.Paths {
			bad[path] = true
		}
	}); err != nil {
		t.Fatal(err)
	}
	if len(bad) == 0 || len(bad) == len(infos) || last == 0 || last > total {
		t.Fatalf("%d of %d paths are damaged, %d of %d bytes told", len(bad), len(infos), last, total)
	}
	for _, info := range infos {
		got := false
		err := s.Verify(t.Context(), store.VerifyOptions{Contents: true, Paths: []nix.StorePath{info.Path}}, func(store.Problem) { got = true })
		if err != nil || got != bad[info.Path] {
			t.Errorf("Verify(%s) finds damage: %v, %v; want %v", info.Path, got, err, bad[info.Path])
		}
		// What is damaged is an error for who reads it, and it says so.
		err = s.WriteNAR(t.Context(), info.Path, io.Discard)
		if (err != nil) != bad[info.Path] || err != nil && !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("WriteNAR(%s) = %v; want ErrCorrupt if it is damaged: %v", info.Path, err, bad[info.Path])
		}
	}
	absent := []nix.StorePath{somePath(t, 99, "absent")}
	if err := s.Verify(t.Context(), store.VerifyOptions{Paths: absent}, nil); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("Verify of an absent path = %v; want ErrNotValid", err)
	}
}

// A handle reads on after its path was deleted and the space swept, also when it was opened during the sweep.
func TestHandles(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	var handles []*store.Object
	var archives [][]byte
	for i := range 20 {
		archive := makeNAR(t, seeded(i))
		info := infoOf(somePath(t, i, "p"), archive)
		mustImport(t, s, info, archive)
		if i%2 == 0 {
			o, err := s.Object(info.Path)
			if err != nil {
				t.Fatal(err)
			}
			handles, archives = append(handles, o), append(archives, archive)
		}
	}
	if err := s.Delete(t.Context(), allPaths(t, s)...); err != nil {
		t.Fatal(err)
	}
	read := func() {
		t.Helper()
		for i, o := range handles {
			content, err := o.Content()
			var b bytes.Buffer
			if err == nil {
				err = content.WriteNAR(t.Context(), &b)
			}
			if err != nil || !bytes.Equal(b.Bytes(), archives[i]) {
				t.Errorf("handle of %s reads %d bytes, %v; want %d", o.Path(), b.Len(), err, len(archives[i]))
			}
		}
	}
	first, err := s.Sweep(t.Context(), store.SweepOptions{})
	if err != nil || first.Chunks == 0 {
		t.Errorf("first Sweep = %+v, %v; want that it takes some", first, err)
	}
	read()
	for _, o := range handles[1:] {
		o.Close()
		o.Close()
	}
	handles = handles[:1]
	second, err := s.Sweep(t.Context(), store.SweepOptions{})
	if err != nil || second.Chunks == 0 {
		t.Errorf("second Sweep = %+v, %v; want that it takes some", second, err)
	}
	read()
	handles[0].Close()
	third, err := s.Sweep(t.Context(), store.SweepOptions{})
	if err != nil || third.Chunks == 0 {
		t.Errorf("third Sweep = %+v, %v; want that it takes some", third, err)
	}
	st, err := s.Stats()
	if err != nil || st.Chunks != 0 || st.Objects != 0 {
		t.Errorf("Stats = %+v, %v; want no chunks", st, err)
	}
}

func TestDeleteErrors(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	archive := makeNAR(t, node{text: "x"})
	a, b := infoOf(somePath(t, 1, "a"), archive), infoOf(somePath(t, 2, "b"), archive, somePath(t, 1, "a"), somePath(t, 2, "b"))
	mustImport(t, s, a, archive)
	mustImport(t, s, b, archive)
	full := func(i nix.PathInfo) string { return s.Dir().Path(i.Path) }
	err := s.Delete(t.Context(), a.Path)
	if want := "cannot delete path '" + full(a) + "' since it is still alive: referred to by " + full(b); err == nil || err.Error() != want {
		t.Errorf("Delete of what is referred to = %v; want %s", err, want)
	}
	pins := s.Pin("session 7")
	pins.Add(b.Path)
	err = s.Delete(t.Context(), a.Path, b.Path)
	if want := "cannot delete path '" + full(b) + "' since it is still alive: in use by session 7"; err == nil || err.Error() != want {
		t.Errorf("Delete of what is pinned = %v; want %s", err, want)
	}
	pins.Release()
	if err := s.Delete(t.Context(), a.Path, somePath(t, 3, "c")); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("Delete of an absent path = %v; want ErrNotValid", err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Delete(canceled, a.Path, b.Path); !errors.Is(err, context.Canceled) {
		t.Errorf("Delete with a context that has ended = %v; want Canceled", err)
	}
	if diff := cmp.Diff(2, len(allPaths(t, s))); diff != "" {
		t.Errorf("paths, -want +got:\n%s", diff)
	}
	if err := s.Delete(t.Context(), a.Path, b.Path, a.Path); err != nil {
		t.Error(err)
	}
	absent(t, s, a.Path)
	mustVerify(t, s)
}

// More paths than fit one commit, with long chains of references.
func TestDeleteMany(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	archive := makeNAR(t, node{text: "x"})
	var entries []entry
	for i := range 700 {
		e := entry{archive: archive, path: s.Dir().Path(somePath(t, i, "p"))}
		if i > 0 {
			e.refs = []string{entries[i-1].path}
		}
		entries = append(entries, e)
	}
	if err := s.ImportStream(t.Context(), bytes.NewReader(stream(entries...)), store.ImportOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	all := allPaths(t, s)
	if len(all) != len(entries) {
		t.Fatalf("%d paths are valid; want %d", len(all), len(entries))
	}
	if closure, err := s.Closure(somePath(t, 699, "p")); err != nil || len(closure) != 700 {
		t.Errorf("Closure has %d paths, %v; want 700", len(closure), err)
	}
	mustVerify(t, s)
	if err := s.Delete(t.Context(), all...); err != nil {
		t.Fatal(err)
	}
	if left := allPaths(t, s); len(left) > 0 {
		t.Errorf("%d paths are left", len(left))
	}
	mustVerify(t, s)
}
