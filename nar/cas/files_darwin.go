package cas

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// syncData asks the drive itself: os.File.Sync is F_FULLFSYNC on Darwin, where fsync alone
// leaves the data in the drive's cache.
func syncData(f *os.File) error { return f.Sync() }

// punchHole is F_PUNCHHOLE (fcntl.h): offset and length must be multiples of the file
// system's block size, which the callers' 4 KiB is on APFS.
func punchHole(f *os.File, off, n int64) error {
	arg := struct {
		flags, reserved uint32
		offset, length  int64
	}{offset: off, length: n}
	const fPunchHole = 99
	_, _, errno := unix.Syscall(unix.SYS_FCNTL, f.Fd(), fPunchHole, uintptr(unsafe.Pointer(&arg)))
	if errors.Is(errno, unix.ENOTSUP) || errors.Is(errno, unix.EINVAL) {
		return fmt.Errorf("punch hole: %w", errors.ErrUnsupported)
	}
	if errno != 0 {
		return os.NewSyscallError("fcntl F_PUNCHHOLE", errno)
	}
	return nil
}
