package nar

import (
	"errors"

	"golang.org/x/sys/unix"
)

// renameNew renames an entry of a directory without replacing another one, which a
// file system may find to have the same name although casefold's rule does not.
func renameNew(dir int, from, to string) error {
	err := unix.RenameatxNp(dir, from, dir, to, unix.RENAME_EXCL)
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EINVAL) { // not on every file system
		return renameIfFree(dir, from, to)
	}
	return err
}
