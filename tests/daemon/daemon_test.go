package daemon_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/narfs/narfs/tests/env"
)

// One owner a store: the second is told who the first is.
func TestOneOwner(t *testing.T) {
	t.Parallel()
	s := env.NewStore(t)
	p := daemon(t, s)
	second := s.Run("daemon")
	if want := fmt.Sprintf("process %d is the owner of %s already", p.PID(), s.State); second.Code != 1 || !strings.Contains(second.Stderr, want) {
		t.Errorf("a second daemon exited with %d: %s; want %q", second.Code, second.Stderr, want)
	}
	// Commands go through the owner.
	path := s.Must("add", "--name", "x", "/bin/sh")
	if got := s.Must("ls", "-1"); !strings.Contains(path, strings.TrimRight(got, "*@/")) {
		t.Errorf("ls printed %q; want %q", got, path)
	}
	if code := p.Stop(); code != 0 {
		t.Errorf("the daemon exited with %d: %s", code, p.Output())
	}
	for _, name := range []string{"daemon.sock", "owner.sock"} {
		if _, err := os.Lstat(filepath.Join(s.State, name)); err == nil {
			t.Errorf("%s is left behind", name)
		}
	}
	if result := s.Run("verify"); result.Code != 0 {
		t.Errorf("verify: %s", result.Stderr)
	}
}

// Where there is no owner, serve starts one that leaves after its last client.
func TestServeStartsOwner(t *testing.T) {
	t.Parallel()
	s := env.NewStore(t)
	a := env.StartServe(t, s.Command("serve", "--write"))
	path := add(a, "a", "first")
	b := env.StartServe(t, s.Command("serve", "--write"))
	b.Send(env.ServeQueryValidPaths, 0, 0, []string{path})
	if got := b.Strings(); len(got) != 1 || got[0] != path {
		t.Errorf("the second session sees %q; want %q", got, path)
	}
	if list := sessions(t, s); len(list) != 2 {
		t.Errorf("sessions: %+v; want two", list)
	}
	for _, c := range []*env.Serve{a, b} {
		if result := c.End(); result.Code != 0 || result.Stderr != "" {
			t.Errorf("serve exited with %d: %s", result.Code, result.Stderr)
		}
	}
	env.Eventually(t, "the owner has left", func() (bool, error) {
		_, err := os.Lstat(filepath.Join(s.State, "daemon.sock"))
		return os.IsNotExist(err), nil
	})
	if got := s.Must("ls", "-1"); !strings.Contains(path, strings.TrimRight(got, "*@/")) {
		t.Errorf("ls printed %q; want %q", got, path)
	}
}

// Further sockets are made where one wants them, open to all, and go with the daemon.
func TestListen(t *testing.T) {
	t.Parallel()
	s := env.NewStore(t)
	socket := filepath.Join(env.Dir(t), "socket")
	p := daemon(t, s, "--listen", socket)
	env.Eventually(t, "the socket is there", func() (bool, error) {
		_, err := os.Lstat(socket)
		return err == nil, nil
	})
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("the socket: %v, %v; want mode 0666", info, err)
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	archive := file("by a socket")
	path := storePath("socket")
	for _, part := range [][]byte{env.Wire(0x390c9deb, 2<<8|7), addRequest(path, hexSum(archive), len(archive)), archive} {
		if _, err := conn.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	answer := make([]byte, 24)
	if _, err := io.ReadFull(conn, answer); err != nil || answer[16] != 1 {
		t.Errorf("the answer is %x, %v; want that the path is added", answer, err)
	}
	// One that hangs up in the middle is noticed, though nothing is going on.
	if n := len(sessions(t, s)); n != 1 {
		t.Errorf("%d sessions; want one", n)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	env.Eventually(t, "the session has ended", func() (bool, error) { return len(sessions(t, s)) == 0, nil })
	s.Must("info", path)
	// Who speaks something else is turned away.
	for _, hello := range [][]byte{env.Wire(0x6e697863, 1<<8|34), []byte("GET / HTTP/1.0\r\n\r\n"), []byte("narfsown")} {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(hello); err != nil {
			t.Fatal(err)
		}
		_ = conn.CloseWrite()
		if _, err := io.ReadAll(conn); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%q: %v", hello, err)
		}
		_ = conn.Close()
	}
	if code := p.Stop(); code != 0 {
		t.Errorf("the daemon exited with %d: %s", code, p.Output())
	}
	if _, err := os.Lstat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket after the daemon's end: %v", err)
	}
}

