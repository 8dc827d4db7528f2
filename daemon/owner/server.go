package owner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/narfs/narfs/internal/wire"
)

// ErrHangup is the cause of the end of a command's context whose client went away.
var ErrHangup = errors.New("the client is gone")

// ErrStopped is the cause of the end of a command's context when the owner stops.
var ErrStopped = errors.New("the owner of the state directory was told to stop")

// Command is a command line that a client has handed over.
type Command struct {
	Args []string
	Dir  string // absolute
	Env  []string
	// The client's descriptors; closed when the handler has returned.
	Stdin, Stdout, Stderr *Stream
	PID                   int // of the client; 0 if unknown
	Lasts                 bool
	Since                 time.Time
}

// Handler does a command and returns its exit code. When ctx ends it is to come to an end soon. A panic becomes exit code 1
// and a line in the log; what it started on other goroutines must not panic.
type Handler func(ctx context.Context, c *Command) (code int)

// Options of a Server. The zero value is good.
type Options struct {
	// Leaving says that the owner will leave when its own work is done: it declines commands that last.
	Leaving bool
	// Logger hears of panics and of clients who cannot be served; nil discards.
	Logger *slog.Logger
}

// Server takes command lines for an owner. Its methods may be called concurrently.
type Server struct {
	path   string
	ln     *net.UnixListener
	handle Handler
	opts   Options
	all    context.CancelCauseFunc // ends all commands
	done   chan struct{}           // closed when accepting has ended

	mu      sync.Mutex // guards the rest
	running []*Command
	idle    chan struct{} // closed when the last command has ended; nil while nobody waits for that
	closed  bool
}

// requestTime is how long a client may take to say what it wants.
const requestTime = 10 * time.Second

// lastWords is how long a command that has to end may wait for who reads its error output.
const lastWords = time.Second

// Listen begins to serve in a state directory that this process owns: a socket that is there already is nobody's. Commands
// are done with ctx's values and end by Stop, not with ctx.
func Listen(ctx context.Context, dir string, handle Handler, o Options) (*Server, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{path: filepath.Join(dir, Socket), handle: handle, opts: o, done: make(chan struct{})}
	var err error
	if s.ln, err = listen(ctx, s.path); err != nil {
		return nil, fmt.Errorf("listen as owner of %s: %w", dir, err)
	}
	base, all := context.WithCancelCause(context.WithoutCancel(ctx))
	s.all = all
	go s.accept(base)
	return s, nil
}

// listen makes the socket under another name and moves it into its place, so that nobody meets it before it is private.
func listen(ctx context.Context, path string) (*net.UnixListener, error) {
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	name, done, err := address(temp)
	if err != nil {
		return nil, err
	}
	defer done()
	var conf net.ListenConfig
	l, err := conf.Listen(ctx, "unix", name)
	if err != nil {
		return nil, err
	}
	ln, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(errors.New("not a unix socket"), l.Close())
	}
	ln.SetUnlinkOnClose(false) // it is moved away
	err = os.Chmod(temp, 0o600)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return nil, errors.Join(err, ln.Close(), os.Remove(temp))
	}
	return ln, nil
}

func (s *Server) accept(ctx context.Context) {
	defer close(s.done)
	var clients sync.WaitGroup
	defer clients.Wait()
	for {
		conn, err := s.ln.AcceptUnix()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			s.opts.Logger.WarnContext(ctx, "a client could not connect", "err", err)
			if !pause(ctx, 100*time.Millisecond) { // too many open files, most likely
				return
			}
			continue
		}
		c := &Command{Since: time.Now()}
		if !s.begin(c) {
			_ = conn.Close() // it will find nobody here when it tries again
			return
		}
		clients.Go(func() {
			defer s.end(c)
			defer conn.Close() //nolint:errcheck // nothing to lose
			if err := s.serve(ctx, conn, c); err != nil {
				s.opts.Logger.WarnContext(ctx, "a client could not be served", "pid", c.PID, "err", err)
			}
		})
	}
}

func pause(ctx context.Context, d time.Duration) (ok bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// begin counts a client from the moment it is accepted.
func (s *Server) begin(c *Command) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.running = append(s.running, c)
	return true
}

