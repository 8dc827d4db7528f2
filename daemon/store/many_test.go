package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"testing"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

// many is a set of paths for ImportMany.
type many struct {
	infos    []nix.PathInfo
	errs     map[nix.StorePath]error // with their infos
	archives map[nix.StorePath][]byte
	writeErr map[nix.StorePath]error
	mu       sync.Mutex
	reading  int // now
	most     int // at once
}

// makeMany makes n paths, each of which refers to itself and those 1, 2, 4, … before it.
func makeMany(tb testing.TB, n int) *many {
	tb.Helper()
	m := &many{errs: map[nix.StorePath]error{}, archives: map[nix.StorePath][]byte{}, writeErr: map[nix.StorePath]error{}}
	for i := range n {
		p := somePath(tb, i, fmt.Sprint("p-", i))
		refs := []nix.StorePath{p}
		for back := 1; back <= i; back *= 2 {
			refs = append(refs, m.infos[i-back].Path)
		}
		m.archives[p] = makeNAR(tb, seeded(i))
		info := infoOf(p, m.archives[p], refs...)
		info.Ultimate = true
		m.infos = append(m.infos, info)
	}
	return m
}

func (m *many) all() iter.Seq2[nix.PathInfo, error] {
	return func(yield func(nix.PathInfo, error) bool) {
		for _, info := range m.infos {
			if !yield(info, m.errs[info.Path]) {
				return
			}
		}
	}
}

func (m *many) write(_ context.Context, info nix.PathInfo, w io.Writer) error {
	m.mu.Lock()
	m.reading++
	m.most = max(m.most, m.reading)
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		m.reading--
		m.mu.Unlock()
	}()
	if err := m.writeErr[info.Path]; err != nil {
		_, _ = w.Write(m.archives[info.Path][:100])
		return err
	}
	_, err := io.Copy(w, bytes.NewReader(m.archives[info.Path]))
	return err
}

func TestImportMany(t *testing.T) {
	t.Parallel()
	for _, parallel := range []int{0, 1, 3} {
		s := open(t, t.TempDir())
		m := makeMany(t, 60)
		for _, info := range m.infos[:8] { // are there already
			mustImport(t, s, info, m.archives[info.Path])
		}
		var done, started []nix.StorePath
		var mu sync.Mutex
		read := 0
		pins := s.Pin("test")
		err := s.ImportMany(t.Context(), m.all(), m.write, store.ManyOptions{
			Parallel: parallel, Pins: pins,
			Start: func(info nix.PathInfo) {
				mu.Lock()
				defer mu.Unlock()
				started = append(started, info.Path)
			},
			Progress: func(n int) {
				mu.Lock()
				defer mu.Unlock()
				read += n
			},
			Done:   func(info nix.PathInfo) { done = append(done, info.Path) },
			Failed: func(info nix.PathInfo, err error) { t.Errorf("%v: %v", info.Path, err) },
		})
		if err != nil {
			t.Fatal(err)
		}
		want := 0
		for i, info := range m.infos {
			mustHave(t, s, info, m.archives[info.Path])
			if i >= 8 {
				want += len(m.archives[info.Path])
			}
		}
		if len(done) != 52 || len(started) != 52 || read != want {
			t.Errorf("parallel %d: %d started, %d done, %d bytes; want 52, 52, %d", parallel, len(started), len(done), read, want)
		}
		if got := pins.Len(); got != 60 {
			t.Errorf("parallel %d: %d paths are pinned; want all 60", parallel, got)
		}
		if m.most > max(parallel, 1) {
			t.Errorf("parallel %d: %d at once", parallel, m.most)
		}
		mustVerify(t, s)
	}
}

// What is wrong with some paths ends those, and what refers to them.
func TestImportManyFailures(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for _, parallel := range []int{1, 4} {
		s := open(t, t.TempDir())
		m := makeMany(t, 20)
		for i := range m.infos {
			m.infos[i].References = nil
		}
		m.infos[15].References = []nix.StorePath{m.infos[1].Path}
		m.infos[16].References = []nix.StorePath{m.infos[2].Path, m.infos[15].Path} // in the second degree
		m.infos[17].References = []nix.StorePath{m.infos[0].Path}
		m.errs[m.infos[1].Path] = broken
		m.writeErr[m.infos[3].Path] = broken
		m.infos[4].NarHash = nix.NewSHA256([32]byte{1})
		m.infos[5].NarSize--
		m.infos[6].CA = nix.ContentAddress{Method: nix.MethodNAR, Hash: m.infos[6].NarHash} // which is not its name's
		m.infos[7].NarHash = nix.Hash{}
		m.archives[m.infos[8].Path] = m.archives[m.infos[8].Path][:104]
		m.archives[m.infos[9].Path] = append(m.archives[m.infos[9].Path], make([]byte, 8)...)

		failed := map[nix.StorePath]error{}
		err := s.ImportMany(t.Context(), m.all(), m.write, store.ManyOptions{
			Parallel: parallel, Failed: func(info nix.PathInfo, err error) { failed[info.Path] = err },
		})
		if err != nil {
			t.Fatal(err)
		}
		var mismatch *store.MismatchError
		var refused *store.RefusedError
		var source *store.SourceError
		var missing *store.MissingReferenceError
		for i, is := range map[int]func(error) bool{
			1: func(err error) bool { return errors.Is(err, broken) },
			3: func(err error) bool { return errors.Is(err, broken) && errors.As(err, &source) },
			4: func(err error) bool { return errors.As(err, &mismatch) },
			5: func(err error) bool { return errors.As(err, &mismatch) },
			6: func(err error) bool { return errors.As(err, &refused) },
			8: func(err error) bool { return err != nil },
			9: func(err error) bool { return err != nil },
			15: func(err error) bool {
				return errors.As(err, &missing) && missing.Reference == s.Dir().Path(m.infos[1].Path)
			},
			16: func(err error) bool {
				return errors.As(err, &missing) && missing.Reference == s.Dir().Path(m.infos[15].Path)
			},
		} {
			p := m.infos[i].Path
			if !is(failed[p]) {
				t.Errorf("parallel %d: the error of %d is %v", parallel, i, failed[p])
			}
			absent(t, s, p)
			delete(failed, p)
		}
		for p, err := range failed {
			t.Errorf("parallel %d: %v: %v", parallel, p, err)
		}
		if got := len(allPaths(t, s)); got != 11 {
			t.Errorf("parallel %d: %d valid paths; want 11", parallel, got)
		}
		mustVerify(t, s)
	}
}

// An end of the context ends everything, and what was valid by then stays.
func TestImportManyCanceled(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	m := makeMany(t, 200)
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := 0
	err := s.ImportMany(ctx, m.all(), m.write, store.ManyOptions{Parallel: 2, Done: func(nix.PathInfo) {
		if done++; done == 5 {
			cancel(stop)
		}
	}})
	if !errors.Is(err, stop) && len(allPaths(t, s)) != 200 {
		t.Errorf("ImportMany = %v; want %v", err, stop)
	}
	if got := len(allPaths(t, s)); got != done {
		t.Errorf("%d valid paths; Done has heard of %d", got, done)
	}
	mustVerify(t, s)
}