// The folder of a socket is made, open to all whatever the umask, as nix-daemon does; where it cannot be, the daemon says so.
func TestListenMakesFolder(t *testing.T) {
	t.Parallel()
	s := env.NewStore(t)
	dir := env.Dir(t)
	cmd := s.Command("daemon", "--listen", filepath.Join(dir, "a", "b", "socket"))
	cmd.Args = append([]string{"sh", "-c", `umask 077; exec "$@"`}, append([]string{"sh"}, cmd.Args...)...)
	cmd.Path = "/bin/sh"
	p := started(t, s, cmd)
	env.Eventually(t, "the socket is there", func() (bool, error) {
		_, err := os.Lstat(filepath.Join(dir, "a", "b", "socket"))
		return err == nil, nil
	})
	for _, name := range []string{"a", "a/b"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != os.ModeDir|0o755 {
			t.Errorf("%s: %v, %v; want a folder with mode 0755", name, info, err)
		}
	}
	p.Stop()

	if err := errors.Join(os.WriteFile(filepath.Join(dir, "file"), nil, 0o600), os.Symlink("nothing", filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"file/socket": "not a directory", "file/a/socket": "not a directory", "link/socket": "no such file"} {
		socket := filepath.Join(dir, name)
		if r := s.Run("daemon", "--listen", socket); r.Code != 1 || !strings.Contains(r.Stderr, "folder of the socket "+socket) || !strings.Contains(r.Stderr, want) {
			t.Errorf("narfs daemon --listen %s exited with %d: %s; want one about the folder: %s", socket, r.Code, r.Stderr, want)
		}
	}
}

// An owner that was started for a client makes way for one that is to stay, when the client has gone.
func TestDaemonFollows(t *testing.T) {
	t.Parallel()
	s := env.NewStore(t)
	c := env.StartServe(t, s.Command("serve", "--write"))
	path := add(c, "a", "first")
	p := env.Start(t, s.Command("daemon"))
	env.Eventually(t, "the daemon waits", func() (bool, error) { return strings.Contains(p.Output(), "waiting: "), nil })
	if result := c.End(); result.Code != 0 {
		t.Errorf("serve exited with %d: %s", result.Code, result.Stderr)
	}
	env.Eventually(t, "the daemon is the owner", func() (bool, error) {
		got := s.Run("whoami")
		return strings.Contains(got.Stdout, fmt.Sprintf("owned by process %d\n", p.PID())), nil
	})
	s.Must("info", path)
}

// Without --write nothing is added, and who asks anyway is told so as Nix does.
func TestServeReadOnly(t *testing.T) {
	t.Parallel()
	s := env.NewStore(t)
	s.Must("add", "--name", "x", "/bin/sh")
	c := env.StartServe(t, s.Command("serve"))
	archive := file("x")
	c.Send(addRequest(storePath("y"), hexSum(archive), len(archive)))
	if n, err := c.TryNumber(); err == nil {
		t.Errorf("the server answered %d", n)
	}
	if result := c.End(); result.Code != 1 || result.Stderr != "error: importing paths is not allowed" {
		t.Errorf("serve exited with %d: %q", result.Code, result.Stderr)
	}
}

// As nix-store --serve, under that name.
func TestNixStoreServe(t *testing.T) {
	t.Parallel()
	s := env.NewStore(t)
	link := filepath.Join(env.Dir(t), "nix-store")
	if err := os.Symlink(env.Binary(t), link); err != nil {
		t.Fatal(err)
	}
	cmd := s.Command("--serve", "--write", "--store", s.State)
	cmd.Path, cmd.Args[0] = link, link
	c := env.StartServe(t, cmd)
	add(c, "a", "text")
	if result := c.End(); result.Code != 0 {
		t.Errorf("exited with %d: %s", result.Code, result.Stderr)
	}
}

// Two who send one path: one writes, the other waits and takes the result; locks and sessions can be seen.
func TestLock(t *testing.T) {
	t.Parallel()
	s := env.NewStore(t)
	daemon(t, s)
	a, b := env.StartServe(t, s.Command("serve", "--write")), env.StartServe(t, s.Command("serve", "--write"))
	archive := file(strings.Repeat("contents ", 1000))
	path := storePath("shared")
	request := addRequest(path, hexSum(archive), len(archive))
	a.Send(request, archive[:100])
	env.Eventually(t, "the first has the lock", func() (bool, error) { return len(locks(t, s)) == 1, nil })
	b.Send(request, archive)
	env.Eventually(t, "the second waits", func() (bool, error) {
		list := locks(t, s)
		return len(list) == 1 && len(list[0]["waiters"].([]any)) == 1, nil
	})
	list := locks(t, s)
	if list[0]["path"] != path || !strings.HasPrefix(list[0]["holder"].(string), "session ") {
		t.Errorf("locks: %v", list)
	}
	if text := s.Must("locks"); !strings.Contains(text, "shared") || !strings.Contains(text, "session") {
		t.Errorf("locks printed %q", text)
	}
	for _, row := range sessions(t, s) {
		if row.Kind != "serve" || !strings.HasPrefix(row.Doing, "receiving ") {
			t.Errorf("session %+v", row)
		}
	}
	a.Send(archive[100:])
	if n, m := a.Number(), b.Number(); n != 1 || m != 1 {
		t.Errorf("answers: %d, %d", n, m)
	}
	if list := locks(t, s); len(list) > 0 {
		t.Errorf("locks are left: %v", list)
	}
	// Killed, the one ends as if it had hung up.
	ids := sessions(t, s)
	s.Must("sessions", "kill", fmt.Sprint(ids[0].ID))
	if rest := sessions(t, s); len(rest) != 1 || rest[0].ID == ids[0].ID {
		t.Errorf("after the kill: %+v", rest)
	}
	killed := a
	if n, err := a.TryNumber(); err == nil {
		t.Errorf("the killed session answers %d", n)
	} else if result := killed.End(); result.Code != 1 || !strings.Contains(result.Stderr, "the session was killed") {
		t.Errorf("the killed one exited with %d: %s", result.Code, result.Stderr)
	}
}

// However a client goes, its session ends at once, and what it had half sent leaves nothing.
func TestHangup(t *testing.T) {
	t.Parallel()
	for name, hangUp := range map[string]func(c *env.Serve){
		"the reader of its output is gone": func(c *env.Serve) { _ = c.Stdout.Close() },
		"killed":                           func(c *env.Serve) { _ = c.Cmd.Process.Kill() },
		"terminated":                       func(c *env.Serve) { _ = c.Cmd.Process.Signal(syscall.SIGTERM) },
		"the writer of its input is gone":  func(c *env.Serve) { _ = c.Stdin.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := env.NewStore(t)
			daemon(t, s)
			c := env.StartServe(t, s.Command("serve", "--write"))
			kept := add(c, "kept", "whole")
			archive := file(strings.Repeat("half ", 10_000))
			path := storePath("half")
			c.Send(addRequest(path, hexSum(archive), len(archive)), archive[:1000])
			env.Eventually(t, "the path is locked", func() (bool, error) { return len(locks(t, s)) == 1, nil })
			begun := time.Now()
			hangUp(c)
			env.Eventually(t, "the session has ended", func() (bool, error) { return len(sessions(t, s)) == 0, nil })
			t.Logf("the session ended %v after the hang-up", time.Since(begun))
			if list := locks(t, s); len(list) > 0 {
				t.Errorf("locks are left: %v", list)
			}
			if got := s.Run("info", path); got.Code == 0 {
				t.Errorf("the half-sent path is valid: %s", got.Stdout)
			}
			s.Must("info", kept)
			if result := s.Run("verify"); result.Code != 0 {
				t.Errorf("verify: %s", result.Stderr)
			}
		})
	}
}

