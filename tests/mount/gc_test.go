package mount_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/narfs/narfs/tests/env"
)

// A file that is open in a mount when its path is collected stays readable until it is closed; its name is gone at once, and its
// space comes back with the next collection after the closing.
func TestOpenFileAndGC(t *testing.T) {
	t.Parallel()
	s := env.NewStore(t)
	data := make([]byte, 4<<20)
	rng := rand.NewChaCha8([32]byte{7})
	_, _ = rng.Read(data)
	name := filepath.Join(env.Dir(t), "data")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	dead, kept := s.Must("add", "--name", "dead", name), s.Must("add", "--name", "kept", "/etc/passwd")
	m := s.Mount()
	s.Must("roots", "add", kept)
	at := func(path string) string { return filepath.Join(m.Dir, filepath.Base(path)) }
	f, err := os.Open(at(dead))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only for this
	head := make([]byte, 1000)
	if _, err := io.ReadFull(f, head); err != nil {
		t.Fatal(err)
	}
	// This process has it open, which the collector sees: so it is no garbage yet, if /proc may be read.
	if out := s.Must("gc"); strings.Contains(out, dead) {
		t.Errorf("gc took what a process has open: %s", out)
	}
	if r := s.Run("delete", dead); r.Code != 1 || !strings.Contains(r.Stderr, "since it is still alive") {
		t.Errorf("delete of what a process has open exited with %d: %s", r.Code, r.Stderr)
	}
	// Without asking for roots, as another machine's process would have it.
	s.Must("delete", "--ignore-roots", dead)
	s.Must("gc")
	if _, err := os.Stat(at(dead)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("stat of a deleted path = %v; want ErrNotExist", err)
	}
	rest, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(append(head, rest...), data) {
		t.Errorf("the open file reads %d bytes, %v; want %d", len(head)+len(rest), err, len(data))
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	env.Eventually(t, "the space is back", func() (bool, error) {
		s.Must("gc")
		size := int64(0)
		packs, err := filepath.Glob(filepath.Join(s.State, "store/packs/*.pack"))
		for _, pack := range packs {
			n, serr := occupied(pack)
			if serr != nil {
				return false, nil //nolint:nilerr // a pack that was just removed
			}
			size += n
		}
		return size < 1<<20, err
	})
	if _, err := os.ReadFile(at(kept)); err != nil {
		t.Errorf("what has a root: %v", err)
	}
	m.Unmount()
}
