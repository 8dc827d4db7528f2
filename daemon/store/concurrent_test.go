package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/narfs/narfs/daemon/lock"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

// gate is a reader that waits in its middle.
type gate struct {
	io.Reader

	reached, open chan struct{}
}

// gated reads b and waits in the middle of it until open is closed.
func gated(b []byte) *gate {
	g := &gate{reached: make(chan struct{}), open: make(chan struct{})}
	g.Reader = io.MultiReader(bytes.NewReader(b[:len(b)/2]), readerFunc(func([]byte) (int, error) {
		close(g.reached)
		<-g.open
		return 0, io.EOF
	}), bytes.NewReader(b[len(b)/2:]))
	return g
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// waitForWaiters waits until n wait for the lock of a path.
func waitForWaiters(tb testing.TB, s *store.Store, p nix.StorePath, n int) lock.Info {
	tb.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 5000 {
		for _, l := range s.Locks() {
			if l.Path == p && len(l.Waiters) == n {
				return l
			}
		}
		<-tick.C
	}
	tb.Fatalf("nobody waits for %s: %v", p, s.Locks())
	return lock.Info{}
}

// Of two imports of one path one works, and the other waits and takes the result.
func TestImportTwice(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		bad  bool // the first one fails
	}{{"first succeeds", false}, {"first fails", true}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := open(t, t.TempDir())
			archive := makeNAR(t, seeded(5))
			info := infoOf(somePath(t, 1, "p"), archive)
			sent := archive
			if tt.bad {
				sent = archive[:len(archive)-8]
			}
			first := gated(sent)
			var wg sync.WaitGroup
			var firstErr, secondErr, thirdErr error
			wg.Go(func() {
				firstErr = s.Import(t.Context(), info, first, store.ImportOptions{Holder: "first"})
			})
			<-first.reached
			second := bytes.NewReader(archive)
			wg.Go(func() {
				secondErr = s.Import(t.Context(), info, second, store.ImportOptions{Holder: "second"})
			})
			l := waitForWaiters(t, s, info.Path, 1)
			if l.Holder != "first" || l.Waiters[0] != "second" {
				t.Errorf("Locks = %+v; want first, and second waiting", l)
			}
			// One who gives up takes nothing with him.
			ctx, cancel := context.WithCancel(t.Context())
			wg.Go(func() {
				thirdErr = s.Import(ctx, info, bytes.NewReader(archive), store.ImportOptions{Holder: "third"})
			})
			waitForWaiters(t, s, info.Path, 2)
			cancel()
			waitForWaiters(t, s, info.Path, 1)
			if ok, err := s.IsValid(info.Path); ok || err != nil {
				t.Errorf("IsValid in the middle of the import = %v, %v", ok, err)
			}
			var inUse *store.InUseError
			if err := s.Delete(t.Context(), info.Path); !errors.As(err, &inUse) || inUse.By[0] != "first" {
				t.Errorf("Delete in the middle of the import = %v; want that first uses it", err)
			}
			close(first.open)
			wg.Wait()
			if (firstErr != nil) != tt.bad || secondErr != nil || !errors.Is(thirdErr, context.Canceled) {
				t.Errorf("Import = %v, %v, %v; want only the last, and the first if it is bad, to fail", firstErr, secondErr, thirdErr)
			}
			if second.Len() != 0 {
				t.Errorf("the second left %d bytes of its NAR", second.Len())
			}
			mustHave(t, s, info, archive)
			mustVerify(t, s)
		})
	}
}

// Two streams with the same paths, in part, at once.
func TestImportStreamsAtOnce(t *testing.T) {
	t.Parallel()
	from, to := open(t, t.TempDir()), open(t, t.TempDir())
	infos, archives := graph(t, from, 30)
	all := allPaths(t, from)
	stream := export(t, from, all...)
	errs := make([]error, 6)
	done := make([]int, len(errs))
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			count := func(nix.PathInfo) { done[i]++ }
			if i%2 == 0 {
				errs[i] = to.ImportStream(t.Context(), bytes.NewReader(stream), store.ImportOptions{}, count)
			} else {
				errs[i] = store.Copy(t.Context(), to, from, all, store.CopyOptions{Done: count})
			}
		})
	}
	wg.Wait()
	total := 0
	for i, err := range errs {
		if err != nil {
			t.Errorf("import %d: %v", i, err)
		}
		total += done[i]
	}
	if total != len(all) {
		t.Errorf("%d paths became valid, of %d", total, len(all))
	}
	for i, want := range infos {
		got, err := to.PathInfo(want.Path)
		if err != nil {
			t.Fatal(err)
		}
		want.RegistrationTime = got.RegistrationTime
		mustHave(t, to, want, archives[i])
	}
	mustVerify(t, to)
}

