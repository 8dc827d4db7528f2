package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

// modelPaths is how many paths the model knows. Path n has its own hash part, may refer to paths below n, and has the
// contents of some seed.
const modelPaths = 12

// model is what a store should have.
type model struct {
	t       *testing.T
	dir     string
	s       *store.Store
	watcher *store.Watcher
	paths   []nix.StorePath
	valid   map[int]modelPath
	seen    map[nix.StorePath]uint32 // what the watcher was told is valid
	given   map[uint32]bool          // slots
	pins    map[int]*store.Pins
	handles []handle

	collection *store.Collection // nil for none
	lingering  map[int]bool      // let go of since it began
}

type modelPath struct {
	info nix.PathInfo
	seed int
	slot uint32
}

type handle struct {
	o    *store.Object
	seed int
}

func (m *model) open(rt *rapid.T) {
	s, err := store.Open(m.dir, options())
	if err != nil {
		rt.Fatal(err)
	}
	m.s, m.watcher = s, s.Watch()
}

func (m *model) close(rt *rapid.T) {
	for _, h := range m.handles {
		h.o.Close()
	}
	m.handles = nil
	m.EndCollection(rt)
	for _, p := range m.pins {
		p.Release()
	}
	clear(m.pins)
	m.listen(rt)
	if err := m.s.Close(); err != nil {
		rt.Fatal(err)
	}
}

// draw draws one of the paths for which ok is true; there is none if it is below 0.
func (*model) draw(rt *rapid.T, ok func(int) bool) int {
	var ns []int
	for n := range modelPaths {
		if ok(n) {
			ns = append(ns, n)
		}
	}
	if len(ns) == 0 {
		return -1
	}
	return rapid.SampledFrom(ns).Draw(rt, "path")
}

func (m *model) isValid(n int) bool { _, ok := m.valid[n]; return ok }

func (m *model) became(rt *rapid.T, n, seed int, info nix.PathInfo) {
	slot, err := m.s.Slot(m.paths[n])
	if err != nil {
		rt.Fatal(err)
	}
	if m.given[slot] {
		rt.Fatalf("slot %d was given to another registration before", slot)
	}
	m.given[slot] = true
	m.valid[n] = modelPath{info: info, seed: seed, slot: slot}
}

// claims draws references, some of which may not be valid, and makes an info.
func (m *model) claims(rt *rapid.T, n int, archive []byte) (info nix.PathInfo, missing bool) {
	var refs []nix.StorePath
	for _, ref := range rapid.SliceOfN(rapid.IntRange(0, n), 0, 3).Draw(rt, "refs") {
		if !m.isValid(ref) && ref != n {
			if !rapid.Bool().Draw(rt, "dangling") {
				continue
			}
			missing = true
		}
		refs = append(refs, m.paths[ref])
	}
	return infoOf(m.paths[n], archive, refs...), missing
}

func (m *model) Import(rt *rapid.T) {
	n := m.draw(rt, func(int) bool { return true })
	seed := rapid.IntRange(0, 6).Draw(rt, "seed")
	archive := makeNAR(m.t, seeded(seed))
	info, missing := m.claims(rt, n, archive)
	err := m.s.Import(m.t.Context(), info, bytes.NewReader(archive), store.ImportOptions{})
	switch {
	case m.isValid(n):
		if err != nil {
			rt.Fatalf("Import of a valid path: %v", err)
		}
	case missing:
		if !errors.Is(err, store.ErrNotValid) {
			rt.Fatalf("Import with a dangling reference = %v; want ErrNotValid", err)
		}
	case err != nil:
		rt.Fatal(err)
	default:
		m.became(rt, n, seed, info)
	}
}

