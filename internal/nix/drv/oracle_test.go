package drv_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
)

// realNix runs a program of the Nix that is installed on a store of its own; it skips the test without it.
func realNix(t *testing.T, root, program string, args ...string) (stderr string, err error) {
	t.Helper()
	file, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("no real Nix: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), file, args...)
	cmd.Env = append(cmd.Environ(), "NIX_REMOTE="+root, "HOME="+root, "NIX_CONF_DIR="+root, "NIX_USER_CONF_FILES=")
	var b bytes.Buffer
	cmd.Stderr = &b
	err = cmd.Run()
	return b.String(), err
}

// realStore is the store that Nix makes of an expression.
func realStore(t *testing.T, root, expr string) store {
	t.Helper()
	file := filepath.Join(t.TempDir(), "x.nix")
	if err := os.WriteFile(file, []byte(expr), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := realNix(t, root, "nix-instantiate", "--extra-experimental-features", "ca-derivations impure-derivations", file); err != nil {
		t.Fatalf("nix-instantiate: %v\n%s", err, out)
	}
	files, err := filepath.Glob(filepath.Join(root, "nix/store/*.drv"))
	if err != nil || len(files) == 0 {
		t.Fatalf("Nix made %v, %v", files, err)
	}
	s := store{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		path := basePath(t, filepath.Base(file))
		name, err := drv.NameFromPath(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.add(t, mustParse(t, name, text)); got != path {
			t.Errorf("the path of %s is %s", path, got)
		}
	}
	return s
}

// The Nix that is installed makes of the same expressions what Nix 2.8 made, and all that it makes is in order.
func TestOracle(t *testing.T) {
	t.Parallel()
	files := nix28(t)
	for _, expr := range []string{files["chain.nix"], files["resolved.nix"]} {
		s := realStore(t, t.TempDir(), expr)
		for path, d := range s {
			if err := s.hasher().CheckInvariants(t.Context(), path, d); err != nil {
				t.Errorf("CheckInvariants(%s) = %v", path, err)
			}
			if _, ok := files[path.BaseName()]; !ok {
				t.Errorf("%s is not in testdata", path)
			}
		}
	}
}

// What is wrong with a derivation Nix says in the same words. It looks at whatever is called .drv and is added to its store, as a
// path with another hash part than File's.
func TestOracleInvariants(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s := realStore(t, root, nix28(t)["chain.nix"])
	other := basePath(t, hashPart+"-top-lib")
	for name, change := range map[string]struct {
		of     string
		change func(*drv.Derivation)
	}{
		"right":           {"top", func(*drv.Derivation) {}},
		"path":            {"top", func(d *drv.Derivation) { d.Outputs["lib"] = drv.Output{Kind: drv.InputAddressed, Path: other} }},
		"variable":        {"top", func(d *drv.Derivation) { d.Env["lib"] = nix.DefaultStoreDir.Path(other) }},
		"no variable":     {"src", func(d *drv.Derivation) { delete(d.Env, "out") }},
		"another program": {"top", func(d *drv.Derivation) { d.Builder = "/bin/false" }},
		"other input":     {"mid", func(d *drv.Derivation) { delete(d.InputDrvs, s.byName(t, "flat.tar.gz")) }},
		"more outputs":    {"top", func(d *drv.Derivation) { d.Outputs["out"] = d.Outputs["lib"] }},
		"mixed":           {"top", func(d *drv.Derivation) { d.Outputs["out"] = drv.Output{Kind: drv.Deferred} }},
		"named dev":       {"src", func(d *drv.Derivation) { d.Outputs["dev"] = d.Outputs["out"]; delete(d.Outputs, "out") }},
		"two fixed":       {"src", func(d *drv.Derivation) { d.Outputs["dev"] = d.Outputs["out"] }},
		"fixed otherwise": {"src", func(d *drv.Derivation) { d.Builder = "builtin:fetchurl" }},
	} {
		d := clone(s[s.byName(t, change.of)])
		change.change(d)
		text, err := d.ATerm(nix.DefaultStoreDir)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), change.of+drv.Extension)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		said, nixErr := realNix(t, root, "nix-store", "--add", file)
		if exit := new(exec.ExitError); nixErr != nil && !errors.As(nixErr, &exit) {
			t.Fatal(nixErr)
		}
		err = s.hasher().CheckInvariants(t.Context(), s.byName(t, change.of), d)
		if (err == nil) != (nixErr == nil) {
			t.Errorf("%s: CheckInvariants() = %v; Nix says %v, %s", name, err, nixErr, said)
		}
		if err == nil || nixErr == nil {
			continue
		}
		// Of mixed outputs, Nix does not name the derivation.
		what := regexp.MustCompile(`^derivation '[^']*'( has|: derivation "[^"]*": )`).ReplaceAllString(err.Error(), "")
		if !strings.Contains(said, what) {
			t.Errorf("%s: CheckInvariants() = %v; Nix says %s", name, err, said)
		}
	}
}
