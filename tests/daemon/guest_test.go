package daemon_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/narfs/narfs/tests/env"
)

// guest runs narfs as another user.
type guest struct {
	t      *testing.T
	s      *env.Store
	binary string
	dir    string
}

// newGuest makes a place where another user finds narfs and the store's state directory.
func newGuest(t *testing.T, s *env.Store) *guest {
	t.Helper()
	env.Require(t, env.Root())
	g := &guest{t: t, s: s, dir: env.Dir(t)}
	g.binary = filepath.Join(g.dir, "narfs")
	from, err := os.Open(env.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close() //nolint:errcheck // only read
	to, err := os.OpenFile(g.binary, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	env.OpenTo(t, g.dir, filepath.Dir(s.State))
	return g
}

const nobody = 65534

func (g *guest) command(args ...string) *exec.Cmd {
	cmd := g.s.Command(args...)
	cmd.Path, cmd.Args[0] = g.binary, g.binary
	cmd.Dir = g.dir
	cmd.Env = append(cmd.Env, "HOME="+g.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	return cmd
}

// mkdir makes folders that only the guest may enter.
func (g *guest) mkdir(dirs ...string) {
	g.t.Helper()
	for _, dir := range dirs {
		if err := errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, nobody, nobody)); err != nil {
			g.t.Fatal(err)
		}
	}
}

func (g *guest) run(args ...string) env.Result {
	g.t.Helper()
	return env.Run(g.t, g.command(args...))
}

// A command line can be handed over also from a working directory that its user may not enter, or that is gone.
func TestClosedDir(t *testing.T) {
	t.Parallel()
	s := env.NewStore(t)
	g := newGuest(t, s)
	path := s.Must("add", "--name", "x", "/etc/passwd")
	daemon(t, s)
	for name, enter := range map[string]string{"closed": "mkdir -p -m 700 closed; cd closed", "gone": "mkdir -p gone; cd gone; rmdir ../gone"} {
		cmd := g.command("ls", "-1")
		cmd.SysProcAttr = nil // to enter as root
		cmd.Args = append([]string{"sh", "-c", enter + `; exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"`, "sh"}, cmd.Args...)
		cmd.Path = "/bin/sh"
		if got := env.Must(t, cmd); got != filepath.Base(path) {
			t.Errorf("%s: narfs ls prints %q", name, got)
		}
		// By the owner himself, relative names lead nowhere, and not to where the daemon is.
		own := s.Command("add", "x")
		own.Dir = g.dir
		own.Args = append([]string{"sh", "-c", enter + `; exec "$@"`, "sh"}, own.Args...)
		own.Path = "/bin/sh"
		if got := env.Run(t, own); got.Code == 0 || name == "gone" && !strings.Contains(got.Stderr, "the working directory is gone") {
			t.Errorf("%s: narfs add exits with %d: %s", name, got.Code, got.Stderr)
		}
	}
}

// Another user adds files and trees, which his own process reads: what comes of it is what the owner would get.
func TestGuestAdds(t *testing.T) {
	t.Parallel()
	s, same := env.NewStore(t), env.NewStore(t)
	g := newGuest(t, s)
	home := filepath.Join(g.dir, "home")
	g.mkdir(home, filepath.Join(home, "tree"), filepath.Join(home, "tree", "empty"))
	for _, name := range []string{"file", "tree/executable"} {
		file := filepath.Join(home, name)
		if err := errors.Join(os.WriteFile(file, []byte("text\n"), 0o700), os.Chown(file, nobody, nobody)); err != nil {
			t.Fatal(err)
		}
	}
	run := func(input string, args ...string) env.Result {
		t.Helper()
		cmd := g.command(args...)
		cmd.Dir, cmd.Stdin = g.dir, strings.NewReader(input)
		return env.Run(t, cmd)
	}
	if r := run("", "add", filepath.Join(home, "tree")); r.Code != 1 || !strings.Contains(r.Stderr, "is another user's, and no daemon answers") {
		t.Errorf("without a daemon add exited with %d: %s", r.Code, r.Stderr)
	}
	daemon(t, s)
	base := ""
	for _, args := range [][]string{
		{"home/tree"},
		{"home/tree", "home/file"},
		{"--algo", "sha1", "home/tree"},
		{"--flat", "home/file"},
		{"--text", "--name", "base", "home/file"},
		{"--text", "--name", "user", "--refs", "BASE", "home/file"},
		{"--flat", "--name", "input", "-"},
	} {
		for i, arg := range args {
			if arg == "BASE" {
				args[i] = base
			}
		}
		want := same.Command(append([]string{"add"}, args...)...)
		want.Dir, want.Stdin = g.dir, strings.NewReader("input")
		paths := env.Must(t, want) + "\n"
		if r := run("input", append([]string{"add"}, args...)...); r.Code != 0 || r.Stdout != paths {
			t.Errorf("add %q exited with %d: %s%s; want %s", args, r.Code, r.Stdout, r.Stderr, paths)
		}
		if strings.HasSuffix(paths, "-base\n") {
			base = strings.TrimSpace(paths)
		}
	}
	if r := run("", "add", "--name", "x", "/proc/self/nothing"); r.Code != 1 || !strings.Contains(r.Stderr, "no such file") {
		t.Errorf("add of nothing exited with %d: %s", r.Code, r.Stderr)
	}
	if r := run("", "add", "--repair", "home/tree"); r.Code != 1 || !strings.Contains(r.Stderr, "trusted-users") {
		t.Errorf("add --repair exited with %d: %s", r.Code, r.Stderr)
	}
	if r := s.Run("verify"); r.Code != 0 {
		t.Errorf("verify: %s%s", r.Stdout, r.Stderr)
	}
}

// Another user copies by ssh what the daemon has, and it takes what he copies from there as far as it takes what is his.
func TestGuestCopies(t *testing.T) {
	t.Parallel()
	s := env.NewStore(t)
	g := newGuest(t, s)
	path := s.Must("add", "--name", "x", "/etc/passwd")
	daemon(t, s)
	there := filepath.Join(g.dir, "there")
	script := "#!/bin/sh\nunset NARFS_STATE_DIR; exec " + g.binary + " serve --write --state " + there + "\n"
	if err := os.WriteFile(filepath.Join(g.dir, "ssh"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	g.mkdir(there, filepath.Join(g.dir, "home"))
	if err := os.Symlink(path, filepath.Join(g.dir, "home", "result")); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) env.Result {
		t.Helper()
		cmd := g.command(args...)
		cmd.Dir = filepath.Join(g.dir, "home")
		cmd.Env = append(cmd.Env, "PATH="+g.dir+":"+os.Getenv("PATH"))
		return env.Run(t, cmd)
	}
	if r := run("copy", "--to", "ssh://there", "result"); r.Code != 0 || strings.TrimSpace(r.Stdout) != path {
		t.Errorf("copy --to exited with %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	mine := filepath.Join(g.dir, "home", "mine")
	if r := run("--state", mine, "copy", "--from", s.State, path); r.Code != 0 || strings.TrimSpace(r.Stdout) != path {
		t.Errorf("copy --from the daemon's store exited with %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	text := run("--state", there, "add", "--text", filepath.Join(g.dir, "ssh"))
	unsigned := run("--state", there, "add", "--name", "unsigned", g.binary)
	if text.Code != 0 || unsigned.Code != 0 {
		t.Fatal(text.Stderr, unsigned.Stderr)
	}
	for _, p := range []string{text.Stdout, unsigned.Stdout} {
		if r := run("copy", "--from", "ssh://there", strings.TrimSpace(p)); r.Code != 0 || r.Stdout != p {
			t.Errorf("copy --from exited with %d: %s%s", r.Code, r.Stdout, r.Stderr)
		}
	}
	if r := run("doctor"); !strings.Contains(r.Stdout, "whose daemon (process ") || !strings.Contains(r.Stdout, "lets you in and does not trust you") {
		t.Errorf("doctor says %s", r.Stdout)
	}
}

// Another user may look at everything, add what is signed or content-addressed, collect garbage, and no more.
func TestGuest(t *testing.T) {
	t.Parallel()
	s := env.NewStore(t)
	g := newGuest(t, s)
	path := s.Must("add", "--name", "x", "/etc/passwd")
	daemon(t, s)
	var who struct {
		User    string
		UID     int
		Trusted bool
		Why     string
	}
	if err := json.Unmarshal([]byte(env.Must(t, g.command("whoami", "--json"))), &who); err != nil {
		t.Fatal(err)
	}
	if who.UID != nobody || who.Trusted || !strings.Contains(who.Why, "allowed-users") {
		t.Errorf("whoami: %+v", who)
	}
	for _, args := range [][]string{
		{"ls"},
		{"ls", "-l"},
		{"info", path},
		{"cat", path},
		{"dump", path},
		{"export", path},
		{"du"},
		{"stats"},
		{"tree", path},
		{"verify"},
		{"roots"},
		{"locks"},
		{"sessions"},
		{"gc", "--dry-run"},
		{"version"},
	} {
		cmd := g.command(args...)
		cmd.Stdout = io.Discard
		if got := env.Run(t, cmd); got.Code != 0 {
			t.Errorf("%q exited with %d: %s", args, got.Code, got.Stderr)
		}
	}
	secret := filepath.Join(env.Dir(t), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(filepath.Dir(path), "0123456789abcdfghijklmnpqrsvwxyz-secret"), filepath.Join(g.dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"add", secret},
		{"delete", path},
		{"compact"},
		{"repair"},
		{"roots", "add", path},
		{"roots", "remove", "x"},
		{"copy", "--to", g.dir, path},
		{"migrate", "--from", "/nix"},
		{"migrate", "--from-store", g.dir, "--from-state", g.dir},
		{"sign", "--all", "-k", secret},
		{"gc", "--ignore-unreadable"},
		{"import", secret},
		{"info", secret},
		{"dump", secret},
		{"cat", secret},
		{"daemon"},
		{"info", "link"},
		{"ls", "link/x"},
		{"mount", g.dir},
		{"import", "--nar", secret, "--path", path},
		{"cat", "/proc/self/environ"},
		{"serve", "--write", "--state", g.dir},
	} {
		if got := g.run(args...); got.Code == 0 || strings.Contains(got.Stdout+got.Stderr, "secret\n") {
			t.Errorf("%q exited with %d: %s%s", args, got.Code, got.Stdout, got.Stderr)
		}
	}
	s.Must("info", path)
	c := env.StartServe(t, g.command("serve", "--write"))
	archive := file("unsigned")
	c.Send(addRequest(storePath("unsigned"), hexSum(archive), len(archive)), archive)
	if n, err := c.TryNumber(); err == nil {
		t.Errorf("an unsigned path is answered with %d", n)
	}
	if got := c.End(); got.Code != 1 || !strings.Contains(got.Stderr, "because it lacks a valid signature") {
		t.Errorf("serve exited with %d: %s", got.Code, got.Stderr)
	}
	other := env.NewStore(t)
	unsigned := other.Must("add", "--name", "y", "/etc/passwd")
	export := g.command("import")
	export.Stdin = strings.NewReader(other.Must("export", unsigned))
	if got := env.Run(t, export); got.Code == 0 || !strings.Contains(got.Stderr, "because it lacks a valid signature") {
		t.Errorf("import exited with %d: %s", got.Code, got.Stderr)
	}
	// Of others' sessions it may end none.
	root := env.StartServe(t, s.Command("serve", "--write"))
	list := sessions(t, s)
	if len(list) != 1 || list[0].User != "root" {
		t.Fatalf("sessions: %+v", list)
	}
	if got := g.run("sessions", "kill", "1", "2", "3", "4", "5", "6", "7", "8", "9"); got.Code == 0 {
		t.Errorf("kill exited with %d", got.Code)
	}
	add(root, "still", "alive")
	// What others' processes and sessions use it is not told.
	if got := g.run("roots"); got.Code != 0 || !strings.Contains(got.Stdout, "session   {censored} -> ") || strings.Contains(got.Stdout, "environ") {
		t.Errorf("roots exited with %d: %s%s", got.Code, got.Stdout, got.Stderr)
	}
	if got := g.run("gc", storePath("still")); got.Code == 0 || !strings.Contains(got.Stderr, "since it is still alive: it is kept by {censored}") {
		t.Errorf("gc of what a session has exited with %d: %s%s", got.Code, got.Stdout, got.Stderr)
	}
	// What nothing holds it may collect, as with Nix.
	if got := root.End(); got.Code != 0 {
		t.Error(got.Stderr)
	}
	if got := g.run("gc"); got.Code != 0 || !strings.Contains(got.Stdout, path) {
		t.Errorf("gc exited with %d: %s%s", got.Code, got.Stdout, got.Stderr)
	}
}

// Who may not come in finds the connection closed.
func TestRefused(t *testing.T) {
	t.Parallel()
	s := env.NewStore(t)
	g := newGuest(t, s)
	p := daemon(t, s, "--option", "allowed-users=root")
	if got := g.run("ls"); got.Code != 1 || !strings.Contains(got.Stderr, "does not let you in") {
		t.Errorf("ls exited with %d: %s", got.Code, got.Stderr)
	}
	env.Eventually(t, "the daemon tells of it", func() (bool, error) { return strings.Contains(p.Output(), "is not allowed to connect"), nil })
	cmd := g.command("serve", "--write")
	cmd.Stdin = strings.NewReader("")
	if got := env.Run(t, cmd); got.Code == 0 || got.Stdout != "" {
		t.Errorf("serve exited with %d: %q, %s", got.Code, got.Stdout, got.Stderr)
	}
}

func TestTrustedGuest(t *testing.T) {
	t.Parallel()
	s := env.NewStore(t)
	g := newGuest(t, s)
	daemon(t, s, "--option", "trusted-users=root nobody")
	c := env.StartServe(t, g.command("serve", "--write"))
	path := add(c, "unsigned", "by one who is trusted")
	if got := c.End(); got.Code != 0 {
		t.Errorf("serve exited with %d: %s", got.Code, got.Stderr)
	}
	s.Must("info", path)
}
