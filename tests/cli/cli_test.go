package cli_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/narfs/narfs/tests/env"
)

var update = flag.Bool("update", false, "rewrite the expected output in testdata")

func TestMain(m *testing.M) { env.Main(m) }

func TestScripts(t *testing.T) {
	binary := env.Binary(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", filepath.Dir(binary)+string(os.PathListSeparator)+e.Getenv("PATH"))
			e.Setenv("NARFS", binary)
			e.Setenv("NARFS_STATE_DIR", filepath.Join(e.WorkDir, ".state"))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("NIX_CONF_DIR", filepath.Join(e.WorkDir, ".conf")) // not the settings of this machine
			e.Setenv("NARFS_CONF", filepath.Join(e.WorkDir, ".conf", "narfs.conf"))
			e.Defer(func() { env.UnmountBelow(t, e.WorkDir) })
			return nil
		},
		Condition: condition,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":     exits,
			"keep":      keep,
			"mounted":   func(ts *testscript.TestScript, neg bool, args []string) { waitMounted(ts, neg, args, true) },
			"unmounted": func(ts *testscript.TestScript, neg bool, args []string) { waitMounted(ts, neg, args, false) },
		},
	})
}

func condition(name string) (bool, error) {
	switch name {
	case "builds":
		return env.Builds().Err() == nil, nil
	case "fuse":
		return env.Fuse().Err() == nil, nil
	case "root":
		return env.Root().Err() == nil, nil
	case "long":
		return env.Long().Err() == nil, nil
	default:
		return false, fmt.Errorf("unknown condition %q", name)
	}
}

// exits is like exec, for a command that must exit with the code that is its
// first argument.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s exited with %d; want %d", strings.Join(args[1:], " "), got, want)
	}
}

// keep sets a variable to what the last command printed, without the last
// newline.
func keep(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: keep VARIABLE")
	}
	ts.Setenv(args[0], strings.TrimSuffix(ts.ReadFile("stdout"), "\n"))
}

func waitMounted(ts *testscript.TestScript, neg bool, args []string, want bool) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: mounted DIR, unmounted DIR")
	}
	dir := ts.MkAbs(args[0])
	for deadline := time.Now().Add(env.Patience); ; time.Sleep(5 * time.Millisecond) {
		got, err := env.Mounted(dir)
		ts.Check(err)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("waited %v in vain: mounted %s is %v", env.Patience, dir, got)
		}
	}
}
