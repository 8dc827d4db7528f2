package owner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/narfs/narfs/daemon/acl"
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
	// Access is the client and what it may do. For those who came by the private socket it is acl.Trusted, and Guest is false.
	Access acl.Access
	// Guest says that the client came by a door. It is somebody else, whose files and terminal are not the owner's: whatever the
	// command names must be had from the client's descriptors.
	Guest bool
	Lasts bool
	Since time.Time

	stop context.CancelCauseFunc // ends its context; nil before it has begun
}

// Handler does a command and returns its exit code. When ctx ends it is to come to an end soon. A panic becomes exit code 1
// and a line in the log; what it started on other goroutines must not panic.
type Handler func(ctx context.Context, c *Command) (code int)

// Options of a Server. The zero value is good.
type Options struct {
	// Leaving says that the owner will leave when its own work is done: it declines commands that last.
	Leaving bool
	// Declines returns why the owner does not do a command that lasts, "" if it does; nil does all.
	Declines func(args []string) string
	// Other serves the connections at doors that do not begin with a command line but with other eight bytes, which are still in
	// the connection, until its end or ctx's. It need not close it. Nil turns them away.
	Other func(ctx context.Context, conn *net.UnixConn, first [8]byte, who acl.Access) error
	// Logger hears of panics and of clients who cannot be served; nil discards.
	Logger *slog.Logger
}

// Server takes command lines for an owner. Its methods may be called concurrently.
type Server struct {
	handle Handler
	opts   Options
	base   context.Context         //nolint:containedctx // of all commands, which outlive the call of Listen
	all    context.CancelCauseFunc // ends it

	mu        sync.Mutex // guards the rest
	entrances []*entrance
	accepting sync.WaitGroup
	running   []*Command
	idle      chan struct{} // closed when the last command has ended; nil while nobody waits for that
	idleSince time.Time
	closed    bool
}

// Door is a socket that more than the owner may come to.
type Door struct {
	// Listener is closed with the server.
	Listener *net.UnixListener
	// Path is removed with it, unless it is empty.
	Path string
	// Admit decides who may come in. Who may not finds the connection closed, without a word.
	Admit func(acl.Peer) (acl.Access, error)
}

// entrance is a socket of the server: a door, or the private socket, at which there is no Admit.
type entrance struct{ Door }

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
	s := &Server{handle: handle, opts: o, idleSince: time.Now()}
	path := filepath.Join(dir, Socket)
	ln, err := ListenUnix(ctx, path, 0o600)
	if err != nil {
		return nil, fmt.Errorf("listen as owner of %s: %w", dir, err)
	}
	s.base, s.all = context.WithCancelCause(context.WithoutCancel(ctx))
	s.enter(&entrance{Door{Listener: ln, Path: path}})
	return s, nil
}

// Open lets clients in by a door, too.
func (s *Server) Open(d Door) { s.enter(&entrance{d}) }

func (s *Server) enter(e *entrance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = e.Listener.Close()
		return
	}
	s.entrances = append(s.entrances, e)
	s.accepting.Go(func() { s.accept(e) })
}

// ListenUnix makes a socket with some mode, in place of one that is there. It is made under another name and moved into its
// place, so that nobody meets it before it has that mode; closing it does not remove it.
func ListenUnix(ctx context.Context, path string, mode os.FileMode) (*net.UnixListener, error) {
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
	err = os.Chmod(temp, mode)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return nil, errors.Join(err, ln.Close(), os.Remove(temp))
	}
	return ln, nil
}

