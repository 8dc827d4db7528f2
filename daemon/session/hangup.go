package session

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// ErrHangup is the cause of the end of the context of a session whose client is gone.
var ErrHangup = errors.New("the client has hung up")

// isEnd reports whether an error says that there is nobody at the other end of a stream.
func isEnd(err error) bool {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, unix.EPIPE, unix.ECONNRESET} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}

// noteEnd takes down that the client's stream has ended, if an error of its says so.
func (s *Session) noteEnd(err error) {
	if isEnd(err) {
		s.gone.Store(true)
	}
}

// HungUp reports whether what the session ended with is that its client went away in the middle of something, which clients do every day.
func (s *Session) HungUp(err error) bool {
	return errors.Is(err, ErrHangup) || s.gone.Load() && isEnd(err)
}

// WatchHangup calls gone when nobody is left at the other end of a pipe that is written to, or of a socket, and returns then, or
// when ctx ends. A socket whose other end is only closed for writing has somebody left. Of other files it knows nothing.
// The descriptor must stay open until it returns.
func WatchHangup(ctx context.Context, fd uintptr, gone func()) error {
	// Closing the other end of this pipe ends the waiting.
	end, stop, err := os.Pipe()
	if err != nil {
		return err
	}
	defer end.Close() //nolint:errcheck // nothing to lose
	defer context.AfterFunc(ctx, func() { _ = stop.Close() })()
	defer stop.Close() //nolint:errcheck // it may be closed already
	raw, err := end.SyscallConn()
	if err != nil {
		return err
	}
	var pollErr error
	err = raw.Control(func(endFD uintptr) {
		// Errors and hang-ups are told in any case.
		fds := []unix.PollFd{{Fd: int32(fd)}, {Fd: int32(endFD), Events: unix.POLLIN}}
		for {
			_, err := unix.Poll(fds, -1)
			switch {
			case errors.Is(err, unix.EINTR):
			case err != nil:
				pollErr = os.NewSyscallError("poll", err)
				return
			case fds[1].Revents != 0:
				return
			case fds[0].Revents&unix.POLLNVAL != 0:
				pollErr = os.ErrInvalid
				return
			case fds[0].Revents != 0:
				gone()
				return
			}
		}
	})
	return errors.Join(err, pollErr)
}
