package interop_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/narfs/narfs/tests/env"
	"github.com/narfs/narfs/tests/env/closure"
	"github.com/narfs/narfs/tests/env/serve"
)

// server is an OpenSSH server on this machine's own address that lets in who has its key, to nothing but one command.
type server struct {
	*env.Process

	url          string   // for Nix and narfs
	login        string   // USER@HOST
	options      []string // for ssh
	key, hostKey string   // a file, and a line
	port         int
}

// newServer makes a server that leads to a store of narfs.
func newServer(t *testing.T, s *env.Store) *server {
	t.Helper()
	program := filepath.Join(env.Dir(t), "nix-store")
	copyFile(t, env.Binary(t), program)
	return newServerFor(t, fmt.Sprintf("NARFS_STATE_DIR=%s %s --serve --write", s.State, program))
}

// newServerFor skips the test if this machine has no OpenSSH. The command is for a shell.
func newServerFor(t *testing.T, command string) *server {
	t.Helper()
	env.Require(t, env.Program("sshd"), env.Program("ssh"), env.Program("ssh-keygen"))
	sshd, err := exec.LookPath("sshd") // it starts itself again by its full name
	if err != nil {
		t.Fatal(err)
	}
	makeRunDir(t)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir := env.Dir(t)
	file := func(name string) string { return filepath.Join(dir, name) }
	for _, key := range []string{"host", "key"} {
		env.Must(t, exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file(key)))
	}
	public, hostKey := read(t, file("key.pub")), read(t, file("host.pub"))
	write(t, file("authorized_keys"), fmt.Sprintf("command=\"%s\",restrict %s", strings.ReplaceAll(command, `"`, `\"`), public), 0o600)
	port := freePort(t)
	write(t, file("known_hosts"), fmt.Sprintf("[127.0.0.1]:%d %s", port, hostKey), 0o600)
	// StrictModes would refuse keys below /tmp.
	write(t, file("sshd_config"), fmt.Sprintf(`ListenAddress 127.0.0.1:%d
HostKey %s
AuthorizedKeysFile %s
StrictModes no
AuthenticationMethods publickey
PermitRootLogin forced-commands-only
UsePAM no
PidFile none
LogLevel VERBOSE
`, port, file("host"), file("authorized_keys")), 0o600)
	p := env.Start(t, exec.CommandContext(t.Context(), sshd, "-D", "-e", "-f", file("sshd_config")))
	srv := &server{
		Process: p, key: file("key"), hostKey: hostKey, port: port,
		url: "ssh://" + me.Username + "@127.0.0.1", login: me.Username + "@127.0.0.1",
		options: []string{
			"-F", "none", "-p", fmt.Sprint(port), "-i", file("key"),
			"-oUserKnownHostsFile=" + file("known_hosts"), "-oIdentitiesOnly=yes", "-oBatchMode=yes",
		},
	}
	env.Eventually(t, "sshd listens", func() (bool, error) {
		select {
		case <-p.Done():
			return false, fmt.Errorf("sshd exited with %d: %s", p.Wait(), p.Output())
		default:
		}
		return strings.Contains(p.Output(), "Server listening"), nil
	})
	return srv
}

// makeRunDir makes the empty folder that sshd wants when root starts it and no service has. It stays: servers of other tests want it, too.
func makeRunDir(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		return
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // somebody else is to have the port
	return l.Addr().(*net.TCPAddr).Port
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// env returns the variable with which Nix and narfs hand options to ssh.
func (s *server) env() string { return "NIX_SSHOPTS=" + strings.Join(s.options, " ") }

// client starts a raw client. The command is not what the host runs.
func (s *server) client(t *testing.T) *serve.Session {
	t.Helper()
	return serve.Start(t, exec.CommandContext(t.Context(), "ssh", append(s.options, s.login, "cat /etc/passwd")...))
}

// TestSSH copies with real clients through a real OpenSSH server.
func TestSSH(t *testing.T) {
	t.Parallel()
	eachRelease(t, func(t *testing.T, c *client) {
		t.Helper()
		s := env.NewStore(t)
		srv := newServer(t, s)
		ssh, err := exec.LookPath("ssh")
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(c.dir, "ssh", "ssh"), "#!/bin/sh\nexec $GET_OUT "+ssh+` "$@"`+"\n", 0o755)
		mixed, err := closure.Mixed("ssh " + c.version)
		if err != nil {
			t.Fatal(err)
		}
		full := c.nix(t, s)
		full.variables = []string{srv.env()}
		full.fill(t, mixed)
		full.must(t, "nix", "copy", "--to", srv.url, mixed.Top())
		checkHost(t, s, nil, mixed)
		empty := c.nix(t, s)
		empty.variables = full.variables
		empty.must(t, "nix", "copy", "--no-check-sigs", "--from", srv.url, mixed.Top())
		empty.check(t, mixed)
		other := c.nix(t, s)
		other.variables = full.variables
		other.must(t, "nix-copy-closure", "--from", srv.login, mixed.Top())
		other.check(t, mixed)
	})
}