func (s *Server) end(c *Command) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = slices.DeleteFunc(s.running, func(other *Command) bool { return other == c })
	if len(s.running) == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// serve does what one client wants.
func (s *Server) serve(ctx context.Context, conn *net.UnixConn, c *Command) error {
	who, err := peerOf(conn)
	if err != nil {
		return err
	}
	if who.UID != 0 && who.UID != uint32(os.Geteuid()) {
		return fmt.Errorf("user %d may not use the owner's socket", who.UID)
	}
	if err := conn.SetReadDeadline(time.Now().Add(requestTime)); err != nil {
		return err
	}
	req, err := receive(conn)
	var streams []*Stream
	for i, fd := range req.fds {
		streams = append(streams, newStream(fd, []string{"standard input", "standard output", "error output"}[min(i, 2)], i == 0))
	}
	closing := sync.OnceFunc(func() {
		for _, stream := range streams {
			stream.close()
		}
	})
	defer closing()
	w := wire.NewWriter(conn)
	if err == nil && req.lasts && s.opts.Leaving {
		err = errors.New("it will leave soon")
	}
	if err != nil {
		_ = w.Bool(false)
		_ = w.String(err.Error()[:min(len(err.Error()), maxReason)])
		return errors.Join(err, w.Flush())
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	s.mu.Lock()
	c.Args, c.Dir, c.Env, c.PID, c.Lasts = req.args, req.dir, req.env, who.PID, req.lasts
	s.mu.Unlock()
	if err := errors.Join(w.Bool(true), w.Flush()); err != nil {
		return err
	}
	c.Stdin, c.Stdout, c.Stderr = streams[0], streams[1], streams[2]
	code := s.do(ctx, conn, c)
	closing() // who waits for the end of our output must not wait for the client's end
	_ = w.Uint64(uint64(code))
	_ = w.Flush() // the client may be gone
	return nil
}

// do runs the handler until it returns.
func (s *Server) do(ctx context.Context, conn *net.UnixConn, c *Command) (code int) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() {
		c.Stdin.cancel()
		c.Stdout.cancel()
		// The handler may want to say something about its end, but nobody need be there to listen.
		time.AfterFunc(lastWords, c.Stderr.cancel)
	})()

	var watcher sync.WaitGroup
	watcher.Go(func() {
		_, _ = conn.Read(make([]byte, 1)) // the client says nothing more: this is its end
		cancel(ErrHangup)
	})
	defer watcher.Wait()
	defer conn.CloseRead() //nolint:errcheck // ends the watcher
	defer func() {
		if what := recover(); what != nil {
			code = 1
			s.opts.Logger.ErrorContext(ctx, "panic contained", "doing", c.Args, "pid", c.PID, "panic", what, "stack", string(debug.Stack()))
			_, _ = fmt.Fprintf(c.Stderr, "internal error: %v\n", what)
		}
	}()
	return s.handle(ctx, c)
}

// Running returns the commands being done, the oldest first, without their streams.
func (s *Server) Running() []Command {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Command, 0, len(s.running))
	for _, c := range s.running {
		all = append(all, Command{Args: c.Args, Dir: c.Dir, Env: c.Env, PID: c.PID, Lasts: c.Lasts, Since: c.Since})
	}
	return all
}

// Stop ends the contexts of all commands, now and from now on.
func (s *Server) Stop() { s.all(ErrStopped) }

// Drain goes on serving until no command is being done, and then closes the server: who comes later finds nobody. If ctx
// ends before that, Drain stops the commands and waits for their end.
func (s *Server) Drain(ctx context.Context) error {
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	for {
		s.mu.Lock()
		if len(s.running) == 0 {
			s.closed = true
			s.mu.Unlock()
			break
		}
		if s.idle == nil {
			s.idle = make(chan struct{})
		}
		idle := s.idle
		s.mu.Unlock()
		<-idle
	}
	// The name goes first: who still finds the socket is turned away and tries again.
	err := os.Remove(s.path)
	err = errors.Join(err, s.ln.Close())
	<-s.done
	s.all(nil)
	if err != nil {
		return fmt.Errorf("close the owner's socket: %w", err)
	}
	return nil
}