func (s *Server) accept(e *entrance) {
	var clients sync.WaitGroup
	defer clients.Wait()
	for {
		conn, err := e.Listener.AcceptUnix()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			s.opts.Logger.WarnContext(s.base, "a client could not connect", "err", err)
			if !pause(s.base, 100*time.Millisecond) { // too many open files, most likely
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
			if err := s.serve(s.base, e, conn, c); err != nil {
				s.opts.Logger.WarnContext(s.base, "a client could not be served", "pid", c.Access.Peer.PID, "uid", c.Access.Peer.UID, "err", err)
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
	if len(s.running) > 0 {
		return
	}
	s.idleSince = time.Now()
	if s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// Idle returns since when there has been nobody to serve; ok is false while there is somebody.
func (s *Server) Idle() (since time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.idleSince, len(s.running) == 0
}

// admit finds out who a client is and whether it may come in.
func admit(e *entrance, conn *net.UnixConn) (who acl.Access, guest bool, err error) {
	peer, err := acl.PeerOf(conn)
	if err != nil {
		return who, false, err
	}
	own := peer.UID == uint32(os.Geteuid())
	if e.Admit != nil {
		who, err = e.Admit(peer)
		return who, !own, err
	}
	who = acl.Access{Peer: peer, Level: acl.Trusted, Why: "may use the owner's own socket"}
	if !own && peer.UID != 0 {
		err = fmt.Errorf("user %d may not use the owner's socket", peer.UID)
	}
	return who, false, err
}

// serve does what one client wants.
func (s *Server) serve(ctx context.Context, e *entrance, conn *net.UnixConn, c *Command) error {
	who, guest, err := admit(e, conn)
	s.mu.Lock()
	c.Access, c.Guest = who, guest
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(requestTime)); err != nil {
		return err
	}
	if e.Admit != nil {
		first, err := peek(conn)
		if errors.Is(err, io.EOF) {
			return nil // it only looked who listens here
		}
		if err != nil {
			return fmt.Errorf("it said nothing: %w", err)
		}
		if string(first[:]) != magic {
			return s.serveOther(ctx, conn, first, who)
		}
	}
	req, err := receive(conn)
	if errors.Is(err, io.EOF) && len(req.fds) == 0 {
		return nil // it only looked who listens here
	}
	var streams []*Stream
	for i, fd := range req.fds {
		if err == nil && guest && !harmless(fd) {
			err = fmt.Errorf("descriptor %d is neither a pipe nor a socket nor a terminal", i)
		}
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
	if err == nil && req.lasts && s.opts.Declines != nil {
		if why := s.opts.Declines(req.args); why != "" {
			err = errors.New(why)
		}
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
	c.Args, c.Dir, c.Env, c.Lasts = req.args, req.dir, req.env, req.lasts
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

// serveOther serves a connection that does not begin with a command line.
func (s *Server) serveOther(ctx context.Context, conn *net.UnixConn, first [8]byte, who acl.Access) (err error) {
	if s.opts.Other == nil {
		return errors.New("does not begin with a command line")
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	defer func() {
		if what := recover(); what != nil {
			err = fmt.Errorf("panic contained: %v\n%s", what, debug.Stack())
		}
	}()
	return s.opts.Other(ctx, conn, first, who)
}

// peek returns the first bytes of a connection, and leaves them there.
func peek(conn *net.UnixConn) (first [8]byte, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return first, err
	}
	var peekErr error
	err = raw.Read(func(fd uintptr) (done bool) {
		n, _, err := unix.Recvfrom(int(fd), first[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			return false
		case err != nil:
			peekErr = os.NewSyscallError("recvfrom", err)
		case n == 0:
			peekErr = io.EOF
		case n < len(first):
			return false // more must come
		}
		return true
	})
	return first, errors.Join(err, peekErr)
}

// do runs the handler until it returns.
func (s *Server) do(ctx context.Context, conn *net.UnixConn, c *Command) (code int) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.mu.Lock()
	c.stop = cancel
	if s.closed && c.Lasts {
		cancel(ErrStopped)
	}
	s.mu.Unlock()
	defer context.AfterFunc(ctx, c.Cancel)()

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
			s.opts.Logger.ErrorContext(ctx, "panic contained", "doing", c.Args, "pid", c.Access.Peer.PID, "panic", what, "stack", string(debug.Stack()))
			_, _ = fmt.Fprintf(c.Stderr, "internal error: %v\n", what)
		}
	}()
	return s.handle(ctx, c)
}

// Cancel ends reading from the client's descriptors and writing to them: to its error output a moment later, for the handler
// may want to say something about its end, but nobody need be there to listen. It happens by itself when the command's
// context ends.
func (c *Command) Cancel() {
	c.Stdin.cancel()
	c.Stdout.cancel()
	time.AfterFunc(lastWords, c.Stderr.cancel)
}

// Running returns the commands being done, the oldest first, without their streams.
func (s *Server) Running() []Command {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Command, 0, len(s.running))
	for _, c := range s.running {
		all = append(all, Command{
			Args: c.Args, Dir: c.Dir, Env: c.Env, Access: c.Access, Guest: c.Guest, Lasts: c.Lasts, Since: c.Since,
		})
	}
	return all
}

// Stop ends the contexts of all commands, now and from now on.
func (s *Server) Stop() { s.all(ErrStopped) }

// Drain goes on serving until nobody is being served, and then closes the server: who comes later finds nobody. If ctx
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
		idle := s.whenIdle()
		s.mu.Unlock()
		<-idle
	}
	return s.Shut(ctx)
}

// Refuse turns away who comes from now on, and stops the commands that would last. Drain or Shut must follow.
func (s *Server) Refuse() error {
	s.mu.Lock()
	s.closed = true
	entrances := s.entrances
	s.entrances = nil
	for _, c := range s.running {
		if c.Lasts && c.stop != nil {
			c.stop(ErrStopped)
		}
	}
	s.mu.Unlock()
	var errs []error
	for _, e := range entrances {
		// The name goes first: who still finds the socket is turned away and tries again.
		if e.Path != "" {
			errs = append(errs, os.Remove(e.Path))
		}
		errs = append(errs, e.Listener.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close the owner's socket: %w", err)
	}
	return nil
}

// Shut refuses, waits for those who are being served until ctx ends, and then stops them.
func (s *Server) Shut(ctx context.Context) error {
	defer context.AfterFunc(ctx, s.Stop)()
	err := s.Refuse()
	s.accepting.Wait()
	s.all(nil)
	return err
}

// whenIdle returns a channel that is closed when nobody is being served, which now somebody is. s.mu is held.
func (s *Server) whenIdle() <-chan struct{} {
	if s.idle == nil {
		s.idle = make(chan struct{})
	}
	return s.idle
}
