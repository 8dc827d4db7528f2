package interop_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/narfs/narfs/tests/env"
	"github.com/narfs/narfs/tests/env/closure"
)

// asNobody prepares a program of Nix for a user whom nobody trusts.
func (l *local) asNobody(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	env.OpenTo(t, l.Root)
	if err := os.Chmod(l.Root, 0o777); err != nil {
		t.Fatal(err)
	}
	return l.Command("setpriv", append([]string{"--reuid=65534", "--regid=65534", "--clear-groups", "--"}, args...)...)
}

// TestCopyDaemon copies to the daemon and back, where the client reads contents in the mount.
func TestCopyDaemon(t *testing.T) {
	t.Parallel()
	eachRelease(t, func(t *testing.T, c *client) {
		t.Helper()
		s := serveStore(t)
		mixed, err := closure.Mixed("daemon " + c.version)
		if err != nil {
			t.Fatal(err)
		}
		full, empty := s.client(t, c), s.client(t, c)
		full.variables, empty.variables = nil, nil
		full.fill(t, mixed)
		full.must(t, "nix", "copy", "--no-check-sigs", "--to", s.url(), mixed.Top())
		checkHost(t, s.Store, &env.Mount{Dir: s.mnt}, mixed)
		empty.must(t, "nix", "copy", "--no-check-sigs", "--from", s.url(), mixed.Top())
		empty.check(t, mixed)
	})
}

// TestUntrusted: what the daemon of root refuses to another user, and how that reads.
func TestUntrusted(t *testing.T) {
	t.Parallel()
	env.Require(t, env.Root(), env.Program("setpriv"))
	eachRelease(t, func(t *testing.T, c *client) {
		t.Helper()
		s := serveStore(t)
		env.OpenTo(t, s.State, s.dir)
		mixed, err := closure.Mixed("untrusted " + c.version)
		if err != nil {
			t.Fatal(err)
		}
		l := s.client(t, c)
		remote := l.variables
		l.variables = nil
		l.fill(t, mixed)
		from := l.Root
		other := s.client(t, c)
		file := filepath.Join(other.Root, "file")
		write(t, file, "hello", 0o644)
		env.Must(t, other.Command("nix-store", "--generate-binary-cache-key", "key-1", filepath.Join(other.Root, "secret"), filepath.Join(other.Root, "public")))
		if err := os.Chmod(filepath.Join(other.Root, "secret"), 0o644); err != nil {
			t.Fatal(err)
		}
		path := env.Must(t, other.asNobody(t, "nix-store", "--add", file))
		drv := env.Must(t, other.asNobody(t, "nix-instantiate", "--add-root", filepath.Join(other.Root, "drv"), "--indirect", "-E",
			`derivation { name = "x"; system = "y"; builder = "/z"; }`))
		drv = env.Must(t, other.Command("readlink", drv))
		for _, refused := range []struct {
			args []string
			want string // empty if it must be allowed
		}{
			{[]string{"nix-store", "--verify", "--repair"}, "repair"},
			{[]string{"nix-store", "--repair-path", path}, "repair"},
			{[]string{"nix-store", "--verify", "--check-contents"}, ""},
			{[]string{"nix-store", "--add-root", filepath.Join(other.Root, "root"), "--indirect", "-r", path}, ""},
			{[]string{"nix-store", "--gc", "--print-roots"}, ""},
			{[]string{"nix", "store", "sign", "-k", filepath.Join(other.Root, "secret"), path}, "privileged"},
			{[]string{"nix-store", "--delete", path}, "still alive"},
			{[]string{"nix-store", "--delete", "--ignore-liveness", path}, "liveness"},
			{[]string{"nix-store", "-r", drv}, "build"},
			{[]string{"nix-store", "--gc"}, ""},
		} {
			r := env.Run(t, other.asNobody(t, refused.args...))
			if (r.Code == 0) != (refused.want == "") || !strings.Contains(r.Stderr, refused.want) {
				t.Errorf("%q of nobody exited with %d: %s; want %q", refused.args, r.Code, r.Stderr, refused.want)
			}
		}
		// Copies of what is not signed, from a store of his own.
		env.Must(t, exec.CommandContext(t.Context(), "chown", "-R", "65534:65534", from))
		url := strings.TrimPrefix(remote[0], "NIX_REMOTE=")
		l.variables = []string{"NIX_REMOTE=" + url}
		r := env.Run(t, l.asNobody(t, "nix", "copy", "--no-check-sigs", "--from", from, mixed.Top()))
		if r.Code == 0 || !strings.Contains(r.Stderr, "lacks a") || !strings.Contains(r.Stderr, "signature") {
			t.Errorf("copying what is not signed exited with %d: %s", r.Code, r.Stderr)
		}
		if r := s.Run("info", mixed.Top()); r.Code == 0 {
			t.Errorf("%s is there: %s", mixed.Top(), r.Stdout)
		}
	})
}

