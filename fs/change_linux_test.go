package fs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/casefold"
	"github.com/narfs/narfs/fs"
	"github.com/narfs/narfs/fs/fstest"
)

func TestViewsAtOnce(t *testing.T) {
	src := fstest.NewMemory()
	src.Add(hello, fstest.New(fstest.Dir(map[string]fstest.Node{
		"xt_CONNMARK.h": fstest.Text("upper"), "xt_connmark.h": fstest.Text("lower"), "D/x": fstest.Text("X"), "d/y": fstest.Text("y"),
	})))
	exact := mount(t, src, fs.Options{})
	hacked := mount(t, src, fs.Options{CaseHack: true})
	folded := mount(t, src, fs.Options{CaseHack: true, CaseInsensitive: true, Rule: casefold.ASCII})
	const suffix = casefold.Suffix + "1"
	list := func(m *fs.Mount) (names []string) {
		entries, err := os.ReadDir(filepath.Join(m.Dir(), hello))
		if err != nil {
			t.Error(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	if diff := cmp.Diff([]string{"D", "d", "xt_CONNMARK.h", "xt_connmark.h"}, list(exact)); diff != "" {
		t.Errorf("exact view (-want +got):\n%s", diff)
	}
	for _, m := range []*fs.Mount{hacked, folded} {
		if diff := cmp.Diff([]string{"D", "d" + suffix, "xt_CONNMARK.h", "xt_connmark.h" + suffix}, list(m)); diff != "" {
			t.Errorf("hacked view (-want +got):\n%s", diff)
		}
		// Twice, and the original names in between: a directory is known under two names then.
		for range 2 {
			for path, want := range map[string]string{
				"xt_connmark.h": "lower", "xt_connmark.h" + suffix: "lower", "xt_CONNMARK.h": "upper",
				"d/y": "y", "d" + suffix + "/y": "y", "D/x": "X",
			} {
				if got, err := os.ReadFile(filepath.Join(m.Dir(), hello, path)); string(got) != want {
					t.Errorf("%s = %q, %v; want %q", path, got, err, want)
				}
			}
		}
	}
	if got, err := os.ReadFile(filepath.Join(folded.Dir(), strings.ToUpper(hello), "XT_CONNMARK.H")); string(got) != "upper" {
		t.Errorf("folded: %q, %v; want upper", got, err)
	}
	if _, err := os.Lstat(filepath.Join(exact.Dir(), hello, "XT_CONNMARK.H")); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("exact: %v; want not exist", err)
	}
}

func TestPathsComeAndGo(t *testing.T) {
	src := sample()
	m := mount(t, src, fs.Options{})
	list := func() string {
		entries, err := os.ReadDir(m.Dir())
		if err != nil {
			t.Error(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return strings.Join(names, " ")
	}
	const name = "00000000000000000000000000000005-new"
	path := filepath.Join(m.Dir(), name)
	before := list()
	for round := range 20 {
		if _, err := os.Lstat(path); !errors.Is(err, iofs.ErrNotExist) { // now the kernel remembers that
			t.Fatalf("round %d: Lstat before the path is added: %v; want not exist", round, err)
		}
		content := fmt.Sprint("round ", round)
		slot := src.Add(name, fstest.New(fstest.Dir(map[string]fstest.Node{"f": fstest.Text(content)})))
		m.Added(name, slot)
		if err := m.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, want := list(), before+" "+name; got != want {
			t.Fatalf("round %d: the root has %s; want %s", round, got, want)
		}
		f, err := os.Open(filepath.Join(path, "f"))
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if m.Refs(slot) == 0 {
			t.Errorf("round %d: no references to an open file", round)
		}
		m.Removed(name, src.Remove(name))
		if err := m.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, iofs.ErrNotExist) {
			t.Fatalf("round %d: Lstat after the path was removed: %v; want not exist", round, err)
		}
		if got := list(); got != before {
			t.Fatalf("round %d: the root has %s; want %s", round, got, before)
		}
		if got, err := io.ReadAll(f); string(got) != content {
			t.Errorf("round %d: reading what was open before the removal = %q, %v", round, got, err)
		}
		_ = f.Close()
		if _, err := m.Release(slot); err != nil {
			t.Error(err)
		}
		if !soon(func() bool { return m.Refs(slot) == 0 }) { // the FORGETs are under way
			t.Errorf("round %d: %d references to a removed path that nobody uses", round, m.Refs(slot))
		}
	}
}

// What a listing or a lookup saw before a change must not stay in the kernel's caches after it.
func TestNoStaleCaches(t *testing.T) {
	src := sample()
	m := mount(t, src, fs.Options{})
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	const name = "00000000000000000000000000000006-now"
	for range 3 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := os.ReadDir(m.Dir()); err != nil {
					t.Error(err)
				}
				_, _ = os.Lstat(filepath.Join(m.Dir(), name))
			}
		})
	}
	for round := range 100 {
		m.Added(name, src.Add(name, fstest.New(fstest.Empty())))
		if err := m.Sync(ctx); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(m.Dir())
		if _, stat := os.Lstat(filepath.Join(m.Dir(), name)); len(entries) != 4 || err != nil || stat != nil {
			t.Fatalf("round %d: added, but the root has %d entries, %v, and stat says %v", round, len(entries), err, stat)
		}
		m.Removed(name, src.Remove(name))
		if err := m.Sync(ctx); err != nil {
			t.Fatal(err)
		}
		entries, err = os.ReadDir(m.Dir())
		if _, stat := os.Lstat(filepath.Join(m.Dir(), name)); len(entries) != 3 || err != nil || !errors.Is(stat, iofs.ErrNotExist) {
			t.Fatalf("round %d: removed, but the root has %d entries, %v, and stat says %v", round, len(entries), err, stat)
		}
	}
	stop()
	wg.Wait()
}