// TestSSHNarfs copies between stores of narfs through a real OpenSSH server.
func TestSSHNarfs(t *testing.T) {
	t.Parallel()
	s, full, empty := env.NewStore(t), env.NewStore(t), env.NewStore(t)
	srv := newServer(t, s)
	mixed, err := closure.Mixed("narfs")
	if err != nil {
		t.Fatal(err)
	}
	session := serve.Start(t, full.Command("serve", "--write"))
	for _, o := range mixed.Objects {
		if err := session.Add(o); err != nil {
			t.Fatal(session.End(err))
		}
	}
	if err := session.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		from *env.Store
		args []string
		to   *env.Store
	}{
		{full, []string{"copy", "--to", srv.url}, s},
		{empty, []string{"copy", "--no-check-sigs", "--from", srv.url}, empty},
	} {
		cmd := c.from.Command(append(c.args, mixed.Top())...)
		cmd.Env = append(cmd.Env, srv.env())
		begun := time.Now()
		if got := strings.Fields(env.Must(t, cmd)); len(got) != len(mixed.Objects) {
			t.Errorf("narfs %q printed %d paths; want %d", c.args, len(got), len(mixed.Objects))
		}
		t.Logf("%6.2f s  narfs %q", time.Since(begun).Seconds(), c.args)
		checkHost(t, c.to, nil, mixed)
	}
}

// TestSSHKilled: when ssh is killed in the middle, the session and its locks are gone at once, and so is what it had
// half sent.
func TestSSHKilled(t *testing.T) {
	s := env.NewStore(t)
	srv := newServer(t, s)
	daemon := s.Command("daemon")
	daemon.Cancel = func() error { return nil } // it must end as a daemon does
	env.Start(t, daemon)
	env.Eventually(t, "the daemon answers", func() (bool, error) {
		_, err := os.Stat(filepath.Join(s.State, "daemon.sock"))
		return err == nil, nil
	})
	mixed, err := closure.Mixed("killed")
	if err != nil {
		t.Fatal(err)
	}
	kept, half := mixed.Objects[0], mixed.Objects[1:]
	for name, send := range map[string]func(c *serve.Session) error{
		"idle":                      func(*serve.Session) error { return nil },
		"in the middle of a NAR":    func(c *serve.Session) error { return c.SendAdd(half[1], cut(half[1].Size/2)) },
		"before the first byte":     func(c *serve.Session) error { return c.SendAdd(half[1], cut(0)) },
		"while a command is coming": func(c *serve.Session) error { c.W.Number(serve.AddToStoreNar); return c.W.Flush() },
	} {
		t.Run(name, func(t *testing.T) {
			c := srv.client(t)
			if err := c.Add(kept); err != nil {
				t.Fatal(c.End(err))
			}
			if err := send(c); err != nil && !errors.Is(err, errCut) {
				t.Fatal(c.End(err))
			}
			if n := rows(t, s, "sessions"); n != 1 {
				t.Fatalf("narfs sessions shows %d; want 1", n)
			}
			if strings.Contains(name, "NAR") {
				env.Eventually(t, "the path is locked", func() (bool, error) { return rows(t, s, "locks") == 1, nil })
			}
			begun := time.Now()
			c.Kill()
			env.Eventually(t, "the session has ended", func() (bool, error) { return rows(t, s, "sessions") == 0, nil })
			took := time.Since(begun)
			if n := rows(t, s, "locks"); n > 0 {
				t.Errorf("narfs locks shows %d; want none", n)
			}
			const soon = 2 * time.Second
			if t.Logf("the session ended %v after the kill", took); took > soon {
				t.Errorf("the session ended %v after the kill; want at most %v", took, soon)
			}
			if got := s.Run("info", half[1].Path); got.Code == 0 {
				t.Errorf("what was half sent is valid: %s", got.Stdout)
			}
			s.Must("info", kept.Path)
			if r := s.Run("verify"); r.Code != 0 {
				t.Errorf("narfs verify exited with %d: %s", r.Code, r.Stderr)
			}
		})
	}
}

// rows counts what narfs sessions or narfs locks shows.
func rows(t *testing.T, s *env.Store, command string) int {
	t.Helper()
	var list []any
	if err := json.Unmarshal([]byte(s.Must(command, "--json")), &list); err != nil {
		t.Fatal(err)
	}
	return len(list)
}

var errCut = errors.New("cut off")

// cut makes a writer that fails after so many bytes.
func cut(n int64) func(io.Writer) io.Writer {
	return func(w io.Writer) io.Writer { return &cutter{w, n} }
}

type cutter struct {
	w    io.Writer
	left int64
}

// Write implements io.Writer.
func (c *cutter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	if err == nil && n < len(p) {
		err = errCut
	}
	return n, err
}
