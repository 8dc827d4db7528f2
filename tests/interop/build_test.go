package interop_test

import (
	"cmp"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/narfs/narfs/tests/env"
)

// outcome is what became of one derivation.
type outcome struct {
	out   string // paths, hashes and references of its outputs
	error string // the errors, without colours
	code  int
}

// hostPrograms lets a sandbox see a shell and its tools.
const hostPrograms = "/bin /usr/bin /usr/lib /usr/lib64? /lib /lib64 /etc/ld.so.cache? /etc/alternatives?"

// buildAll builds each of testdata/builds.nix, with some more options, and returns what became of it.
func buildAll(t *testing.T, l *local, options ...string) map[string]outcome {
	t.Helper()
	dir := filepath.Join(l.Root, "builds")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	expression := filepath.Join(dir, "builds.nix")
	write(t, expression, read(t, filepath.Join("testdata", "builds.nix")), 0o644)
	common := []string{
		"--option", "experimental-features", "nix-command ca-derivations", "--option", "sandbox", "true",
		"--option", "sandbox-paths", hostPrograms, "--option", "max-jobs", "2",
	}
	names := strings.Fields(output(t, l, "nix-instantiate", append(common, "--eval", "-E",
		"builtins.concatStringsSep \" \" (builtins.attrNames (import "+expression+"))")...))
	all := map[string]outcome{}
	for _, name := range names {
		name = strings.Trim(name, `"`)
		r := env.Run(t, l.Command("nix-build", slices.Concat(common, []string{"--no-out-link", expression, "-A", name}, options)...))
		b := outcome{code: r.Code, error: plain(r.Stderr)}
		for out := range strings.FieldsSeq(r.Stdout) {
			b.out += out + " " + output(t, l, "nix-store", append(common, "-q", "--hash", out)...) +
				output(t, l, "nix-store", append(common, "-q", "--references", out)...)
		}
		all[name] = b
	}
	return all
}

func output(t *testing.T, l *local, program string, args ...string) string {
	t.Helper()
	r := env.Run(t, l.Command(program, args...))
	if r.Code != 0 {
		t.Fatalf("%s %v exited with %d: %s", program, args, r.Code, r.Stderr)
	}
	return r.Stdout
}

func plain(text string) string {
	return regexp.MustCompile("\x1b\\[[0-9;]*m").ReplaceAllString(text, "")
}

// failures are the derivations of testdata/builds.nix that fail, and what is said of them.
var failures = map[string]struct {
	text   string // by narfs, and by Nix unless
	newest string // it is of 2.34, which has other words
}{
	"wrongHash":   {"hash mismatch in fixed-output derivation", ""},
	"notAllowed":  {"is not allowed to refer to", ""},
	"disallowed":  {"is not allowed to refer to", ""},
	"fails":       {"failed with exit code 3", ""},
	"nothing":     {"failed to produce output path", ""},
	"ofFailure":   {"dependencies of derivation", "1 dependency failed"},
	"cycle":       {"cycle detected in build of", ""},
	"noProgram":   {"executing '/no/such/program'", ""},
	"otherSystem": {"a 'mips-none' with features {} is required to build", "Required system: 'mips-none'"},
	"feature":     {"no-such-feature", ""},
	"fetched":     {"failed with exit code 1", ""},
}

// ofSelf are the derivations whose outputs have a content address of something that refers to itself, or refer to such an output. Nix has
// another address for these from 2.17 to 2.34, into which the places of such references do not go: its issue 15837, mended in 2.35.
var ofSelf = []string{"caSelf", "caChain", "ofCA"}

