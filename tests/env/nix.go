package env

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Nix is a throw-away store of the real Nix, with /nix/store as its store
// directory as far as store paths go, and its files elsewhere.
type Nix struct {
	Root string // holds nix/store, nix/var and etc/nix.conf

	tb testing.TB
}

// NewNix makes an empty store that is removed after the test. It needs
// nix-store.
func NewNix(tb testing.TB) *Nix {
	tb.Helper()
	Require(tb, Program("nix-store"))
	n := &Nix{Root: Dir(tb), tb: tb}
	conf := filepath.Join(n.Root, "etc")
	if err := os.Mkdir(conf, 0o755); err != nil {
		tb.Fatal(err)
	}
	settings := "build-users-group =\nsubstituters =\nexperimental-features = nix-command flakes\n"
	if err := os.WriteFile(filepath.Join(conf, "nix.conf"), []byte(settings), 0o644); err != nil {
		tb.Fatal(err)
	}
	return n
}

// Command prepares a program of Nix, such as nix-store, that uses the store.
func (n *Nix) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(n.tb.Context(), name, args...)
	cmd.Env = append(os.Environ(),
		"NIX_REMOTE="+n.Root, "NIX_CONF_DIR="+filepath.Join(n.Root, "etc"), "NIX_USER_CONF_FILES=",
		"HOME="+n.Root, "XDG_CACHE_HOME="+filepath.Join(n.Root, "cache"))
	return cmd
}

// Must runs a program of Nix, fails the test if that fails, and returns what
// it printed without the last newline.
func (n *Nix) Must(name string, args ...string) string {
	n.tb.Helper()
	return Must(n.tb, n.Command(name, args...))
}

// Real returns where the files of a store path are.
func (n *Nix) Real(storePath string) string { return filepath.Join(n.Root, storePath) }
