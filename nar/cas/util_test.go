package cas_test

import (
	"os"
	"syscall"
	"testing"

	"github.com/narfs/narfs/nar/cas"
)

func writeFile(tb testing.TB, name, text string) {
	tb.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
}

// longRuns returns how often a randomised test runs: more in the
// long test, less in a short one.
func longRuns(long, usual int) int {
	if os.Getenv("NARFS_TEST_LONG") != "" {
		return long
	}
	if testing.Short() {
		return max(usual/4, 1)
	}
	return usual
}

func closeStore(tb testing.TB, s *cas.Store) {
	tb.Helper()
	if err := s.Close(); err != nil {
		tb.Fatal(err)
	}
}

func inode(info os.FileInfo) any {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return st.Ino
}