// compareBuilds holds what became of builds by narfs against what became of those by a release of Nix. Other are texts for failures that narfs
// has in a place of the test's.
func compareBuilds(t *testing.T, version string, want, got map[string]outcome, other map[string]string) {
	t.Helper()
	for name, w := range want {
		g := got[name]
		f, fails := failures[name]
		ours, ofNix := cmp.Or(other[name], f.text), f.text
		if version == "2.34.8" {
			ofNix = cmp.Or(f.newest, f.text)
		}
		differs := version != "2.8.0" && slices.Contains(ofSelf, name)
		switch {
		case fails != (w.code != 0):
			t.Errorf("%s: Nix exited with %d: %s", name, w.code, w.error)
		case (g.code != 0) != (w.code != 0) || (g.out != w.out) != differs: // a daemon does not tell its client the exit code of a failure
			t.Errorf("%s: exit code %d, want %d\ngot  %s\nwant %s\n%s", name, g.code, w.code, g.out, w.out, g.error)
		case fails && (!strings.Contains(g.error, ours) || !strings.Contains(w.error, ofNix)):
			t.Errorf("%s: narfs should say %q, and Nix %q\nNix:   %s\nnarfs: %s", name, ours, ofNix, w.error, g.error)
		}
	}
	if len(want) < 40 || len(got) != len(want) {
		t.Errorf("%d derivations by Nix, %d by narfs", len(want), len(got))
	}
}

// The same derivations give the same outputs, with the same hashes and references, or the same failures, whether Nix builds them
// or narfs, whoever asks it to.
func TestBuilds(t *testing.T) {
	t.Parallel()
	env.Require(t, env.Program("nix-store"), env.Root())
	var mu sync.Mutex
	byNarfs := map[string]map[string]outcome{}
	t.Cleanup(func() {
		for version, got := range byNarfs {
			for name, b := range got {
				if first, ok := byNarfs["2.8.0"]; ok && b.out != first[name].out {
					t.Errorf("%s: for Nix %s narfs builds\n%sand for Nix 2.8.0\n%s", name, version, b.out, first[name].out)
				}
			}
		}
	})
	eachRelease(t, func(t *testing.T, c *client) {
		t.Helper()
		s := serveStore(t)
		var want, got map[string]outcome
		t.Run("nix", func(t *testing.T) { want = buildAll(t, c.nix(t, s.Store)) })
		t.Run("narfs", func(t *testing.T) { got = buildAll(t, s.client(t, c)) })
		mu.Lock()
		byNarfs[c.version] = got
		mu.Unlock()
		compareBuilds(t, c.version, want, got, nil)
		if r := s.Run("verify"); r.Code != 0 {
			t.Errorf("narfs verify exited with %d: %s%s", r.Code, r.Stdout, r.Stderr)
		}
	})
}

// Clients are told which phase a builder is in, and both nix log and narfs log print what it said.
func TestPhases(t *testing.T) {
	t.Parallel()
	env.Require(t, env.Root())
	eachRelease(t, func(t *testing.T, c *client) {
		t.Helper()
		s := serveStore(t)
		l := s.client(t, c)
		expression := filepath.Join(l.Root, "phases.nix")
		write(t, expression, `derivation { name = "phases"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "`+
			`echo '@nix {\"action\":\"setPhase\",\"phase\":\"first\"}'; echo said; echo > $out" ]; }`, 0o644)
		common := []string{"--option", "substitute", "false", "--option", "sandbox-paths", "/bin /usr/bin /usr/lib /lib /lib64"}
		r := env.Run(t, l.Command("nix-build", append(common, "--no-out-link", "-v", "--log-format", "internal-json", expression)...))
		if told := regexp.MustCompile(`"fields":\["first"\],"id":\d+,"type":104`); r.Code != 0 || !told.MatchString(r.Stderr) {
			t.Errorf("nix-build exited with %d: %s; want %v in it", r.Code, r.Stderr, told)
		}
		out := strings.TrimSpace(r.Stdout)
		const want = "@nix {\"action\":\"setPhase\",\"phase\":\"first\"}\nsaid\n"
		if got := output(t, l, "nix", append(common, "--extra-experimental-features", "nix-command", "log", out)...); got != want {
			t.Errorf("nix log printed %q; want %q", got, want)
		}
		cmd := s.Command("log", out)
		if got := env.Run(t, cmd); got.Stdout != want {
			t.Errorf("narfs log printed %q and %q; want %q", got.Stdout, got.Stderr, want)
		}
		if got := s.Must("build", out); got != out {
			t.Errorf("narfs build printed %q; want %q", got, out)
		}
	})
}
