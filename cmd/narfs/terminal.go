package main

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// isTerminal reports whether a standard file, of this process or of a client, is a terminal.
func isTerminal(file any) bool {
	f, ok := file.(interface{ Fd() uintptr })
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), getTermios)
	return err == nil
}

// columns is the width of the terminal that a standard file is, else $COLUMNS, else 80.
func (p *process) columns(file any) int {
	if f, ok := file.(interface{ Fd() uintptr }); ok {
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 {
			return int(size.Col)
		}
	}
	if n, err := strconv.Atoi(p.getenv("COLUMNS")); err == nil && n > 0 {
		return n
	}
	return 80
}