// TestSSHAsNobody: what a user whom the daemon of root does not trust can do by ssh, with both protocols.
func TestSSHAsNobody(t *testing.T) {
	t.Parallel()
	env.Require(t, env.Root(), env.Program("setpriv"))
	eachRelease(t, func(t *testing.T, c *client) {
		t.Helper()
		secret := filepath.Join(env.Dir(t), "secret")
		public := env.NewStore(t).Must("keys", "generate", "key-1", "--out", secret)
		s := serveStore(t, "trusted-public-keys = "+public)
		l := s.client(t, c)
		l.variables = nil // a store of its own
		env.OpenTo(t, s.State, s.dir, filepath.Join(c.dir, "bin"))
		remote := func(scheme, program string) string {
			name := filepath.Join(c.dir, "bin", program+"-as-nobody")
			write(t, name, "#!/bin/sh\nexec setpriv --reuid=65534 --regid=65534 --clear-groups "+filepath.Join(c.dir, "bin", program)+" \"$@\"\n", 0o755)
			return scheme + "://" + host + "?remote-program=" + name
		}
		there := s.Must("add", "--name", "there", "/etc/passwd")
		for _, store := range []string{remote("ssh", "nix-store"), remote("ssh-ng", "nix-daemon")} {
			if got := l.must(t, "nix", "path-info", "--store", store, there); got != there {
				t.Errorf("path-info by %s prints %q", store, got)
			}
			scheme, _, _ := strings.Cut(store, ":")
			mixed, err := closure.Mixed("nobody " + scheme + " " + c.version)
			if err != nil {
				t.Fatal(err)
			}
			l.fill(t, mixed)
			copies := []string{"nix", "copy", "--no-check-sigs", "--to", store, mixed.Top()}
			if r := env.Run(t, l.Command(copies[0], copies[1:]...)); r.Code == 0 || !strings.Contains(r.Stderr, "lacks a valid signature") {
				t.Errorf("copying what is not signed by %s exited with %d: %s", store, r.Code, r.Stderr)
			}
			copyFile(t, secret, filepath.Join(l.Root, scheme+"-secret"))
			l.must(t, "nix", "store", "sign", "-k", filepath.Join(l.Root, scheme+"-secret"), "-r", mixed.Top())
			l.must(t, copies[0], copies[1:]...)
			checkHost(t, s.Store, &env.Mount{Dir: s.mnt}, mixed)
		}
	})
}

// TestTwoReleases has clients of different releases write to one daemon at once.
func TestTwoReleases(t *testing.T) {
	t.Parallel()
	s := serveStore(t)
	var wg sync.WaitGroup
	defer wg.Wait()
	const each = 10
	begun := 0
	for _, r := range releases() {
		need := env.Program("nix-store")
		if r.suite != "" {
			need = env.Peer(r.suite)
		}
		if need.Err() != nil {
			continue
		}
		begun++
		l := s.client(t, newClient(t, r))
		for i := range each {
			write(t, filepath.Join(l.Root, "same", fmt.Sprint(i)), fmt.Sprintf("same %d", i), 0o644)
			write(t, filepath.Join(l.Root, "own", fmt.Sprint(i)), fmt.Sprintf("%s %d", r.version, i), 0o644)
		}
		script := `cd "$0" && for f in same/* own/*; do nix-store --add $f || exit; done`
		cmd := l.Command("sh", "-c", script, l.Root)
		wg.Go(func() {
			if r := env.Run(t, cmd); r.Code != 0 || len(strings.Fields(r.Stdout)) != 2*each {
				t.Errorf("%q exited with %d: %s%s", cmd.Args, r.Code, r.Stdout, r.Stderr)
			}
		})
	}
	if begun < 2 {
		t.Skip("needs two releases of Nix")
	}
	wg.Wait()
	if paths := strings.Fields(s.Must("ls")); len(paths) != (1+begun)*each {
		t.Errorf("narfs ls shows %d paths; want %d", len(paths), (1+begun)*each)
	}
	if r := s.Run("verify"); r.Code != 0 {
		t.Errorf("narfs verify exited with %d: %s", r.Code, r.Stderr)
	}
}
