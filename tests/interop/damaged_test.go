package interop_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/narfs/narfs/tests/env"
)

// A path whose contents are not what its store says is refused, and nobody waits for the large ones behind it.
func TestCopyFromDamagedNix(t *testing.T) {
	t.Parallel()
	n := env.NewNix(t)
	dir := env.Dir(t)
	write(t, filepath.Join(dir, "bin", "ssh"), "#!/bin/sh\nwhile test \"${1#-}\" != \"$1\"; do shift; done\nshift\nexec sh -c \"exec $*\"\n", 0o755)
	content := make([]byte, 8<<20)
	rng := rand.NewChaCha8([32]byte{})
	var paths []string
	for _, name := range []string{"a", "b", "c", "d"} {
		_, _ = rng.Read(content)
		file := filepath.Join(dir, name)
		write(t, file, string(content), 0o644)
		paths = append(paths, n.Must("nix-store", "--add", file))
	}
	slices.Sort(paths) // as they will be sent
	damaged := n.Real(paths[0])
	if err := os.Chmod(damaged, 0o644); err != nil {
		t.Fatal(err)
	}
	write(t, damaged, "something else", 0o644)

	s := env.NewStore(t)
	cmd := n.Command("timeout", slices.Concat([]string{"20", env.Binary(t), "--state", s.State, "copy", "--from", "ssh://host"}, paths)...)
	cmd.Env = append(cmd.Env, "PATH="+filepath.Join(dir, "bin")+string(os.PathListSeparator)+os.Getenv("PATH"))
	got := env.Run(t, cmd)
	if got.Code != 1 || !strings.Contains(got.Stderr, "hash mismatch") || !strings.Contains(got.Stderr, "add path '"+paths[0]+"'") || got.Stdout != "" {
		t.Errorf("copy ends with %d and says:\n%s%s", got.Code, got.Stdout, got.Stderr)
	}
	if strings.Contains(got.Stderr, "writing to file") {
		t.Errorf("copy says who did not fail:\n%s", got.Stderr)
	}
	if out := s.Must("verify"); strings.Contains(out, paths[0]) {
		t.Errorf("verify says %q", out)
	}
	if out := s.Must("ls"); out != "" {
		t.Errorf("ls says %q; want nothing", out)
	}
}
