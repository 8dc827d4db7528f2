//go:build linux

package sandbox

import "golang.org/x/sys/unix"

// Filter returns the filter of system calls.
func Filter() []unix.SockFilter { return filter(architectures()) }
