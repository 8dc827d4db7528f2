package owner

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/internal/wire"
)

// The names of the sockets in a state directory: the owner's own, and the door for all.
const (
	Socket       = "owner.sock"
	PublicSocket = "daemon.sock"
)

// Request is a command line to be handed over.
type Request struct {
	Args  []string // without the program's name
	Dir   string   // where relative paths begin
	Env   []string // NAME=value
	Stdin *os.File
	// Stdout and Stderr are never nil, and neither is Stdin.
	Stdout, Stderr *os.File
	// Lasts says that the command goes on until somebody ends it: owners that will soon leave decline it.
	Lasts bool
	// Door, if not nil, changes the request for an owner of another user, who can or must not do all that is wanted. End is called
	// when the command is done and all that came out of it has been written.
	Door func(*Request) (end func() error, err error)
}

var (
	// ErrAbsent says that nobody listens in a state directory, or that who did has left before he began with the command.
	ErrAbsent = errors.New("no owner listens")
	// ErrTooLong says that a command line is too long to be handed over.
	ErrTooLong = errors.New("the command line is too long for the owner of the state directory")
	// ErrVanished says that the owner has left while it was doing the command.
	ErrVanished = errors.New("the owner of the state directory has vanished; how far the command got is not known")
)

// DeclinedError says that an owner does not do a command. Another time it might.
type DeclinedError struct{ Reason string }

// Error implements error.
func (e *DeclinedError) Error() string {
	return "the owner of the state directory declines: " + e.Reason
}

// ForeignError says that the owner is another user's process.
type ForeignError struct {
	PID int // 0 if unknown
	UID uint32
}

// Error implements error.
func (e *ForeignError) Error() string {
	return fmt.Sprintf("the state directory is in use by process %d of user %d", e.PID, e.UID)
}

// Do hands a request to the owner of a state directory and returns the exit code. When ctx ends, the owner ends the command
// and Do returns its exit code all the same. An owner of another user is asked at its door, if it has one. Errors are ErrAbsent,
// ErrVanished, ErrTooLong, *DeclinedError, *ForeignError, io/fs.ErrPermission and those of writing.
func Do(ctx context.Context, dir string, req Request) (code int, err error) {
	if err := req.fits(); err != nil {
		return 0, err
	}
	code, err = do(ctx, filepath.Join(dir, Socket), req, false)
	if _, foreign := errors.AsType[*ForeignError](err); !foreign && !errors.Is(err, iofs.ErrPermission) {
		return code, err
	}
	code, doorErr := do(ctx, filepath.Join(dir, PublicSocket), req, true)
	if errors.Is(doorErr, ErrAbsent) {
		return 0, err
	}
	return code, doorErr
}

func do(ctx context.Context, socket string, req Request, guest bool) (code int, err error) {
	conn, err := dial(ctx, socket)
	if err != nil {
		return 0, err
	}
	defer conn.Close() //nolint:errcheck // nothing to lose
	who, err := acl.PeerOf(conn)
	if err != nil {
		return 0, fmt.Errorf("owner's credentials: %w", err)
	}
	trusted := who.UID == 0 || who.UID == uint32(os.Geteuid())
	switch {
	case guest:
		var end func() error
		if req.Door != nil {
			if end, err = req.Door(&req); err != nil {
				return 0, err
			}
			defer func(end func() error) { err = errors.Join(err, end()) }(end)
		}
		if req, end, err = relayed(req, !trusted); err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, end()) }()
	case !trusted:
		return 0, &ForeignError{PID: who.PID, UID: who.UID}
	}
	if err := send(conn, req); err != nil {
		return 0, absent(err)
	}
	r := wire.NewReader(conn)
	if err := begun(r); err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.CloseWrite() })
	defer stop()
	answer, err := r.Uint64()
	if err != nil {
		return 0, ErrVanished
	}
	return int(answer & 0xff), nil
}

// Connect opens a connection to the door of an owner, for other protocols than this one.
func Connect(ctx context.Context, dir string) (*net.UnixConn, error) {
	return dial(ctx, filepath.Join(dir, PublicSocket))
}

func dial(ctx context.Context, socket string) (*net.UnixConn, error) {
	name, done, err := address(socket)
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrAbsent
	}
	if err != nil {
		return nil, err
	}
	defer done()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", name)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, ErrAbsent
	}
	if err != nil {
		return nil, fmt.Errorf("owner of %s: %w", filepath.Dir(socket), err)
	}
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		_ = conn.Close()
		return nil, fmt.Errorf("owner of %s: not a unix socket", filepath.Dir(socket))
	}
	return uc, nil
}

// absent says that the other side went away before anything began, if that is what err says.
func absent(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return ErrAbsent
	}
	return fmt.Errorf("hand over: %w", err)
}

func send(conn *net.UnixConn, req Request) error {
	fds := make([]int, 0, descriptors)
	for _, f := range []*os.File{req.Stdin, req.Stdout, req.Stderr} {
		raw, err := f.SyscallConn()
		if err == nil {
			// File.Fd could make a non-blocking description blocking, for all who share it.
			err = raw.Control(func(fd uintptr) { fds = append(fds, int(fd)) })
		}
		if err != nil {
			return err
		}
	}
	defer runtime.KeepAlive(req)
	if n, _, err := conn.WriteMsgUnix([]byte(magic), unix.UnixRights(fds...), nil); err != nil {
		return err
	} else if n != len(magic) {
		return io.ErrShortWrite
	}
	w := wire.NewWriter(conn)
	_ = w.Uint64(version)
	flags := uint64(0)
	if req.Lasts {
		flags |= flagLasts
	}
	_ = w.Uint64(flags)
	_ = w.String(req.Dir)
	for _, list := range [][]string{req.Args, req.Env} {
		_ = w.Uint64(uint64(len(list)))
		for _, s := range list {
			_ = w.String(s)
		}
	}
	return w.Flush()
}

func begun(r *wire.Reader) error {
	yes, err := r.Bool()
	if err != nil {
		return absent(err)
	}
	if yes {
		return nil
	}
	reason, err := r.String(maxReason, "reason")
	if err != nil {
		return absent(err)
	}
	return &DeclinedError{Reason: reason}
}
