package owner_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/narfs/narfs/daemon/owner"
)

func listen(t *testing.T, dir string, handle owner.Handler, o owner.Options) *owner.Server {
	t.Helper()
	s, err := owner.Listen(t.Context(), dir, handle, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Stop()
		if err := s.Drain(context.WithoutCancel(t.Context())); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, net.ErrClosed) {
			t.Errorf("Drain = %v", err)
		}
	})
	return s
}

// pipe returns both ends of one, which are closed after the test.
func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	_, _ = r.Fd(), w.Fd() // makes them blocking, as a shell's are
	return r, w
}

// request is one whose output is written to the returned file.
func request(t *testing.T, args ...string) (owner.Request, *os.File) {
	t.Helper()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = null.Close(), out.Close() })
	return owner.Request{Args: args, Dir: "/", Stdin: null, Stdout: out, Stderr: out}, out
}

func contents(t *testing.T, f *os.File) string {
	t.Helper()
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestDo(t *testing.T) {
	dir := t.TempDir()
	var got owner.Command
	listen(t, dir, func(_ context.Context, c *owner.Command) int {
		got = *c
		in, err := io.ReadAll(c.Stdin)
		_, _ = fmt.Fprintf(c.Stdout, "read %q, %v\n", in, err)
		_, _ = fmt.Fprintln(c.Stderr, "bye")
		return 42
	}, owner.Options{})
	for _, test := range []struct {
		name string
		open func(t *testing.T) *os.File
	}{
		{"file", func(t *testing.T) *os.File {
			t.Helper()
			name := filepath.Join(t.TempDir(), "in")
			if err := os.WriteFile(name, []byte("hello"), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			return f
		}},
		{"pipe", func(t *testing.T) *os.File {
			t.Helper()
			r, w := pipe(t)
			go func() { _, _ = w.WriteString("hello"); _ = w.Close() }()
			return r
		}},
		{"socket", func(t *testing.T) *os.File {
			t.Helper()
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = unix.Write(pair[1], []byte("hello"))
			_ = unix.Close(pair[1])
			return os.NewFile(uintptr(pair[0]), "socket")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			req, out := request(t, "ls", "-l", "a\nb")
			req.Env = []string{"TERM=dumb"}
			req.Stdin = test.open(t)
			defer req.Stdin.Close() //nolint:errcheck // read only
			code, err := owner.Do(t.Context(), dir, req)
			if code != 42 || err != nil {
				t.Errorf("Do = %d, %v; want 42", code, err)
			}
			if got, want := contents(t, out), "read \"hello\", <nil>\nbye\n"; got != want {
				t.Errorf("the command wrote %q; want %q", got, want)
			}
			if diff := cmp.Diff([]any{req.Args, req.Dir, req.Env, os.Getpid()}, []any{got.Args, got.Dir, got.Env, got.Access.Peer.PID}); diff != "" {
				t.Errorf("the handler got (-sent +got):\n%s", diff)
			}
		})
	}
}

func TestSocketIsPrivate(t *testing.T) {
	dir := t.TempDir()
	listen(t, dir, func(context.Context, *owner.Command) int { return 0 }, owner.Options{})
	info, err := os.Stat(filepath.Join(dir, owner.Socket))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := info.Mode(), os.ModeSocket|0o600; got != want {
		t.Errorf("mode of the socket = %v; want %v", got, want)
	}
}

func TestAbsent(t *testing.T) {
	dir := t.TempDir()
	req, _ := request(t)
	if _, err := owner.Do(t.Context(), dir, req); !errors.Is(err, owner.ErrAbsent) {
		t.Errorf("Do without a socket = %v; want ErrAbsent", err)
	}
	if _, err := owner.Do(t.Context(), filepath.Join(dir, "no", strings.Repeat("x", 200)), req); !errors.Is(err, owner.ErrAbsent) {
		t.Errorf("Do without a directory = %v; want ErrAbsent", err)
	}
	s := listen(t, dir, func(context.Context, *owner.Command) int { return 0 }, owner.Options{})
	if _, err := owner.Do(t.Context(), dir, req); err != nil {
		t.Errorf("Do = %v; want nil", err)
	}
	if err := s.Drain(t.Context()); err != nil {
		t.Errorf("Drain = %v", err)
	}
	if _, err := owner.Do(t.Context(), dir, req); !errors.Is(err, owner.ErrAbsent) {
		t.Errorf("Do after Drain = %v; want ErrAbsent", err)
	}
	// What an owner leaves behind that was killed.
	stale, err := net.Listen("unix", filepath.Join(dir, owner.Socket))
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = stale.Close()
	if _, err := owner.Do(t.Context(), dir, req); !errors.Is(err, owner.ErrAbsent) {
		t.Errorf("Do with a dead socket = %v; want ErrAbsent", err)
	}
	listen(t, dir, func(context.Context, *owner.Command) int { return 3 }, owner.Options{})
	if code, err := owner.Do(t.Context(), dir, req); code != 3 || err != nil {
		t.Errorf("Do with the next owner = %d, %v; want 3", code, err)
	}
}

func TestLongDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("x", 120))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := owner.Listen(t.Context(), dir, nil, owner.Options{}); err != nil && strings.Contains(err.Error(), "too long") {
		t.Skip(err)
	}
	listen(t, dir, func(context.Context, *owner.Command) int { return 5 }, owner.Options{})
	req, _ := request(t)
	if code, err := owner.Do(t.Context(), dir, req); code != 5 || err != nil {
		t.Errorf("Do = %d, %v; want 5", code, err)
	}
}