// Imports, deletions, sweeps, readers, verifications and a watcher at once: no reader sees other bytes, no path is valid
// without its references, and the watcher knows what is valid in the end.
func TestEverythingAtOnce(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	const paths = 12
	var names []nix.StorePath
	var archives [][]byte
	for i := range paths {
		names, archives = append(names, somePath(t, i, "p")), append(archives, makeNAR(t, seeded(i/2)))
	}
	watcher := s.Watch()
	ctx, stop := context.WithCancel(t.Context())
	var work, rest sync.WaitGroup
	for g := range 3 { // importers and deleters
		work.Go(func() {
			for i := range 60 {
				n := (g*5 + i*7) % paths
				var refs []nix.StorePath
				if n > 0 {
					refs = append(refs, names[n-1])
				}
				err := s.Import(ctx, infoOf(names[n], archives[n], refs...), bytes.NewReader(archives[n]), store.ImportOptions{Holder: fmt.Sprint(g)})
				if err != nil && !errors.Is(err, store.ErrNotValid) {
					t.Errorf("Import: %v", err)
				}
				var inUse *store.InUseError
				if err := s.Delete(ctx, names[(n+g)%paths]); err != nil && !errors.As(err, &inUse) && !errors.Is(err, store.ErrNotValid) {
					t.Errorf("Delete: %v", err)
				}
			}
		})
	}
	rest.Go(func() { // reader
		for i := 0; ctx.Err() == nil; i++ {
			n := i % paths
			o, err := s.Object(names[n])
			if errors.Is(err, store.ErrNotValid) {
				continue
			}
			if err != nil {
				t.Errorf("Object: %v", err)
				return
			}
			content, err := o.Content()
			var b bytes.Buffer
			if err == nil {
				err = content.WriteNAR(context.WithoutCancel(ctx), &b)
			}
			o.Close()
			if err != nil || !bytes.Equal(b.Bytes(), archives[n]) {
				t.Errorf("a reader got %d bytes, %v; want %d", b.Len(), err, len(archives[n]))
			}
		}
	})
	rest.Go(func() { // sweeper
		for ctx.Err() == nil {
			if _, err := s.Sweep(ctx, store.SweepOptions{}); err != nil && ctx.Err() == nil {
				t.Errorf("Sweep: %v", err)
			}
		}
	})
	rest.Go(func() { // verifier
		for ctx.Err() == nil {
			err := s.Verify(ctx, store.VerifyOptions{}, func(p store.Problem) { t.Errorf("Verify found %v", p.Err) })
			if err != nil && ctx.Err() == nil {
				t.Errorf("Verify: %v", err)
			}
		}
	})
	known := map[nix.StorePath]uint32{}
	rest.Go(func() {
		for {
			events, err := watcher.Next(context.WithoutCancel(ctx))
			if err != nil || len(events) == 0 {
				return
			}
			for _, e := range events {
				if _, ok := known[e.Path]; ok != e.Removed {
					t.Errorf("told %+v of a path that was valid: %v", e, ok)
				}
				if e.Removed {
					delete(known, e.Path)
				} else {
					known[e.Path] = e.Slot
				}
			}
		}
	})
	work.Wait()
	stop()
	watcher.Close()
	rest.Wait()
	valid := allPaths(t, s)
	if len(valid) != len(known) {
		t.Errorf("the watcher knows %d paths, %d are valid", len(known), len(valid))
	}
	for _, p := range valid {
		if slot, err := s.Slot(p); err != nil || known[p] != slot {
			t.Errorf("%s is in slot %d, %v; the watcher knows %d", p, slot, err, known[p])
		}
	}
	mustVerify(t, s)
}

// A pin that is added while its path is being deleted waits, and what is valid then stays.
func TestPins(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	archive := makeNAR(t, node{text: "x"})
	info := infoOf(somePath(t, 1, "p"), archive)
	var wg sync.WaitGroup
	for range 40 {
		mustImport(t, s, info, archive)
		var deleted error
		wg.Go(func() { deleted = s.Delete(t.Context(), info.Path) })
		pins := s.Pin("session")
		pins.Add(info.Path, info.Path)
		pins.Add(info.Path)
		before, err := s.IsValid(info.Path)
		if err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		after, err := s.IsValid(info.Path)
		if err != nil || before != after || after != (deleted != nil) {
			t.Fatalf("valid before %v, after %v (%v), Delete = %v", before, after, err, deleted)
		}
		if got := s.Pinned()[info.Path]; len(got) != 1 || got[0] != "session" {
			t.Errorf("Pinned = %v; want session, once", got)
		}
		other := s.Pin("other")
		other.Add(info.Path)
		pins.Release()
		pins.Release()
		if got := s.Pinned()[info.Path]; len(got) != 1 || got[0] != "other" {
			t.Errorf("Pinned = %v; want other", got)
		}
		other.Release()
	}
}