// That clients hang up in the middle of something is no warning, as is what they do wrong; who wants to know hears of it.
func TestHangupLog(t *testing.T) {
	t.Parallel()
	s := env.NewStore(t)
	p := daemon(t, s, "--verbose")
	say := func(parts ...[]byte) *net.UnixConn {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(s.State, "daemon.sock")})
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range parts {
			if _, err := conn.Write(part); err != nil {
				t.Fatal(err)
			}
		}
		return conn
	}
	hello := env.Wire(0x6e697863, 1<<8|34, 0, 0)
	adding := env.Wire(7, "half", "fixed:r:sha256", 0, 0, 1<<20)
	for _, parts := range [][][]byte{{}, {hello[:8]}, {hello}, {hello, adding[:8]}, {hello, adding}, {hello, adding, make([]byte, 1000)}} {
		conn := say(parts...)
		if len(parts) > 2 {
			env.Eventually(t, "the path comes", func() (bool, error) {
				list := sessions(t, s)
				return len(list) == 1 && list[0].Doing == "receiving half", nil
			})
		}
		_ = conn.Close() // with answers that were not read
		env.Eventually(t, "the session has ended", func() (bool, error) { return len(sessions(t, s)) == 0, nil })
	}
	want := fmt.Sprintf(`doing="receiving half" received=%d sent=`, len(hello)+len(adding)+1000)
	env.Eventually(t, "it is said with how many bytes the last has hung up in what", func() (bool, error) { return strings.Contains(p.Output(), want), nil })
	if got := p.Output(); strings.Contains(got, "level=WARN") || !strings.Contains(got, `level=INFO msg="a client has hung up" session=`) {
		t.Errorf("narfs daemon says\n%s\nwant no warning", got)
	}
	conn := say(hello, env.Wire(9999))
	if _, err := io.ReadAll(conn); err != nil {
		t.Error(err)
	}
	_ = conn.Close()
	env.Eventually(t, "the session has ended", func() (bool, error) { return len(sessions(t, s)) == 0, nil })
	env.Eventually(t, "there is a warning", func() (bool, error) {
		return strings.Contains(p.Output(), "level=WARN") && strings.Contains(p.Output(), "invalid operation 9999"), nil
	})
	p.Stop()
}

