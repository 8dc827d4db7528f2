package owner

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

const noSignal = unix.MSG_NOSIGNAL

// maxAddress is the longest name of a socket, less what listen adds.
const maxAddress = 100

// address returns a name for a socket that is short enough, valid until done is called.
func address(path string) (name string, done func(), err error) {
	if len(path) <= maxAddress {
		return path, func() {}, nil
	}
	fd, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, &os.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", fd, filepath.Base(path)), func() { _ = unix.Close(fd) }, nil
}

// peer is who is at the other end of a connection.
type peer struct {
	PID int // 0 if unknown
	UID uint32
}

func peerOf(conn *net.UnixConn) (p peer, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return p, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err == nil {
		err = credErr
	}
	if err != nil {
		return p, os.NewSyscallError("getsockopt", err)
	}
	return peer{PID: int(cred.Pid), UID: cred.Uid}, nil
}

// reopen opens a pipe once more, for ourselves: flags are those of the description, which others share.
func reopen(f *os.File, fd int, reads bool) (*os.File, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode()&os.ModeNamedPipe == 0 {
		return nil, unix.EINVAL // terminals have side effects, sockets cannot be opened
	}
	flags := os.O_WRONLY
	if reads {
		flags = os.O_RDONLY
	}
	return os.OpenFile("/proc/self/fd/"+strconv.Itoa(fd), flags|unix.O_NONBLOCK, 0)
}

func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}
