package interop_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/tests/env"
)

// served is a store of narfs that its daemon has mounted.
type served struct {
	*env.Store
	*env.Process

	dir, mnt, log string
}

// serveStore starts a daemon that mounts its store for all users, with the lines of a configuration file.
func serveStore(tb testing.TB, settings ...string) *served {
	tb.Helper()
	env.Require(tb, env.Fuse())
	s := &served{Store: env.NewStore(tb), dir: env.Dir(tb)}
	s.mnt, s.log = filepath.Join(s.dir, "mnt"), filepath.Join(s.dir, "log")
	if err := os.Mkdir(s.mnt, 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(s.conf(), []byte(strings.Join(settings, "\n")+"\n"), 0o644); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { env.UnmountBelow(tb, s.mnt) })
	s.start(tb, "--allow-other", "--mount", s.mnt)
	return s
}

// conf is the daemon's configuration file.
func (s *served) conf() string { return filepath.Join(s.dir, "narfs.conf") }

// start starts the daemon.
func (s *served) start(tb testing.TB, args ...string) {
	tb.Helper()
	cmd := s.Command(append([]string{"daemon", "--ready"}, args...)...)
	cmd.Env = append(cmd.Env, "NIX_CONF_DIR=/nonexistent", "NARFS_CONF="+s.conf(), "NIX_LOG_DIR="+s.log)
	cmd.Cancel = func() error { return nil }
	s.Process = env.Start(tb, cmd)
	env.Eventually(tb, "the daemon is ready", func() (bool, error) {
		select {
		case <-s.Done():
			tb.Fatalf("narfs daemon exited with %d: %s", s.Wait(), s.Output())
		default:
		}
		return strings.Contains(s.Output(), "ready"), nil
	})
}

func (s *served) socket() string { return filepath.Join(s.State, "daemon.sock") }

// url names the store to clients, which read contents in the mount, and logs from their folder.
func (s *served) url() string {
	return "unix://" + s.socket() + "?real=" + s.mnt + "&state=" + s.State + "&log=" + s.log
}

// client prepares a program of Nix that uses the store; files of its own are in the folder of a store of Nix.
func (s *served) client(tb testing.TB, c *client) *local {
	tb.Helper()
	l := c.nix(tb, s.Store, filepath.Dir(s.State), s.dir, s.mnt)
	l.variables = append(l.variables, "NIX_REMOTE="+s.url())
	return l
}

// commands runs testdata/commands.sh with a store, and returns what each command printed and how it ended. The key is a
// secret one, its public half, and a salt: a process that has a path of the same name open, in whatever store, is a root of it.
func commands(t *testing.T, l *local, key []string) (names []string, printed map[string]string) {
	t.Helper()
	return commandsBy(t, l.Root, key, func(script, dir string) *exec.Cmd { return l.Command("sh", script, dir) })
}

// commandsBy is commands with another way to run the script with its folder.
func commandsBy(t *testing.T, in string, key []string, by func(script, dir string) *exec.Cmd) (names []string, printed map[string]string) {
	t.Helper()
	dir := filepath.Join(in, "files")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "commands.sh")
	write(t, script, read(t, filepath.Join("testdata", "commands.sh")), 0o644)
	for i, name := range []string{"secret", "public", "salt"} {
		write(t, filepath.Join(dir, name), key[i], 0o600)
	}
	r := env.Run(t, by(script, dir))
	if r.Code != 0 {
		t.Fatalf("commands.sh exited with %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	text := strings.ReplaceAll(r.Stdout, dir, "DIR")
	for pattern, with := range map[string]string{
		`"registrationTime":\d+`: `"registrationTime":0`,
		`[0-9.]+ ([KM]iB) freed`: "some $1 freed", // what a path takes on disk
	} {
		text = regexp.MustCompile(pattern).ReplaceAllString(text, with)
	}
	printed = map[string]string{}
	for step := range strings.SplitSeq("\n"+text, "\n## ") {
		name, out, found := strings.Cut(step, "\n")
		if code, isEnd := strings.CutPrefix(name, "=> "); isEnd {
			printed[names[len(names)-1]] += "exit " + code
		} else if found {
			names = append(names, name)
			printed[name] = sortedLines(name, out)
		}
	}
	if t.Failed() || testing.Verbose() {
		t.Logf("%s", r.Stderr)
	}
	return names, printed
}

// sortedLines sorts the lines of what is printed in no order.
func sortedLines(name, text string) string {
	for _, unsorted := range []string{"print-", "delete", "gc", "info-", "query --graph", "query-roots", "import"} {
		if strings.HasPrefix(name, unsorted) {
			lines := strings.Split(text, "\n")
			slices.Sort(lines)
			return strings.Join(lines, "\n")
		}
	}
	return text
}

// TestCommands: stock commands do the same with narfs' daemon as with a store of their own.
func TestCommands(t *testing.T) {
	t.Parallel()
	eachRelease(t, func(t *testing.T, c *client) {
		t.Helper()
		s := serveStore(t)
		want, got := map[string]string{}, map[string]string{}
		var names []string
		file := filepath.Join(env.Dir(t), "key")
		public := s.Must("-q", "keys", "generate", "--out", file, "key-1")
		key := []string{read(t, file), public, t.Name()}
		t.Run("nix", func(t *testing.T) { names, want = commands(t, c.nix(t, s.Store), key) })
		t.Run("narfs", func(t *testing.T) { _, got = commands(t, s.client(t, c), key) })
		for _, name := range names {
			if diff := cmp.Diff(want[name], got[name]); diff != "" {
				t.Errorf("%s (-Nix +narfs):\n%s", name, diff)
			}
		}
		if len(names) < 100 || len(got) != len(want) {
			t.Errorf("%d commands of Nix, %d of narfs; want 100 or more, and as many", len(want), len(got))
		}
		if r := s.Run("verify"); r.Code != 0 {
			t.Errorf("narfs verify exited with %d: %s%s", r.Code, r.Stdout, r.Stderr)
		}
	})
}
