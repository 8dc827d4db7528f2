package daemon

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/daemon/build"
	"github.com/narfs/narfs/daemon/build/remote"
	"github.com/narfs/narfs/daemon/owner"
	"github.com/narfs/narfs/daemon/serveproto"
	"github.com/narfs/narfs/daemon/session"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/daemon/workerproto"
)

// Options of a Daemon.
type Options struct {
	// Handle does the command lines that clients hand over; it must not be nil.
	Handle owner.Handler
	// Load reads the settings, at the start and for Reload. Nil means the defaults.
	Load func() (*acl.Settings, error)
	// Public lets other users in, and clients of Nix's protocols, by daemon.sock in the state directory, Listen and Listeners.
	Public bool
	// Listen are further sockets to make, and Listeners such that are there already. Closing does not remove the latter.
	Listen    []string
	Listeners []*net.UnixListener
	// Leaving and Declines are as in owner.Options.
	Leaving  bool
	Declines func(args []string) string
	// SSHOpts are for ssh, as in $NIX_SSHOPTS, which leads to other machines that build.
	SSHOpts string
	// Views, Program and LogDir are as in session.Options.
	Views   session.Views
	Program string
	LogDir  string
	// Logger hears what goes wrong; nil discards.
	Logger *slog.Logger
}

// Daemon serves the clients of an open store. Its methods may be called concurrently.
type Daemon struct {
	opts     Options
	settings atomic.Pointer[acl.Settings]
	sessions *session.Manager
	server   *owner.Server
	builders *remote.Pool
	stateDir string

	doors    sync.Once
	doorsErr error
}

// Start begins to serve those who come to the private socket. It ends by Drain or Shut, not with ctx.
func Start(ctx context.Context, s *store.Store, o Options) (d *Daemon, err error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Load == nil {
		o.Load = func() (*acl.Settings, error) { return acl.Default(), nil }
	}
	d = &Daemon{opts: o, builders: remote.New(s, remote.Options{SSHOpts: o.SSHOpts})}
	if err := d.Reload(); err != nil {
		return nil, err
	}
	settings := d.settings.Load()
	if o.LogDir == "" {
		o.LogDir = filepath.Join(s.StateDir(), "log", "nix")
	}
	var builder *build.Builder
	if o.Views != nil {
		builder, err = build.New(s, build.Options{
			Remote: "unix://" + filepath.Join(s.StateDir(), owner.PublicSocket), Mount: o.Views.Mount, Changed: d.changed, LogDir: o.LogDir, Logger: o.Logger,
			Dial: d.builders.Dial,
		})
		if err != nil {
			return nil, err
		}
	}
	d.sessions = session.NewManager(s, session.Options{
		Settings: d.settings.Load, Memory: settings.MemoryBudget, Views: o.Views, Program: o.Program, LogDir: o.LogDir, Builder: builder, Logger: o.Logger,
	})
	d.server, err = owner.Listen(ctx, s.StateDir(), o.Handle, owner.Options{Leaving: o.Leaving, Declines: o.Declines, Logger: o.Logger, Other: d.other})
	if err != nil {
		return nil, err
	}
	d.stateDir = s.StateDir()
	return d, nil
}

// changed has the mounts show what builds have made.
func (d *Daemon) changed(ctx context.Context) {
	if err := d.opts.Views.Sync(ctx); err != nil {
		d.opts.Logger.WarnContext(ctx, "the mounts do not show yet what was built", "err", err)
	}
}

// OpenDoors lets in the clients for whom Options.Public is set. It is for when they will find all that they expect, such as a mount, and
// may be called again, which does nothing.
func (d *Daemon) OpenDoors(ctx context.Context) error {
	if !d.opts.Public {
		return nil
	}
	d.doors.Do(func() { d.doorsErr = d.openDoors(ctx, d.stateDir) })
	return d.doorsErr
}

func (d *Daemon) openDoors(ctx context.Context, stateDir string) error {
	for _, ln := range d.opts.Listeners {
		d.server.Open(owner.Door{Listener: ln, Admit: d.admit})
	}
	for _, path := range append([]string{filepath.Join(stateDir, owner.PublicSocket)}, d.opts.Listen...) {
		if slices.ContainsFunc(d.opts.Listeners, func(ln *net.UnixListener) bool { return filepath.Clean(ln.Addr().String()) == path }) {
			continue // the service manager has made it, and keeps it
		}
		err := makeFolder(filepath.Dir(path))
		if err != nil {
			return fmt.Errorf("folder of the socket %s: %w", path, err)
		}
		ln, err := owner.ListenUnix(ctx, path, 0o666)
		if err != nil {
			return fmt.Errorf("listen on %s: %w", path, err)
		}
		d.server.Open(owner.Door{Listener: ln, Path: path, Admit: d.admit})
	}
	return nil
}

// makeFolder makes a folder, and those above it, unless it is there, as Nix's daemon does for its socket. Whatever the umask, those that
// it makes let others through.
func makeFolder(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err == nil && !info.IsDir():
		return &os.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	if err := makeFolder(filepath.Dir(dir)); err != nil {
		return err
	}
	switch err := os.Mkdir(dir, 0o755); { //nolint:gosec // as said
	case errors.Is(err, os.ErrExist):
		_, err := os.Stat(dir) // somebody was faster, or it is a link to nothing
		return err
	case err != nil:
		return err
	}
	return os.Chmod(dir, 0o755) //nolint:gosec // as said
}