func TestDeclined(t *testing.T) {
	dir := t.TempDir()
	listen(t, dir, func(context.Context, *owner.Command) int { return 0 }, owner.Options{Leaving: true})
	req, _ := request(t)
	if _, err := owner.Do(t.Context(), dir, req); err != nil {
		t.Errorf("Do = %v; want nil", err)
	}
	req.Lasts = true
	var declined *owner.DeclinedError
	if _, err := owner.Do(t.Context(), dir, req); !errors.As(err, &declined) {
		t.Errorf("Do of what lasts = %v; want a DeclinedError", err)
	}
}

func TestPanic(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	listen(t, dir, func(context.Context, *owner.Command) int { panic("ouch") },
		owner.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	req, out := request(t)
	for range 2 { // the owner survives
		if code, err := owner.Do(t.Context(), dir, req); code != 1 || err != nil {
			t.Errorf("Do = %d, %v; want 1", code, err)
		}
	}
	if got := contents(t, out); !strings.Contains(got, "internal error: ouch") {
		t.Errorf("the client read %q; want the panic", got)
	}
	if got := log.String(); !strings.Contains(got, "panic contained") || !strings.Contains(got, "ouch") {
		t.Errorf("the log has %q; want the panic", got)
	}
}

// TestInterrupt: a client that is interrupted gets the exit code all the same.
func TestInterrupt(t *testing.T) {
	dir := t.TempDir()
	begun := make(chan struct{})
	listen(t, dir, func(ctx context.Context, c *owner.Command) int {
		close(begun)
		<-ctx.Done()
		if !errors.Is(context.Cause(ctx), owner.ErrHangup) {
			t.Errorf("cause = %v; want ErrHangup", context.Cause(ctx))
		}
		_, _ = fmt.Fprint(c.Stderr, "interrupted")
		return 130
	}, owner.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	req, out := request(t)
	if code, err := owner.Do(ctx, dir, req); code != 130 || err != nil {
		t.Errorf("Do = %d, %v; want 130", code, err)
	}
	if got := contents(t, out); got != "interrupted" {
		t.Errorf("the client read %q; want interrupted", got)
	}
}

// TestStuck: a command that waits for its descriptors ends when its client does, whatever they are.
func TestStuck(t *testing.T) {
	socket := func(t *testing.T) *os.File {
		t.Helper()
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(pair[1]) })
		return os.NewFile(uintptr(pair[0]), "socket")
	}
	readPipe := func(t *testing.T) *os.File { t.Helper(); r, _ := pipe(t); return r }
	writePipe := func(t *testing.T) *os.File { t.Helper(); _, w := pipe(t); return w }
	for _, test := range []struct {
		name   string
		writes bool
		open   func(t *testing.T) *os.File
	}{
		{"read a pipe", false, readPipe},
		{"read a socket", false, socket},
		{"read a terminal", false, terminal},
		{"write to a pipe", true, writePipe},
		{"write to a socket", true, socket},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			begun := make(chan struct{})
			s := listen(t, dir, func(_ context.Context, c *owner.Command) int {
				close(begun)
				var err error
				if test.writes {
					for err == nil {
						_, err = c.Stdout.Write(make([]byte, 100_000))
					}
				} else {
					_, err = io.ReadAll(c.Stdin)
				}
				_, _ = fmt.Fprint(c.Stderr, err)
				return 1
			}, owner.Options{})
			req, out := request(t)
			f := test.open(t)
			if test.writes {
				req.Stdout = f
			} else {
				req.Stdin = f
			}
			ctx, cancel := context.WithCancel(t.Context())
			var client sync.WaitGroup
			client.Go(func() { _, _ = owner.Do(ctx, dir, req) })
			<-begun
			if n := len(s.Running()); n != 1 {
				t.Errorf("%d commands run; want 1", n)
			}
			cancel()
			client.Wait()
			if got := contents(t, out); !strings.Contains(got, "the command has ended") {
				t.Errorf("the command met %q; want that it has ended", got)
			}
			raw, err := f.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			_ = raw.Control(func(fd uintptr) {
				if flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
					t.Errorf("the client's descriptor has become non-blocking (%v)", err)
				}
			})
			_ = f.Close()
		})
	}
}

