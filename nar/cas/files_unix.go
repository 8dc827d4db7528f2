//go:build linux || darwin

package cas

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

func freeSpace(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:gosec // the field's type differs by system
}

// allocated returns what a file occupies, which is less than its length where it has holes.
func allocated(info os.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int64(st.Blocks) * 512
	}
	return info.Size()
}

// mapFile maps a file into memory, for reading until unmap.
func mapFile(f *os.File) (data []byte, unmap func(), err error) {
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	data, err = unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, &os.PathError{Op: "mmap", Path: f.Name(), Err: err}
	}
	return data, func() { _ = unix.Munmap(data) }, nil // it is a mapping, or Mmap had failed
}

// lockDir locks a folder against other processes, and other parts of this one, until unlockDir.
func lockDir(dir string) (*os.File, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrLocked
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// unlockDir gives the lock back. Closing is not enough: a child that is just being started has a copy of the descriptor
// until its exec.
func unlockDir(d *os.File) error {
	return errors.Join(unix.Flock(int(d.Fd()), unix.LOCK_UN), d.Close())
}
