package owner

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const noSignal = 0 // Go's runtime ignores SIGPIPE for all but the standard descriptors

// maxAddress is the longest name of a socket, less what listen adds.
const maxAddress = 95

// address returns a name for a socket that is short enough, valid until done is called.
func address(path string) (name string, done func(), err error) {
	if len(path) > maxAddress {
		return "", nil, fmt.Errorf("%s: the name is too long for a socket; choose a shorter state directory", path)
	}
	return path, func() {}, nil
}

// reopen cannot: /dev/fd gives the same description again.
func reopen(*os.File, int, bool) (*os.File, error) { return nil, unix.ENOTSUP }

func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TIOCGETA)
	return err == nil
}
