package owner

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Stream is a descriptor of a client. Reading and writing end with an error when the command does. One goroutine may read
// and another write.
type Stream struct {
	fd   int
	f    *os.File // of fd
	own  *os.File // for reading and writing: f or another description of the same file
	kind kind

	end  *os.File // read end of a pipe whose other end is closed to cancel; nil if own has deadlines, or never blocks
	stop *os.File // that other end
	once sync.Once
}

// kind says how to wait for a descriptor.
type kind uint8

const (
	direct kind = iota // own does it: files, and what Go's poller knows
	polled             // wait, then read or write a little
	socket             // wait, then read or write without blocking
)

// errEnded is what a cancelled Stream gives.
var errEnded = errors.New("the command has ended")

// atOnce is how much can be written to what is ready without blocking, as far as that can be known: a pipe that has room
// has room for PIPE_BUF bytes.
const atOnce = 512

// newStream makes a Stream of a descriptor, which it takes over.
func newStream(fd int, name string, reads bool) *Stream {
	f := os.NewFile(uintptr(fd), name)
	s := &Stream{fd: fd, f: f, own: f, kind: kindOf(f, fd)}
	if s.kind == direct {
		return s
	}
	if own, err := reopen(f, fd, reads); err == nil {
		// A description of our own can be non-blocking: Go's poller does the waiting.
		s.own, s.kind = own, direct
		return s
	}
	var err error
	if s.end, s.stop, err = os.Pipe(); err != nil {
		s.kind = direct // it may block then
	}
	return s
}

func kindOf(f *os.File, fd int) kind {
	info, err := f.Stat()
	if err != nil {
		return direct
	}
	switch mode := info.Mode(); {
	case mode&os.ModeSocket != 0:
		return socket
	case mode&os.ModeNamedPipe != 0:
		return polled
	case mode&os.ModeCharDevice != 0 && isTerminal(fd):
		return polled
	}
	return direct
}

// harmless reports whether nothing that is done with a descriptor can take for ever without poll telling so, and nothing
// lies behind it that only the owner may touch: pipes, sockets and terminals.
func harmless(fd int) bool {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFIFO, unix.S_IFSOCK:
		return true
	}
	return isTerminal(fd)
}

// Fd returns the descriptor, for asking a terminal about itself. It must not be read from or written to.
func (s *Stream) Fd() uintptr { return uintptr(s.fd) }

// Stat describes the file.
func (s *Stream) Stat() (os.FileInfo, error) { return s.f.Stat() }

// Read implements io.Reader.
func (s *Stream) Read(p []byte) (int, error) {
	if s.kind == direct {
		return ended(s.own.Read(p))
	}
	for {
		if err := s.wait(unix.POLLIN); err != nil {
			return 0, err
		}
		if s.kind != socket {
			return s.own.Read(p)
		}
		n, _, err := unix.Recvfrom(s.fd, p, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("read %s: %w", s.f.Name(), err)
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// Write implements io.Writer.
func (s *Stream) Write(p []byte) (written int, err error) {
	if s.kind == direct {
		return ended(s.own.Write(p))
	}
	for written < len(p) {
		if err := s.wait(unix.POLLOUT); err != nil {
			return written, err
		}
		var n int
		if s.kind == socket {
			n, err = unix.SendmsgN(s.fd, p[written:], nil, nil, unix.MSG_DONTWAIT|noSignal)
			if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
				n, err = 0, nil
			}
		} else {
			n, err = s.own.Write(p[written:min(len(p), written+atOnce)])
		}
		written += max(n, 0)
		if err != nil {
			return written, fmt.Errorf("write %s: %w", s.f.Name(), err)
		}
	}
	return written, nil
}

func ended(n int, err error) (int, error) {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, os.ErrClosed) {
		err = errEnded
	}
	return n, err
}

// wait returns when the descriptor is ready, or the Stream cancelled.
func (s *Stream) wait(events int16) error {
	fds := []unix.PollFd{{Fd: int32(s.fd), Events: events}, {Fd: int32(s.end.Fd()), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for %s: %w", s.f.Name(), err)
		case fds[1].Revents != 0:
			return errEnded
		case fds[0].Revents != 0:
			return nil // also for errors, which reading or writing will tell
		}
	}
}

// cancel ends reading and writing. It may be called more than once, and at any time.
func (s *Stream) cancel() {
	s.once.Do(func() {
		if s.stop != nil {
			_ = s.stop.Close()
		} else {
			_ = s.own.SetDeadline(time.Unix(1, 0)) // files have none, and need none
		}
	})
}

// close closes the descriptor. There must be no reading or writing any more.
func (s *Stream) close() {
	s.cancel()
	if s.end != nil {
		_ = s.end.Close()
	}
	if s.own != s.f {
		_ = s.own.Close()
	}
	_ = s.f.Close()
}
