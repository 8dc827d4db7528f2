package env

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// Nix is a throw-away store of the real Nix, with /nix/store as its store
// directory as far as store paths go, and its files elsewhere.
type Nix struct {
	Root string // holds nix/store, nix/var and etc/nix.conf

	tb    testing.TB
	peers []string // the command before each command, if it is not this machine's Nix
}

// NewNix makes an empty store that is removed after the test. It needs
// RealNix.
func NewNix(tb testing.TB) *Nix {
	tb.Helper()
	Require(tb, RealNix())
	return newNix(tb)
}

// NewPeerNix is NewNix for the newer Nix inside a Debian of a suite. Its programs see the store and some more folders
// under the names that these have here. It needs Peer.
func NewPeerNix(tb testing.TB, suite string, folders ...string) *Nix {
	tb.Helper()
	Require(tb, Peer(suite))
	n := newNix(tb)
	script, err := peersScript()
	if err != nil {
		tb.Fatal(err)
	}
	// Its cache folder is not that of the store.
	n.peers = []string{"env", "NARFS_CACHE_DIR=" + filepath.Dir(filepath.Dir(PeerDir(suite))), script, "--run", suite}
	for _, dir := range append([]string{n.Root}, folders...) {
		n.peers = append(n.peers, "--bind", dir)
	}
	return n
}

// peersScript finds scripts/peers of this checkout: tests run in the folder of their package.
func peersScript() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		script := filepath.Join(dir, "scripts", "peers")
		parent := filepath.Dir(dir)
		if _, err := os.Stat(script); err == nil || parent == dir {
			return script, err
		}
		dir = parent
	}
}

func newNix(tb testing.TB) *Nix {
	tb.Helper()
	n := &Nix{Root: Dir(tb), tb: tb}
	conf := filepath.Join(n.Root, "etc")
	if err := os.Mkdir(conf, 0o755); err != nil {
		tb.Fatal(err)
	}
	settings := "build-users-group =\nfsync-metadata = false\nsubstituters =\nexperimental-features = nix-command flakes\n"
	if err := os.WriteFile(filepath.Join(conf, "nix.conf"), []byte(settings), 0o644); err != nil {
		tb.Fatal(err)
	}
	return n
}

// Command prepares a program of Nix, such as nix-store, that uses the store.
func (n *Nix) Command(name string, args ...string) *exec.Cmd {
	command := slices.Concat(n.peers, []string{name}, args)
	cmd := exec.CommandContext(n.tb.Context(), command[0], command[1:]...)
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
