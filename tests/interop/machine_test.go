package interop_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/tests/env"
)

// TestMachine has narfs be the one store of a machine: mounted on /nix/store, as nix-daemon at the socket where clients look,
// which know nothing of it but that there is a daemon.
func TestMachine(t *testing.T) {
	t.Parallel()
	env.Require(t, env.Root(), env.Fuse(), env.Program("unshare"))
	eachRelease(t, func(t *testing.T, c *client) {
		t.Helper()
		s := env.NewStore(t)
		file := filepath.Join(env.Dir(t), "key")
		key := []string{"", s.Must("-q", "keys", "generate", "--out", file, "key-1"), t.Name()}
		key[0] = read(t, file)
		names, want := commands(t, c.nix(t, s), key)

		base := "/"
		if c.suite != "" {
			base = env.PeerDir(c.suite)
		}
		l := c.nix(t, s) // for its folder and its settings
		script, err := filepath.Abs(filepath.Join("testdata", "machine.sh"))
		if err != nil {
			t.Fatal(err)
		}
		root := filepath.Join(env.Dir(t), "root")
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		_, got := commandsBy(t, l.Root, key, func(commands, dir string) *exec.Cmd {
			if err := os.CopyFS(filepath.Join(dir, "etc"), os.DirFS(filepath.Join(l.Root, "etc"))); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", "sh", script, root, base, dir, env.Binary(t), commands)
			cmd.Env = append(os.Environ(), "NARFS_STATE_DIR=")
			return cmd
		})
		want["eval"] = "\"hello\\n\"\nexit 0" // which older Nix only can where its store is at its place
		for _, name := range names {
			if diff := cmp.Diff(want[name], got[name]); diff != "" {
				t.Errorf("%s (-Nix +narfs):\n%s", name, diff)
			}
		}
	})
}
