package owner

import (
	"fmt"
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
	// A descriptor does not let its sender do more than he may himself.
	if mode, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || mode&unix.O_ACCMODE != flags && mode&unix.O_ACCMODE != os.O_RDWR {
		return nil, unix.EBADF
	}
	return os.OpenFile("/proc/self/fd/"+strconv.Itoa(fd), flags|unix.O_NONBLOCK, 0)
}

func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}
