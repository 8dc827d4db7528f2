package casefold

import (
	"errors"

	"golang.org/x/sys/unix"
)

// pathCaseSensitive is _PC_CASE_SENSITIVE of Darwin's <sys/unistd.h>.
const pathCaseSensitive = 11

// askSystem asks pathconf(2). A file system that has no answer gives EINVAL or ENOTSUP.
func askSystem(dir string) (insensitive, known bool, err error) {
	sensitive, err := unix.Pathconf(dir, pathCaseSensitive)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		return false, false, nil
	}
	return sensitive == 0, err == nil, err
}
