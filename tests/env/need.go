package env

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Need is something that a test cannot do without and that a machine may lack.
type Need struct {
	name  string
	check func() error
}

// Err is nil if this machine has what the need asks for, and says otherwise
// what it lacks: "needs /dev/fuse: open /dev/fuse: permission denied".
func (n Need) Err() error {
	if err := n.check(); err != nil {
		return fmt.Errorf("needs %s: %w", n.name, err)
	}
	return nil
}

// Require skips the test, with the reason, unless this machine has all needs.
func Require(tb testing.TB, needs ...Need) {
	tb.Helper()
	for _, need := range needs {
		if err := need.Err(); err != nil {
			tb.Skip(err)
		}
	}
}

// Root is the need to be root.
func Root() Need {
	return Need{"root", func() error {
		if uid := os.Getuid(); uid != 0 {
			return fmt.Errorf("the user is %d", uid)
		}
		return nil
	}}
}

// Program is the need for a program in PATH.
func Program(name string) Need {
	return Need{name, func() error {
		_, err := exec.LookPath(name)
		if errors.Is(err, exec.ErrNotFound) {
			return errors.New("it is not in PATH")
		}
		return err
	}}
}

// RealNix is the need for the programs of Nix in PATH. A narfs that is installed as nix-store is none.
func RealNix() Need { return Need{"Nix", realNix} }

func realNix() error {
	if err := Program("nix-store").check(); err != nil {
		return fmt.Errorf("nix-store: %w", err)
	}
	cmd := exec.CommandContext(context.Background(), "nix-store", "--version")
	var complaints bytes.Buffer // Nix has some, too, such as a missing group of build users
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if !strings.HasPrefix(string(out), "nix-store (Nix) ") {
		said, _, _ := strings.Cut(strings.TrimSpace(string(out)+complaints.String()), "\n")
		return fmt.Errorf("%s --version says %q, %w", cmd.Path, said, cmp.Or(err, errors.New("which Nix does not")))
	}
	return nil
}

// Peer is the need for a Debian of a suite with a newer Nix inside, which
// scripts/peers makes. PeerDir says where it is.
func Peer(suite string) Need {
	return Need{"the Nix of Debian " + suite, func() error {
		if _, err := os.Stat(filepath.Join(PeerDir(suite), "usr", "bin", "nix-store")); err != nil {
			return fmt.Errorf("%w (scripts/peers %s makes it)", err, suite)
		}
		return Root().Err() // for chroot
	}}
}

// PeerDir returns the root folder of the Debian that Peer asks for.
func PeerDir(suite string) string {
	cache := os.Getenv("NARFS_CACHE_DIR")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			user = filepath.Join("/root", ".cache") // as scripts/lib.sh
		}
		cache = filepath.Join(user, "narfs")
	}
	return filepath.Join(cache, "peers", suite)
}

// Long is the need for time: only scripts/test --long gives it.
func Long() Need {
	return Need{"scripts/test --long", func() error {
		if os.Getenv("NARFS_TEST_LONG") == "" {
			return errors.New("NARFS_TEST_LONG is not set")
		}
		return nil
	}}
}
