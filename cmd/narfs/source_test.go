package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/fs/fstest"
	"github.com/narfs/narfs/nar/cas"
)

// TestSource: the store keeps the promises that package fs wants of a Source.
func TestSource(t *testing.T) {
	dir := t.TempDir()
	s, err := store.Open(filepath.Join(dir, "state"), store.Options{Content: cas.Options{Reserve: -1}})
	if err != nil {
		t.Fatal(err)
	}
	trees := map[string]string{} // by base name
	for i := range 5 {
		tree := filepath.Join(dir, fmt.Sprintf("tree%d", i))
		for k := range 30 {
			file := filepath.Join(tree, fmt.Sprint(k%4), fmt.Sprint(k))
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(fmt.Sprintf("%0*d", k*k*50, i)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		info, err := s.AddTree(t.Context(), tree, store.AddOptions{})
		if err != nil {
			t.Fatal(err)
		}
		trees[info.Path.BaseName()] = tree
	}
	v := newViews(s, slog.New(slog.DiscardHandler))
	if _, _, err := s.Totals(); err != nil { // else they are guessed for a moment
		t.Fatal(err)
	}
	var paths []string
	for path := range trees {
		paths = append(paths, path)
	}
	fstest.TestSource(t, v.src, paths, func(path, file string) ([]byte, error) {
		return os.ReadFile(filepath.Join(trees[path], filepath.FromSlash(file)))
	})
	v.close(t.Context())
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
