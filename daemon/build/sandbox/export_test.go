//go:build linux

package sandbox

import (
	"os"

	"golang.org/x/sys/unix"
)

// Order is what the child is told.
type Order = order

// Sealed and ReadOrder are the way to the child.
func Sealed(o Order) (*os.File, error) { return sealed(o) }

// ReadOrder reads what Sealed has written.
func ReadOrder(f *os.File) (Order, error) { return readOrder(f) }

// Filter returns the filter of system calls.
func Filter() []unix.SockFilter { return filter(architectures()) }
