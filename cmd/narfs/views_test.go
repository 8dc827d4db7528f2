package main

import (
	"bytes"
	"context"
	"errors"
	iofs "io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/fs"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/nar/cas"
)

// viewed is a store with one path, a file, and its views.
type viewed struct {
	*views

	t       *testing.T
	s       *store.Store
	path    nix.StorePath
	slot    uint32
	content []byte
}

func newViewed(t *testing.T) *viewed {
	t.Helper()
	if h := fs.Probe(); h.Device != "" {
		t.Skip("no FUSE here: " + h.Device)
	} else if os.Geteuid() != 0 && h.Helper == "" {
		t.Skip("not root, and no fusermount3 here")
	}
	dir := t.TempDir()
	s, err := store.Open(filepath.Join(dir, "state"), store.Options{Content: cas.Options{Reserve: -1}})
	if err != nil {
		t.Fatal(err)
	}
	w := &viewed{views: newViews(s, slog.New(slog.DiscardHandler)), t: t, s: s, content: bytes.Repeat([]byte("some text of some length\n"), 40_000)}
	t.Cleanup(func() {
		for _, m := range w.list() {
			if err := m.Unmount(context.WithoutCancel(t.Context())); err != nil {
				t.Errorf("Unmount = %v", err)
			}
			w.unmounted(m)
		}
		w.close(context.WithoutCancel(t.Context()))
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, w.content, 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := s.AddTree(t.Context(), file, store.AddOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.path = info.Path
	if w.slot, err = s.Slot(w.path); err != nil {
		t.Fatal(err)
	}
	return w
}

// remove deletes the path and sweeps, as somebody who has nothing to do with the views.
func (w *viewed) remove() {
	w.t.Helper()
	if err := w.s.Delete(w.t.Context(), w.path); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.s.Sweep(w.t.Context(), store.SweepOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// check reads an open file to its end, and closes it.
func (w *viewed) check(f *os.File) {
	w.t.Helper()
	got := make([]byte, len(w.content))
	if n, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, w.content) {
		w.t.Errorf("reading an open file after its path was deleted = %d bytes, %v; want all %d", n, err, len(w.content))
	}
	_ = f.Close()
}

// wantLetGo waits until nobody knows the path, and sees its space come back.
func (w *viewed) wantLetGo() {
	w.t.Helper()
	for range 5000 {
		if !w.letGo(w.t.Context()) {
			break
		}
		time.Sleep(time.Millisecond) // FORGETs are under way
	}
	w.mounting.Lock()
	gone := len(w.gone)
	w.mounting.Unlock()
	if w.src.held(w.slot) != nil || gone > 0 {
		w.t.Error("a deleted path that nobody uses is held")
	}
	if _, err := w.s.Sweep(w.t.Context(), store.SweepOptions{}); err != nil {
		w.t.Fatal(err)
	}
	if st, err := w.s.Stats(); err != nil || st.Chunks != 0 {
		w.t.Errorf("Stats after the last user left = %d chunks, %v; want none", st.Chunks, err)
	}
}

// TestDeleteWhileMounting: somebody uses a mount as soon as the kernel has it, which is before its maker knows that it is
// there. What he has open is safe all the same.
func TestDeleteWhileMounting(t *testing.T) {
	w := newViewed(t)
	there, goOn := make(chan string), make(chan struct{})
	w.attach = func(ctx context.Context, src fs.Source, dir string, o fs.Options) (*fs.Mount, error) {
		m, err := fs.New(ctx, src, dir, o)
		there <- dir
		<-goOn
		return m, err
	}
	var mounting sync.WaitGroup
	mounting.Go(func() {
		if _, err := w.mount(t.Context(), t.TempDir(), fs.Options{}); err != nil {
			t.Errorf("mount = %v", err)
		}
	})
	f, err := os.Open(filepath.Join(<-there, w.path.BaseName()))
	if err != nil {
		t.Error(err)
	}
	w.remove()
	close(goOn)
	mounting.Wait()
	w.check(f)
	w.wantLetGo()
}

// slowSource is a Source whose first answer about a slot comes late.
type slowSource struct {
	*source

	once          sync.Once
	asked, answer chan struct{}
}

func (s *slowSource) Top(slot uint32) (fs.Top, error) {
	top, err := s.source.Top(slot)
	s.once.Do(func() {
		close(s.asked)
		<-s.answer
	})
	return top, err
}

// TestDeleteWhileLookedUp: a path is deleted, and swept away, between the server's question for it and the answer that tells
// the kernel. Whoever asked gets nothing, or what he can read.
func TestDeleteWhileLookedUp(t *testing.T) {
	for name, ask := range map[string]func(dir string){
		"by name": func(string) {},
		"by listing": func(dir string) {
			if _, err := os.ReadDir(dir); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newViewed(t)
			slow := &slowSource{source: w.src, asked: make(chan struct{}), answer: make(chan struct{})}
			w.attach = func(ctx context.Context, _ fs.Source, dir string, o fs.Options) (*fs.Mount, error) {
				return fs.New(ctx, slow, dir, o)
			}
			m, err := w.mount(t.Context(), t.TempDir(), fs.Options{})
			if err != nil {
				t.Fatal(err)
			}
			var opening sync.WaitGroup
			opening.Go(func() {
				ask(m.Dir())
				f, err := os.Open(filepath.Join(m.Dir(), w.path.BaseName()))
				switch {
				case err == nil:
					w.check(f)
				case !errors.Is(err, iofs.ErrNotExist):
					t.Errorf("Open = %v; want a file, or that there is none", err)
				}
			})
			<-slow.asked
			w.remove()
			close(slow.answer)
			opening.Wait()
			w.wantLetGo()
		})
	}
}

// TestGiveUp: a sweep after letGo takes what nobody uses.
func TestGiveUp(t *testing.T) {
	w := newViewed(t)
	if _, err := w.mount(t.Context(), t.TempDir(), fs.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := w.s.Delete(t.Context(), w.path); err != nil {
		t.Fatal(err)
	}
	if w.letGo(t.Context()) {
		t.Error("letGo of what no kernel ever knew says that it is used")
	}
	w.wantLetGo()
}