// TestDrain: an owner that leaves waits for the commands of others, and takes more meanwhile.
func TestDrain(t *testing.T) {
	dir := t.TempDir()
	begun, finish := make(chan struct{}), make(chan struct{})
	s := listen(t, dir, func(ctx context.Context, c *owner.Command) int {
		if len(c.Args) == 0 {
			return 1
		}
		close(begun)
		select {
		case <-finish:
			return 2
		case <-ctx.Done():
			return 3
		}
	}, owner.Options{})
	var client sync.WaitGroup
	client.Go(func() {
		req, _ := request(t, "slow")
		if code, err := owner.Do(t.Context(), dir, req); code != 2 || err != nil {
			t.Errorf("Do = %d, %v; want 2", code, err)
		}
	})
	<-begun
	drained := make(chan error)
	go func() { drained <- s.Drain(t.Context()) }()
	req, _ := request(t)
	if code, err := owner.Do(t.Context(), dir, req); code != 1 || err != nil {
		t.Errorf("Do while draining = %d, %v; want 1", code, err)
	}
	select {
	case err := <-drained:
		t.Errorf("Drain ended with %v while a command was running", err)
	default:
	}
	close(finish)
	client.Wait()
	if err := <-drained; err != nil {
		t.Errorf("Drain = %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, owner.Socket)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestStop(t *testing.T) {
	dir := t.TempDir()
	begun := make(chan struct{})
	s := listen(t, dir, func(ctx context.Context, _ *owner.Command) int {
		close(begun)
		<-ctx.Done()
		if !errors.Is(context.Cause(ctx), owner.ErrStopped) {
			t.Errorf("cause = %v; want ErrStopped", context.Cause(ctx))
		}
		return 9
	}, owner.Options{})
	go func() { <-begun; s.Stop() }()
	req, _ := request(t)
	if code, err := owner.Do(t.Context(), dir, req); code != 9 || err != nil {
		t.Errorf("Do = %d, %v; want 9", code, err)
	}
}

// TestBadRequests: whatever a client sends, the owner goes on, and no descriptor stays behind.
func TestBadRequests(t *testing.T) {
	dir := t.TempDir()
	s := listen(t, dir, func(context.Context, *owner.Command) int { return 0 }, owner.Options{})
	word := func(n uint64) string {
		return string([]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24), byte(n >> 32), byte(n >> 40), byte(n >> 48), byte(n >> 56)})
	}
	head := "narfsown" + word(1) + word(0) + word(1) + "/\x00\x00\x00\x00\x00\x00\x00"
	for _, test := range []struct {
		name  string
		files int
		bytes string
		want  string // in the reason
	}{
		{"nothing", 0, "", ""},
		{"no descriptors", 0, head, "not the three"},
		{"two descriptors", 2, head, "not the three"},
		{"nine descriptors", 9, head, "not the three"},
		{"other magic", 3, "GET / HTTP/1.1\r\n\r\n", "not a request"},
		{"other version", 3, "narfsown" + word(9), "version 9"},
		{"relative directory", 3, "narfsown" + word(1) + word(0) + word(1) + "x\x00\x00\x00\x00\x00\x00\x00", "not absolute"},
		{"long directory", 3, "narfsown" + word(1) + word(0) + word(4097), "working directory"},
		{"absurd directory", 3, "narfsown" + word(1) + word(0) + word(1<<62), "working directory"},
		{"too many arguments", 3, head + word(65537), "arguments"},
		{"long argument", 3, head + word(1) + word(128<<10+1), "arguments"},
		{"too much", 3, head + word(100) + strings.Repeat(word(128<<10)+strings.Repeat("x", 128<<10), 33), "arguments"},
		{"environment", 3, head + word(0) + word(65), "environment"},
		{"cut short", 3, head + word(1), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := openFiles(t)
			conn, err := net.Dial("unix", filepath.Join(dir, owner.Socket))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close() //nolint:errcheck // nothing to lose
			fds := make([]int, test.files)
			uc := conn.(*net.UnixConn)
			if test.bytes != "" {
				if _, _, err := uc.WriteMsgUnix([]byte(test.bytes[:8]), unix.UnixRights(fds...), nil); err != nil {
					t.Fatal(err)
				}
				_, _ = uc.Write([]byte(test.bytes[8:])) // the owner may have stopped reading
			}
			_ = uc.CloseWrite()
			answer, _ := io.ReadAll(conn)
			if !strings.Contains(string(answer), test.want) || len(answer) > 0 && answer[0] != 0 {
				t.Errorf("answer = %q; want one that begins with 0 and has %q in it", answer, test.want)
			}
			_ = conn.Close()
			for deadline := time.Now().Add(5 * time.Second); len(s.Running()) > 0 || openFiles(t) > before; {
				if time.Now().After(deadline) {
					t.Fatalf("%d clients and %d files are left, from %d", len(s.Running()), openFiles(t), before)
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	req, _ := request(t)
	if _, err := owner.Do(t.Context(), dir, req); err != nil {
		t.Errorf("Do = %v; want nil", err)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// What is longer than an owner takes is refused at once: asking again would not help.
func TestTooLong(t *testing.T) {
	dir := t.TempDir()
	var got int
	listen(t, dir, func(_ context.Context, c *owner.Command) int {
		got = len(strings.Join(append(c.Args, c.Env...), ""))
		return 0
	}, owner.Options{})
	many := func(n, size int) []string { return slices.Repeat([]string{strings.Repeat("x", size)}, n) }
	for _, test := range []struct {
		args, env []string
		ok        bool
	}{
		{many(1, 128<<10), many(1, 128<<10), true},
		{many(65536, 64), many(64, 16<<10), true},
		{many(1, 128<<10+1), nil, false},
		{many(65537, 1), nil, false},
		{many(65536, 65), nil, false},
		{nil, many(1, 128<<10+1), false},
		{nil, many(65, 1), false},
		{nil, many(64, 16<<10+1), false},
	} {
		req, _ := request(t, test.args...)
		req.Env = test.env
		_, err := owner.Do(t.Context(), dir, req)
		sent := len(strings.Join(append(test.args, test.env...), ""))
		if test.ok && (err != nil || got != sent) || !test.ok && !errors.Is(err, owner.ErrTooLong) {
			t.Errorf("Do of %d arguments and %d variables, %d bytes = %v, and the owner got %d bytes; want it done: %v", len(test.args), len(test.env), sent, err, got, test.ok)
		}
	}
}