func (m *model) ImportWrong(rt *rapid.T) {
	n := m.draw(rt, func(n int) bool { return !m.isValid(n) })
	if n < 0 {
		rt.Skip("all are valid")
	}
	archive := makeNAR(m.t, seeded(n))
	info := infoOf(m.paths[n], archive)
	r := bytes.NewReader(archive)
	switch rapid.IntRange(0, 2).Draw(rt, "how") {
	case 0:
		info.NarHash = infoOf(m.paths[n], nil).NarHash
	case 1:
		info.NarSize++
	case 2:
		r = bytes.NewReader(archive[:rapid.IntRange(0, len(archive)-1).Draw(rt, "length")])
	}
	if err := m.s.Import(m.t.Context(), info, r, store.ImportOptions{}); err == nil {
		rt.Fatal("a wrong import succeeded")
	}
}

func (m *model) ExportImport(rt *rapid.T) {
	var some []nix.StorePath
	for n := range m.valid {
		some = append(some, m.paths[n])
	}
	closure, err := m.s.Closure(some...)
	if err != nil {
		rt.Fatal(err)
	}
	var stream bytes.Buffer
	if err := m.s.ExportStream(m.t.Context(), &stream, closure...); err != nil {
		rt.Fatal(err)
	}
	if m.collection != nil {
		for n := range m.valid { // who exports or imports, pins
			m.lingering[n] = true
		}
	}
	// All of it is known; nothing changes.
	if err := m.s.ImportStream(m.t.Context(), &stream, store.ImportOptions{}, func(nix.PathInfo) { rt.Error("a known path became valid") }); err != nil {
		rt.Fatal(err)
	}
}

func (m *model) Delete(rt *rapid.T) {
	ns := rapid.SliceOfNDistinct(rapid.IntRange(0, modelPaths-1), 1, 4, rapid.ID[int]).Draw(rt, "paths")
	var paths []nix.StorePath
	absent, used := false, false
	for _, n := range ns {
		paths = append(paths, m.paths[n])
		absent = absent || !m.isValid(n)
		used = used || m.isPinned(n)
		for other, p := range m.valid {
			used = used || !slices.Contains(ns, other) && slices.Contains(p.info.References, m.paths[n])
		}
	}
	err := m.s.Delete(m.t.Context(), paths...)
	_, inUse := errors.AsType[*store.InUseError](err)
	switch {
	case absent:
		if !errors.Is(err, store.ErrNotValid) {
			rt.Fatalf("Delete(%v) = %v; want ErrNotValid", ns, err)
		}
	case used:
		if !inUse {
			rt.Fatalf("Delete(%v) = %v; want *InUseError", ns, err)
		}
	case err != nil:
		rt.Fatal(err)
	default:
		for _, n := range ns {
			delete(m.valid, n)
		}
	}
}

func (m *model) Pin(rt *rapid.T) {
	n := m.draw(rt, func(int) bool { return true })
	if p, ok := m.pins[n]; ok {
		p.Release()
		delete(m.pins, n)
		if m.collection != nil {
			m.lingering[n] = true
		}
		return
	}
	m.pins[n] = m.s.Pin("model")
	if !rapid.Bool().Draw(rt, "only if valid") {
		m.pins[n].Add(m.paths[n])
		return
	}
	got, err := m.pins[n].AddValid([]nix.StorePath{m.paths[n]})
	if err != nil || (len(got) == 1) != m.isValid(n) {
		rt.Fatalf("AddValid(%d) = %v, %v; want it if it is valid: %v", n, got, err, m.isValid(n))
	}
	if !m.isValid(n) {
		delete(m.pins, n)
	}
}

// isPinned reports whether somebody has a path, or had it since the collection began.
func (m *model) isPinned(n int) bool { return m.pins[n] != nil || m.lingering[n] }

func (m *model) BeginCollection(rt *rapid.T) {
	if m.collection != nil {
		ctx, cancel := context.WithCancel(m.t.Context())
		cancel()
		if _, err := m.s.BeginCollection(ctx); !errors.Is(err, context.Canceled) {
			rt.Fatalf("BeginCollection beside another one = %v; want that it waits", err)
		}
		return
	}
	var err error
	if m.collection, err = m.s.BeginCollection(m.t.Context()); err != nil {
		rt.Fatal(err)
	}
}