// A client that hangs up while nothing is going on is noticed, too; one that only has nothing more to say is answered.
func TestHalfClose(t *testing.T) {
	t.Parallel()
	s := env.NewStore(t)
	daemon(t, s)
	c := env.StartServe(t, s.Command("serve", "--write"))
	path := add(c, "a", "text")
	c.Send(env.ServeQueryValidPaths, 0, 0, []string{path})
	if err := c.Stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if got := c.Strings(); len(got) != 1 {
		t.Errorf("after a half-close the answer is %q", got)
	}
	idle := env.StartServe(t, s.Command("serve", "--write"))
	if n := len(sessions(t, s)); n == 0 {
		t.Error("there is no session")
	}
	_ = idle.Stdout.Close()
	env.Eventually(t, "the idle session has ended", func() (bool, error) { return len(sessions(t, s)) == 0, nil })
}

// At its end the daemon gives clients some time, and no more.
func TestShutdown(t *testing.T) {
	t.Parallel()
	s := env.NewStore(t)
	p := daemon(t, s, "--option", "shutdown-timeout=1")
	quick, slow := env.StartServe(t, s.Command("serve", "--write")), env.StartServe(t, s.Command("serve", "--write"))
	archive := file(strings.Repeat("slow ", 1000))
	slow.Send(addRequest(storePath("slow"), hexSum(archive), len(archive)), archive[:100])
	env.Eventually(t, "the path is locked", func() (bool, error) { return len(locks(t, s)) == 1, nil })
	p.Signal(syscall.SIGTERM)
	env.Eventually(t, "nobody is let in", func() (bool, error) {
		_, err := os.Lstat(filepath.Join(s.State, "daemon.sock"))
		return os.IsNotExist(err), nil
	})
	path := add(quick, "quick", "in time")
	if result := quick.End(); result.Code != 0 {
		t.Errorf("who was in time exited with %d: %s", result.Code, result.Stderr)
	}
	if code := p.Wait(); code != 0 {
		t.Errorf("the daemon exited with %d: %s", code, p.Output())
	}
	if result := slow.End(); result.Code != 1 {
		t.Errorf("who was too slow exited with %d: %s", result.Code, result.Stderr)
	}
	s.Must("info", path)
	if got := s.Run("info", storePath("slow")); got.Code == 0 {
		t.Error("the half-sent path is valid")
	}
}

func TestReload(t *testing.T) {
	t.Parallel()
	dir := env.Dir(t)
	conf := filepath.Join(dir, "nix.conf")
	if err := os.WriteFile(conf, []byte("keep-outputs = false\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := env.NewStore(t)
	p := daemon(t, s, "ENV:NARFS_CONF="+conf)
	if err := os.WriteFile(conf, []byte("max-sessions = rubbish\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.Signal(syscall.SIGHUP)
	env.Eventually(t, "the daemon complains", func() (bool, error) { return strings.Contains(p.Output(), "the settings stay as they were"), nil })
	s.Must("add", "--name", "x", "/bin/sh")
	if err := os.WriteFile(conf, []byte("trusted-users = nobody\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.Signal(syscall.SIGHUP)
	s.Must("whoami")
	if code := p.Stop(); code != 0 {
		t.Errorf("the daemon exited with %d: %s", code, p.Output())
	}
}
