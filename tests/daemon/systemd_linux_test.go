package daemon_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/narfs/narfs/tests/env"
	"github.com/narfs/narfs/tests/env/worker"
)

// manager is what a service manager listens on.
func manager(t *testing.T) (conn *net.UnixConn, name string) {
	t.Helper()
	name = filepath.Join(env.Dir(t), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, name
}

// told returns when the manager is told something.
func told(t *testing.T, conn *net.UnixConn, want string) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(env.Patience)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatalf("waiting for %q: %v", want, err)
		}
		if slices.Contains(strings.Split(string(buf[:n]), "\n"), want) {
			return
		}
	}
}

// A service manager is told of readiness, reloads and the end, hears from the daemon while it is well, and may have made the socket.
func TestServiceManager(t *testing.T) {
	t.Parallel()
	conn, notify := manager(t)
	s := env.NewStore(t)
	if err := os.MkdirAll(s.State, 0o755); err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(s.State, "daemon.sock")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: sock})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close() //nolint:errcheck // only for this
	ln.SetUnlinkOnClose(false)
	f, err := ln.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only for this
	// LISTEN_PID must be the daemon's own number.
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" daemon`, env.Binary(t))
	cmd.Env = append(os.Environ(), "NARFS_STATE_DIR="+s.State, "NOTIFY_SOCKET="+notify, "WATCHDOG_USEC=300000", "NIX_CONF_DIR=/nonexistent", "NARFS_CONF=/nonexistent")
	cmd.ExtraFiles = []*os.File{f}
	cmd.Cancel = func() error { return nil }
	p := env.Start(t, cmd)
	told(t, conn, "READY=1")
	told(t, conn, "WATCHDOG=1")
	// By the private socket, and by the manager's.
	s.Must("add", "--name", "x", "/etc/passwd")
	raw, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: sock})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Write(env.Wire(0x390c9deb, 2<<8|7)); err != nil {
		t.Fatal(err)
	}
	greeting := make([]byte, 16)
	if _, err := raw.Read(greeting); err != nil || string(greeting[:8]) != string(env.Wire(0x5452eecb)) {
		t.Errorf("the socket that the manager made is answered with %x, %v", greeting, err)
	}
	if err := raw.Close(); err != nil {
		t.Fatal(err)
	}
	nix, err := worker.Dial(t.Context(), sock)
	if err != nil {
		t.Fatal(err)
	}
	if path, err := nix.AddText("y", "y", nil); err != nil || nix.PathInfo(path) != nil {
		t.Errorf("a client of the worker protocol adds %q, %v by the socket that the manager made", path, err)
	}
	if err := nix.Close(); err != nil {
		t.Fatal(err)
	}
	p.Signal(syscall.SIGHUP)
	told(t, conn, "RELOADING=1")
	told(t, conn, "READY=1")
	p.Signal(syscall.SIGTERM)
	told(t, conn, "STOPPING=1")
	if code := p.Wait(); code != 0 {
		t.Errorf("the daemon exited with %d: %s", code, p.Output())
	}
	if _, err := os.Lstat(sock); err != nil {
		t.Errorf("the manager's socket: %v; want it left alone", err)
	}
}
