package env

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// binaryVar names the narfs to test. Without it, Main builds one.
const binaryVar = "NARFS_TEST_BINARY"

// Main runs the tests of a package, after it has built the narfs that they
// test unless $NARFS_TEST_BINARY names one. It returns what TestMain may pass
// on or forget: testing exits with it.
func Main(m *testing.M) int {
	if os.Getenv(binaryVar) != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "narfs-test-binary-")
	if err == nil {
		defer func() { _ = os.RemoveAll(dir) }()
		err = build(filepath.Join(dir, "narfs"))
	}
	if err != nil {
		// No test may pass without narfs; those that do not need it may.
		_, _ = fmt.Fprintf(os.Stderr, "tests/env: %v\n", err)
	}
	return m.Run()
}

// build makes the static binary that users get and points binaryVar to it.
func build(file string) error {
	cmd := exec.CommandContext(context.Background(), "go", "build", "-o", file, "github.com/narfs/narfs/cmd/narfs")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building narfs: %w\n%s", err, out)
	}
	return os.Setenv(binaryVar, file)
}

// Binary returns the absolute name of the narfs to test.
func Binary(tb testing.TB) string {
	tb.Helper()
	file := os.Getenv(binaryVar)
	if file == "" {
		tb.Fatalf("no narfs to test: TestMain did not call env.Main, or the build failed and $%s is not set", binaryVar)
	}
	file, err := filepath.Abs(file)
	if err != nil {
		tb.Fatal(err)
	}
	return file
}
