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
	columns, _ := p.size(file)
	return columns
}

// size is that of the terminal that a standard file is, else $COLUMNS or 80, and 24 rows.
func (p *process) size(file any) (columns, rows int) {
	columns, rows = 80, 24
	if n, err := strconv.Atoi(p.getenv("COLUMNS")); err == nil && n > 0 {
		columns = n
	}
	if f, ok := file.(interface{ Fd() uintptr }); ok {
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 {
			columns = int(size.Col)
			if size.Row > 0 {
				rows = int(size.Row)
			}
		}
	}
	return columns, rows
}

// colours reports whether the terminal that a standard file is shows colours.
func (p *process) colours(file any) bool {
	return isTerminal(file) && p.getenv("TERM") != "dumb" && p.getenv("NO_COLOR") == ""
}
