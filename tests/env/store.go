package env

import (
	"bytes"
	"errors"
	iofs "io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Dir makes a folder that is removed after the test, also if it then holds
// read-only folders, as store paths have.
func Dir(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	tb.Cleanup(func() { // runs before TempDir's own
		_ = filepath.WalkDir(dir, func(path string, entry iofs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				err = os.Chmod(path, 0o700)
			}
			return err // what cannot be removed, TempDir complains about
		})
	})
	return dir
}

// Store is a throw-away store of narfs.
type Store struct {
	State string // its state directory

	tb     testing.TB
	binary string
}

// NewStore makes an empty store that is removed after the test.
func NewStore(tb testing.TB) *Store {
	tb.Helper()
	return &Store{State: filepath.Join(Dir(tb), "state"), tb: tb, binary: Binary(tb)}
}

// Result is how a program ended.
type Result struct {
	Code           int // -1 after a signal
	Stdout, Stderr string
}

// Command prepares narfs with its state directory set. It ends with the test.
func (s *Store) Command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(s.tb.Context(), s.binary, args...)
	cmd.Env = append(os.Environ(), "NARFS_STATE_DIR="+s.State)
	return cmd
}

// Run runs narfs to its end, with nothing on its standard input.
func (s *Store) Run(args ...string) Result {
	s.tb.Helper()
	return Run(s.tb, s.Command(args...))
}

// Must runs narfs, fails the test if that fails, and returns what it printed
// without the last newline.
func (s *Store) Must(args ...string) string {
	s.tb.Helper()
	return Must(s.tb, s.Command(args...))
}

// Run runs a program to its end. It keeps a Stdout or Stderr that is set.
func Run(tb testing.TB, cmd *exec.Cmd) Result {
	tb.Helper()
	var stdout, stderr bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &stdout
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &stderr
	}
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		tb.Fatalf("running %q: %v", cmd.Args, err)
	}
	return Result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// Must runs a program, fails the test if that fails, and returns what it
// printed without the last newline.
func Must(tb testing.TB, cmd *exec.Cmd) string {
	tb.Helper()
	result := Run(tb, cmd)
	if result.Code != 0 {
		tb.Fatalf("%q exited with %d and printed:\n%s%s", cmd.Args, result.Code, result.Stdout, result.Stderr)
	}
	return strings.TrimSuffix(result.Stdout, "\n")
}