func (m *model) EndCollection(*rapid.T) {
	if m.collection != nil {
		m.collection.Close()
		m.collection = nil
		clear(m.lingering)
	}
}

// Collect has a collection delete paths that a plan which is no longer true might have named, in any order: exactly those go that
// nothing needs when their turn comes.
func (m *model) Collect(rt *rapid.T) {
	if m.collection == nil {
		rt.Skip("no collection has begun")
	}
	ns := rapid.Permutation(slices.Collect(func(yield func(int) bool) {
		for n := range modelPaths {
			if !yield(n) {
				return
			}
		}
	})).Draw(rt, "paths")
	ns = ns[:rapid.IntRange(1, modelPaths).Draw(rt, "number")]
	if rapid.Bool().Draw(rt, "referrers first") {
		slices.Sort(ns)
		slices.Reverse(ns)
	}
	deleted, kept := map[nix.StorePath]bool{}, map[nix.StorePath]bool{}
	wantDeleted, wantKept := map[nix.StorePath]bool{}, map[nix.StorePath]bool{}
	var paths []nix.StorePath
	for _, n := range ns {
		paths = append(paths, m.paths[n])
		if !m.isValid(n) {
			continue
		}
		needed := m.isPinned(n)
		for other, p := range m.valid {
			needed = needed || other != n && !wantDeleted[m.paths[other]] && slices.Contains(p.info.References, m.paths[n])
		}
		if needed {
			wantKept[m.paths[n]] = true
		} else {
			wantDeleted[m.paths[n]] = true
		}
	}
	var why []error
	err := m.collection.Delete(m.t.Context(), paths, store.CollectReport{
		Deleted: func(infos []nix.PathInfo) {
			for _, info := range infos {
				deleted[info.Path] = true
			}
		},
		Kept: func(p nix.StorePath, because error) {
			kept[p] = true
			why = append(why, because)
			if _, ok := errors.AsType[*store.InUseError](because); !ok {
				rt.Errorf("%s was kept because of %v; want *InUseError", p, because)
			}
		},
	})
	if err != nil {
		rt.Fatal(err)
	}
	if diff := cmp.Diff(wantDeleted, deleted); diff != "" {
		rt.Fatalf("deleted of %v (kept %v), -want +got:\n%s", ns, why, diff)
	}
	if diff := cmp.Diff(wantKept, kept); diff != "" {
		rt.Fatalf("kept of %v, -want +got:\n%s", ns, diff)
	}
	for _, n := range ns {
		if wantDeleted[m.paths[n]] {
			delete(m.valid, n)
		}
	}
}

func (m *model) Hold(rt *rapid.T) {
	n := m.draw(rt, m.isValid)
	if n < 0 {
		rt.Skip("none is valid")
	}
	o, err := m.s.ObjectBySlot(m.valid[n].slot)
	if err != nil {
		rt.Fatal(err)
	}
	m.handles = append(m.handles, handle{o, m.valid[n].seed})
}

func (m *model) Release(rt *rapid.T) {
	if len(m.handles) == 0 {
		rt.Skip("none is open")
	}
	i := rapid.IntRange(0, len(m.handles)-1).Draw(rt, "handle")
	m.handles[i].o.Close()
	m.handles = slices.Delete(m.handles, i, i+1)
}

func (m *model) Sweep(rt *rapid.T) {
	if _, err := m.s.Sweep(m.t.Context(), store.SweepOptions{DryRun: rapid.Bool().Draw(rt, "dry")}); err != nil {
		rt.Fatal(err)
	}
}

func (m *model) Reopen(rt *rapid.T) {
	m.close(rt)
	m.open(rt)
}

