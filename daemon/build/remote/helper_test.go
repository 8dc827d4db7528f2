package remote_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/narfs/narfs/daemon/serveproto"
	"github.com/narfs/narfs/internal/nix"
)

// TestMain makes this program what is at the other end of ssh, if it is told so.
func TestMain(m *testing.M) {
	if os.Getenv("NARFS_TEST_OTHER_SIDE") == "" {
		m.Run()
		return
	}
	c, err := serveproto.Accept(os.Stdin, os.Stdout, nix.DefaultStoreDir)
	for err == nil {
		if _, err = c.Command(); err == nil {
			_, err = c.ReadQueryValidPaths()
		}
		if err == nil {
			err = errors.Join(c.WritePaths(nil), c.W.Flush())
		}
	}
}

func writeProgram(t *testing.T, name, script string) {
	t.Helper()
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
}

func waitFor(t *testing.T, name string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for begun := time.Now(); time.Since(begun) < 30*time.Second; <-tick.C {
		if _, err := os.Stat(name); err == nil {
			return
		}
	}
	t.Fatalf("waited in vain for %s", name)
}

func filesBelow(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}