// RefusedError says that a user may not use the daemon.
type RefusedError struct{ Access acl.Access }

// Error implements error.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("user '%s' is not allowed to connect: %s", e.Access.User, e.Access.Why)
}

func (d *Daemon) admit(p acl.Peer) (acl.Access, error) {
	who := d.Access(p)
	if who.Level == acl.Refused {
		return who, &RefusedError{who}
	}
	return who, nil
}

// Access says what a peer may do, by the settings in force.
func (d *Daemon) Access(p acl.Peer) acl.Access { return d.settings.Load().Access(p) }

// Settings returns the settings in force, which must not be changed.
func (d *Daemon) Settings() *acl.Settings { return d.settings.Load() }

// Sessions returns the sessions.
func (d *Daemon) Sessions() *session.Manager { return d.sessions }

// Reload reads the settings again. Sessions that have begun keep those of their beginning, and after an error all keep
// what was in force.
func (d *Daemon) Reload() error {
	settings, err := d.opts.Load()
	if err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	if d.opts.Public { // else it is there for one command
		for _, text := range settings.Warnings {
			d.opts.Logger.Warn("settings", "warning", text)
		}
	}
	d.settings.Store(settings)
	if d.sessions != nil { // not at the start
		d.sessions.Budget().SetLimit(settings.MemoryBudget)
	}
	return nil
}

// Serve speaks the serve protocol for a command line that was handed over, on its descriptors. Reading and writing must end with the
// session's context. The error is for the client's error output.
func (d *Daemon) Serve(ctx context.Context, s *session.Session, in, out *owner.Stream, o session.ServeOptions) error {
	return d.watched(ctx, s, out.Fd(), func() error { return d.sessions.Serve(ctx, s, in, out, o) })
}

// Work speaks the worker protocol as Serve does the serve protocol. It tells its client about errors by that.
func (d *Daemon) Work(ctx context.Context, s *session.Session, in, out *owner.Stream) error {
	return d.watched(ctx, s, out.Fd(), func() error { return d.sessions.Work(ctx, s, in, out) })
}

// watched calls fn, and ends the session when nobody is left at the other end of a descriptor, which it notes: it is no fault of anybody's.
func (d *Daemon) watched(ctx context.Context, s *session.Session, fd uintptr, fn func() error) error {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if err := session.WatchHangup(ctx, fd, s.Hangup); err != nil {
			d.opts.Logger.WarnContext(ctx, "a client's end will be noticed late", "err", err)
		}
	}()
	defer func() { cancel(); <-watched }()
	err := fn()
	if s.HungUp(err) {
		i := s.Info()
		d.opts.Logger.InfoContext(ctx, "a client has hung up", "session", i.ID, "user", i.User, "pid", i.PID, "doing", i.Doing, "received", i.Received, "sent", i.Sent)
	}
	return err
}

// lastWords is how long a session that has to end may take to tell its client.
const lastWords = time.Second

// other serves who does not come with a command line.
func (d *Daemon) other(ctx context.Context, conn *net.UnixConn, first [8]byte, who acl.Access) error {
	var kind session.Kind
	switch magic := binary.LittleEndian.Uint64(first[:]); magic {
	case serveproto.ClientMagic:
		kind = session.KindServe
	case workerproto.ClientMagic:
		kind = session.KindWorker
	default:
		return fmt.Errorf("it speaks neither of Nix's protocols and hands over no command line: its first number is %#x", magic)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	ctx, s, err := d.sessions.Begin(ctx, kind, who, "", "")
	if err != nil {
		return err
	}
	defer s.End()
	var serveErr error
	err = raw.Control(func(fd uintptr) {
		serveErr = d.watched(ctx, s, fd, func() error {
			defer context.AfterFunc(ctx, func() {
				_ = conn.SetReadDeadline(time.Unix(1, 0))
				_ = conn.SetWriteDeadline(time.Now().Add(lastWords))
			})()
			if kind == session.KindServe {
				return d.sessions.Serve(ctx, s, conn, conn, session.ServeOptions{Write: true})
			}
			return d.sessions.Work(ctx, s, conn, conn)
		})
	})
	if err == nil && s.HungUp(serveErr) {
		return nil
	}
	return errors.Join(err, serveErr)
}

// Idle returns since when there has been nobody to serve; ok is false while there is somebody.
func (d *Daemon) Idle() (since time.Time, ok bool) { return d.server.Idle() }

// Running returns what is being done for clients, the oldest first.
func (d *Daemon) Running() []owner.Command { return d.server.Running() }

// Refuse takes nobody in any more. Drain or Shut must follow.
func (d *Daemon) Refuse() error { return d.server.Refuse() }

// Drain goes on until nobody is being served, and ends. When ctx ends, it ends all sessions.
func (d *Daemon) Drain(ctx context.Context) error {
	defer d.builders.Close()
	return d.server.Drain(ctx)
}

// Shut takes nobody in any more, gives those who are there until the end of ctx, ends their sessions, and returns.
func (d *Daemon) Shut(ctx context.Context) error {
	defer d.builders.Close()
	return d.server.Shut(ctx)
}
