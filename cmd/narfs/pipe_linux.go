package main

import "golang.org/x/sys/unix"

// pipeSize is what Linux lets everybody have, and 16 times what a pipe has.
const pipeSize = 1 << 20

// wide makes a pipe hold more, so that who writes and who reads need not wait for each other every 64 KiB. What is no pipe
// stays as it is; so does a pipe if its user has too many wide ones.
func wide[F any](file F) F {
	if f, ok := any(file).(interface{ Fd() uintptr }); ok {
		_, _ = unix.FcntlInt(f.Fd(), unix.F_SETPIPE_SZ, pipeSize)
	}
	return file
}