func (m *model) Verify(rt *rapid.T) {
	err := m.s.Verify(m.t.Context(), store.VerifyOptions{Contents: true}, func(p store.Problem) { rt.Errorf("Verify found %v", p.Err) })
	if err != nil {
		rt.Fatal(err)
	}
}

// listen takes the watcher's events.
func (m *model) listen(rt *rapid.T) {
	ctx, cancel := context.WithCancel(m.t.Context())
	cancel()
	for {
		events, err := m.watcher.Next(ctx)
		if err != nil || len(events) == 0 { // there are none, or the store is closed
			return
		}
		for _, e := range events {
			slot, ok := m.seen[e.Path]
			if ok != e.Removed || e.Removed && slot != e.Slot {
				rt.Fatalf("told %+v, of what was valid: %v, in slot %d", e, ok, slot)
			}
			if e.Removed {
				delete(m.seen, e.Path)
			} else {
				m.seen[e.Path] = e.Slot
			}
		}
	}
}

// Check holds the store against the model.
func (m *model) Check(rt *rapid.T) {
	m.listen(rt)
	want := map[nix.StorePath]uint32{}
	var bytesWant int64
	for n, p := range m.valid {
		want[m.paths[n]] = p.slot
		bytesWant += int64(p.info.NarSize)
		got, err := m.s.PathInfo(m.paths[n])
		if err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(p.info, got, exact); diff != "" {
			rt.Fatalf("info of path %d, -want +got:\n%s", n, diff)
		}
		var referrers []nix.StorePath
		for other, q := range m.valid {
			if slices.Contains(q.info.References, m.paths[n]) {
				referrers = append(referrers, m.paths[other])
			}
		}
		gotReferrers, err := m.s.Referrers(m.paths[n])
		if err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(nix.SortPaths(referrers), gotReferrers, exact); diff != "" {
			rt.Fatalf("referrers of path %d, -want +got:\n%s", n, diff)
		}
	}
	got := map[nix.StorePath]uint32{}
	if err := m.s.Slots(func(p nix.StorePath, slot uint32) bool { got[p] = slot; return true }); err != nil {
		rt.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		rt.Fatalf("slots, -want +got:\n%s", diff)
	}
	if diff := cmp.Diff(want, m.seen); diff != "" {
		rt.Fatalf("what the watcher knows, -want +got:\n%s", diff)
	}
	if paths, size, err := m.s.Totals(); int(paths) != len(m.valid) || size != bytesWant || err != nil {
		rt.Fatalf("Totals = %d, %d, %v; want %d, %d", paths, size, err, len(m.valid), bytesWant)
	}
	for _, h := range m.handles {
		content, err := h.o.Content()
		if err != nil {
			rt.Fatal(err)
		}
		var archive bytes.Buffer
		if err := content.WriteNAR(m.t.Context(), &archive); err != nil || !bytes.Equal(archive.Bytes(), makeNAR(m.t, seeded(h.seed))) {
			rt.Fatalf("handle of %s reads other bytes, or %v", h.o.Path(), err)
		}
	}
}

// TestModel drives a store through everything that it can do and compares it with a map.
func TestModel(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	run := 0
	start := time.Now()
	rapid.Check(t, func(rt *rapid.T) {
		run++
		m := &model{
			t: t, dir: fmt.Sprintf("%s/%d", root, run), valid: map[int]modelPath{}, seen: map[nix.StorePath]uint32{},
			given: map[uint32]bool{}, pins: map[int]*store.Pins{}, lingering: map[int]bool{},
		}
		for n := range modelPaths {
			m.paths = append(m.paths, somePath(t, n, fmt.Sprintf("model%d", n)))
		}
		m.open(rt)
		defer func() {
			m.close(rt)
			_ = os.RemoveAll(m.dir)
		}()
		rt.Repeat(rapid.StateMachineActions(m))
	})
	t.Logf("%d runs in %v", run, time.Since(start))
}
