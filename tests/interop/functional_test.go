package interop_test

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/narfs/narfs/tests/env"
)

// Names of what Nix's own tests need, which is no part of narfs: a script beside the checkout that runs those of Nix 2.8.0 against any
// daemon, and a git mirror of Nix's sources.
const (
	functionalScript = "../shared/exams/run-nix-functional.sh"
	envNixMirror     = "NARFS_TEST_NIX_MIRROR"
)

// why says why a test of Nix's does not pass; README.md says more.
type why string

const (
	version     why = "wants the daemon to be called 2.8.0"
	nowhere     why = "fails with Nix's own daemon, too: it needs files of a build of Nix"
	writes      why = "writes into the store directory, which is read-only"
	directly    why = "opens the store without the daemon"
	inodes      why = "looks for hard links where chunks are shared"
	recursive   why = "needs recursive-nix, which narfs does not have"
	substitutes why = "needs a substituter"
)

// failing are the tests of Nix 2.8.0 that do not pass. Those that skip themselves with any daemon are not listed.
func failing() map[string]why {
	return map[string]why{
		"store-ping.sh": version, "plugins.sh": nowhere, "bash-profile.sh": nowhere,
		"gc.sh": writes, "ca/gc.sh": writes, "gc-concurrent.sh": writes, "ca/build-with-garbage-path.sh": writes,
		"remote-store.sh": directly, "multiple-outputs.sh": directly, "repl.sh": directly, "ca/repl.sh": directly, "binary-cache-build-remote.sh": directly,
		"optimise-store.sh": inodes, "recursive.sh": recursive, "ca/recursive.sh": recursive, "fetchurl.sh": substitutes,
	}
}

// Nix's own functional tests, with its 2.8.0 client and narfs as the daemon, one daemon a test, whose mount is the store directory.
func TestNixFunctional(t *testing.T) {
	env.Require(t, env.Long(), env.Program("nix-store"), env.Program("bash"))
	script, err := filepath.Abs(filepath.Join("../..", functionalScript))
	if err != nil {
		t.Fatal(err)
	}
	mirror := os.Getenv(envNixMirror)
	if _, err := os.Stat(script); err != nil || mirror == "" {
		t.Skip("needs the script that runs Nix's own tests beside the checkout, and $" + envNixMirror)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"daemon": `#!/bin/bash
mkdir -p "$NIX_STORE_DIR" "$NIX_STATE_DIR"
exec ` + env.Binary(t) + ` daemon --state "$NIX_STATE_DIR" --store-dir "$NIX_STORE_DIR" --listen "$NIX_DAEMON_SOCKET_PATH" --mount "$NIX_STORE_DIR"
`,
		"reset": `#!/bin/bash
if mountpoint -q "$NIX_STORE_DIR"; then
  find "$NIX_STATE_DIR/gcroots" "$NIX_STATE_DIR/profiles" -type l -delete
  ` + env.Binary(t) + ` --state "$NIX_STATE_DIR" gc --no-compact >/dev/null
else
  chmod -R +w "$NIX_STORE_DIR"; rm -rf "$NIX_STORE_DIR" "$NIX_STATE_DIR"; mkdir "$NIX_STORE_DIR" "$NIX_STATE_DIR"
fi
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil { //nolint:gosec // to be run
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "bash", script, "--work", filepath.Join(dir, "work"), "--keep", "--timeout", "120",
		"--user", "self", "--reset-cmd", filepath.Join(dir, "reset"), "--daemon-cmd", filepath.Join(dir, "daemon"))
	cmd.Env = append(os.Environ(), "MIRROR="+mirror)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil && len(out) == 0 {
		t.Fatal(err)
	}
	count := map[string]int{}
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) != 3 {
			t.Errorf("not understood: %s", lines.Text())
			continue
		}
		result, _, _ := strings.Cut(fields[0], "(")
		count[result]++
		reason, known := failing()[fields[1]]
		switch {
		case result == "PASS" && known:
			t.Errorf("%s passes, and is listed: %s", fields[1], reason)
		case result != "PASS" && result != "SKIP" && !known:
			t.Errorf("%s: %s", fields[1], fields[0])
		}
	}
	t.Logf("Nix's own tests: %v", count)
	if count["PASS"] < 60 {
		t.Errorf("only %d of Nix's tests pass", count["PASS"])
	}
}
