package cas_test

import (
	"os"
	"testing"
)

func writeFile(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// longRuns returns how often a randomised test runs: more in the long test.
func longRuns(long, usual int) int {
	if os.Getenv("NARFS_TEST_LONG") != "" {
		return long
	}
	return usual
}
