package cas

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// syncData asks the drive itself: os.File.Sync is F_FULLFSYNC on Darwin, where fsync alone
// leaves the data in the drive's cache.
func syncData(f *os.File) error { return f.Sync() }

// punchHole is F_PUNCHHOLE (fcntl.h): offset and length must be multiples of the file
// system's block size, which the callers' 4 KiB is on APFS.
func punchHole(f *os.File, off, n int64) error {
	arg := &struct {
		flags, reserved uint32
		offset, length  int64
	}{offset: off, length: n}
	var pin runtime.Pinner // what is passed as a number must not move
	pin.Pin(arg)
	defer pin.Unpin()
	const fPunchHole = 99
	_, err := unix.FcntlInt(f.Fd(), fPunchHole, int(uintptr(unsafe.Pointer(arg))))
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("punch hole: %w", errors.ErrUnsupported)
	}
	return os.NewSyscallError("fcntl F_PUNCHHOLE", err)
}

// bootID names the present run of the system.
func bootID() string {
	id, err := unix.Sysctl("kern.bootsessionuuid")
	if err != nil {
		return ""
	}
	return id
}
