//go:build unix

package nar

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// folder is an open directory of a tree on disk. All access to its entries is
// relative to its descriptor and never follows a symlink, so that nobody who
// renames or replaces something in the tree can lead us out of it.
type folder struct {
	fd   int
	up   *folder // nil for the root of the tree
	name string  // on disk: in up, or the path of the root
	refs atomic.Int32
}

// here stands for the process's working directory, in which the path of a root
// is looked up.
func here() *folder { return &folder{fd: unix.AT_FDCWD} }

const openDirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// open opens a directory in f. The result has one reference.
func (f *folder) open(name string) (*folder, error) {
	fd, err := retry(func() (int, error) { return unix.Openat(f.fd, name, openDirFlags, 0) })
	if err != nil {
		return nil, err
	}
	sub := &folder{fd: fd, up: f, name: name}
	if f.fd == unix.AT_FDCWD {
		sub.up = nil
	}
	sub.refs.Store(1)
	return sub, nil
}

// release gives a reference back; the last one closes the descriptor.
func (f *folder) release() {
	if f.refs.Add(-1) == 0 {
		_ = unix.Close(f.fd) // it was only read from, or written to by entries
	}
}

// path is the path of an entry, or of f itself if name is empty, for errors.
func (f *folder) path(name string) string {
	var parts []string
	if name != "" {
		parts = append(parts, name)
	}
	for ; f != nil && f.fd != unix.AT_FDCWD; f = f.up {
		parts = append(parts, f.name)
	}
	var b strings.Builder
	for i, part := range slices.Backward(parts) {
		b.WriteString(part)
		if i > 0 && !strings.HasSuffix(part, "/") {
			b.WriteByte('/')
		}
	}
	return b.String()
}

// stat looks at an entry itself.
func (f *folder) stat(name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstatat(f.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

// readlink reads the target of the symlink name. buf is memory for it.
func (f *folder) readlink(name string, buf []byte) (string, error) {
	n, err := unix.Readlinkat(f.fd, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// retry repeats a system call that a signal interrupted, which FUSE and network
// file systems let happen in spite of SA_RESTART.
func retry[T any](call func() (T, error)) (T, error) {
	for {
		v, err := call()
		if !errors.Is(err, unix.EINTR) {
			return v, err
		}
	}
}
