package interop_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/narfs/narfs/tests/env"
)

// builds is a store whose daemon builds, in a mount of its own.
func builds(t *testing.T, options ...string) (*served, *local) {
	t.Helper()
	env.Require(t, env.Program("nix-store"), env.Root(), env.Fuse())
	s := &served{Store: env.NewStore(t), dir: env.Dir(t)}
	s.mnt, s.log = filepath.Join(s.State, "builds-store", "mount"), filepath.Join(s.dir, "log")
	t.Cleanup(func() { env.UnmountBelow(t, s.State) })
	s.start(t, options...)
	return s, s.client(t, newClient(t, releases()[0]))
}

// script is nix-build of a derivation that runs a script.
func (l *local) script(name, script string, options ...string) *exec.Cmd {
	expression := fmt.Sprintf(`derivation { name = "%s"; system = builtins.currentSystem; builder = "/bin/sh"; args = ["-c" ''%s'']; PATH = "/bin:/usr/bin"; }`,
		name, script)
	return l.Command("nix-build", append([]string{
		"--no-out-link", "-E", expression,
		"--option", "sandbox-paths", hostPrograms,
	}, options...)...)
}

// Root's builders are users of their own, two at a time two of them, inside the sandbox and without it; none of them is the daemon's.
func TestBuildUsers(t *testing.T) {
	t.Parallel()
	_, l := builds(t)
	for _, sandbox := range []string{"true", "false"} {
		t.Run("sandbox="+sandbox, func(t *testing.T) {
			t.Parallel()
			expression := fmt.Sprintf(`let one = n: derivation { name = "user-${n}-%s"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/bin:/usr/bin";
				args = ["-c" "read inside outside count < /proc/self/uid_map; sleep 1; echo $outside > $out"]; };
				in derivation { name = "both-%s"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/bin:/usr/bin"; args = ["-c" "cat ${one "a"} ${one "b"} > $out"]; }`,
				sandbox, sandbox)
			out := strings.TrimSpace(env.Must(t, l.Command("nix-build", "--no-out-link", "-j2", "--option", "sandbox", sandbox, "-E", expression,
				"--option", "sandbox-paths", hostPrograms)))
			var a, b int
			if _, err := fmt.Sscan(env.Must(t, l.Command("nix", "--extra-experimental-features", "nix-command", "store", "cat", out)), &a, &b); err != nil {
				t.Fatal(err)
			}
			const first, count = 0x34800000, 0x800000
			if a == b || a < first || a >= first+count || b < first || b >= first+count {
				t.Errorf("built as users %d and %d; want two of those from %d on", a, b, first)
			}
		})
	}
}

// What is left of a failed build can be looked at by others, with keep-failed, and else goes.
func TestKeepFailed(t *testing.T) {
	t.Parallel()
	s, l := builds(t)
	r := env.Run(t, l.script("fails", "echo text > file; exit 3"))
	if r.Code == 0 || strings.Contains(r.Stderr, "keeping build directory") {
		t.Fatalf("exit code %d: %s", r.Code, r.Stderr)
	}
	r = env.Run(t, l.script("fails", "echo text > file; exit 3", "--keep-failed"))
	found := regexp.MustCompile(`keeping build directory '(.*)'`).FindStringSubmatch(r.Stderr)
	if r.Code == 0 || found == nil {
		t.Fatalf("exit code %d: %s", r.Code, r.Stderr)
	}
	env.OpenTo(t, s.State)
	look := exec.CommandContext(t.Context(), "cat", filepath.Join(found[1], "file"))
	look.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if got := env.Must(t, look); got != "text" {
		t.Errorf("%s has %q", found[1], got)
	}
	left, err := os.ReadDir(filepath.Join(s.State, "builds"))
	kept, kerr := os.ReadDir(filepath.Join(s.State, "builds-kept"))
	if err != nil || kerr != nil || len(left) != 0 || len(kept) != 1 {
		t.Errorf("left: %v, %v; kept: %v, %v", left, err, kept, kerr)
	}
}

// After a daemon was killed, the next one builds, and neither scratch nor a mount is left of the first.
func TestBuildAfterKill(t *testing.T) {
	t.Parallel()
	s, l := builds(t)
	hanging := env.Start(t, l.script("hanging", "echo hangs; sleep 1000"))
	env.Eventually(t, "the builder runs", func() (bool, error) { return strings.Contains(hanging.Output(), "\nhangs"), nil })
	s.Kill()
	s.Wait()
	if code := hanging.Wait(); code == 0 {
		t.Errorf("the client exited with %d: %s", code, hanging.Output())
	}
	s.start(t)
	if text := read(t, "/proc/self/mountinfo"); strings.Contains(text, s.State) {
		t.Errorf("still mounted: %s", text)
	}
	if left, err := os.ReadDir(filepath.Join(s.State, "builds")); err == nil && len(left) != 0 {
		t.Errorf("left in builds: %v", left)
	}
	env.Must(t, l.script("next", "echo > $out"))
}

// What is built here has the signatures of the machine's keys, however its path came about.
func TestBuildSigned(t *testing.T) {
	t.Parallel()
	dir := env.Dir(t)
	key := filepath.Join(dir, "key")
	public := env.NewStore(t).Must("keys", "generate", "here-1", "--out", key)
	_, l := builds(t, "--option", "secret-key-files="+key)
	const expression = `{ kind }: derivation ({ name = "signed-${kind}"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/bin:/usr/bin";
		args = ["-c" (if kind == "self" then "echo $out > $out" else "echo hello > $out")]; } // (if kind == "input" then { } else
		if kind == "fixed" then { outputHashMode = "recursive"; outputHashAlgo = "sha256"; outputHash = "sha256-HDfQGvQL4ugGkd48w99EN3ppmvuxfGjwgJZLL9Bx/BM="; } else
		{ __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; }))`
	common := []string{"--extra-experimental-features", "nix-command ca-derivations"}
	for _, kind := range []string{"input", "fixed", "floating", "self"} {
		out := strings.TrimSpace(env.Must(t, l.Command("nix-build", append(common, "--no-out-link", "-E", expression, "--argstr", "kind", kind,
			"--option", "sandbox-paths", hostPrograms)...)))
		if sigs := env.Must(t, l.Command("nix", append(common, "path-info", "--sigs", out)...)); !strings.Contains(sigs, " here-1:") {
			t.Errorf("%s: path-info --sigs prints %q", kind, sigs)
		}
		env.Must(t, l.Command("nix", append(common, "store", "verify", "--no-contents", "--trusted-public-keys", public, "--sigs-needed", "1", out)...))
	}
}

// damage changes something in the last quarter of the store's first pack.
func (s *served) damage(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(s.State, "store", "packs", "00000001.pack"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // nothing to lose
	info, err := f.Stat()
	if err == nil {
		_, err = f.WriteAt([]byte("0123456789abcdef"), info.Size()-info.Size()/4)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// What is damaged, of a path or of what it needs, is built again with --repair, if that gives what it was.
func TestBuildRepair(t *testing.T) {
	t.Parallel()
	s, l := builds(t)
	const expression = `{ other ? false }: let make = name: script: derivation { inherit name script; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/bin:/usr/bin"; args = ["-c" script]; };
		big = make "big" (if other then "head -c 300000 /dev/urandom > $out" else "seq 1 60000 | sha512sum > $out; seq 1 60000 | cksum >> $out; seq 1 50000 >> $out");
		in make "top" "ls -1d ${big} > $out"`
	build := func(more ...string) env.Result {
		t.Helper()
		return env.Run(t, l.Command("nix-build", append([]string{
			"--no-out-link", "-E", expression,
			"--option", "sandbox-paths", hostPrograms,
		}, more...)...))
	}
	damage := func() {
		t.Helper()
		s.Stop()
		s.damage(t)
		s.start(t)
		if r := s.Run("verify"); r.Code == 0 || !strings.Contains(r.Stdout+r.Stderr, "-big") {
			t.Fatalf("verify exited with %d: %s%s", r.Code, r.Stdout, r.Stderr)
		}
	}
	first := build()
	if first.Code != 0 {
		t.Fatal(first.Stderr)
	}
	damage()
	if r := build("--repair"); r.Code != 0 || r.Stdout != first.Stdout {
		t.Errorf("nix-build --repair exited with %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	if r := s.Run("verify"); strings.Contains(r.Stdout+r.Stderr, "-big") {
		t.Errorf("verify after the repair exited with %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	damage()
	if got := s.Must("build", "--option", "sandbox-paths="+hostPrograms, "--repair", strings.TrimSpace(first.Stdout)); got+"\n" != first.Stdout {
		t.Errorf("narfs build --repair prints %q", got)
	}
	if r := s.Run("verify"); strings.Contains(r.Stdout+r.Stderr, "-big") {
		t.Errorf("verify after the second repair exited with %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	if r := build("--repair"); r.Code != 0 || strings.Contains(r.Stderr, "building") {
		t.Errorf("nix-build --repair of what is whole exited with %d: %s", r.Code, r.Stderr)
	}
}
