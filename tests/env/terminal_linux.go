package env

import (
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// Terminal opens a pseudoterminal: its master, and what a program has for its terminal. Both are closed after the test.
func Terminal(tb testing.TB, columns, rows int) (master, terminal *os.File) {
	tb.Helper()
	open := func(name string) *os.File {
		f, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			tb.Skipf("needs pseudoterminals: %v", err)
		}
		tb.Cleanup(func() { _ = f.Close() })
		return f
	}
	master = open("/dev/ptmx")
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		tb.Fatal(err)
	}
	terminal = open("/dev/pts/" + strconv.Itoa(n))
	Resize(tb, master, columns, rows)
	return master, terminal
}

// Resize gives a terminal another size.
func Resize(tb testing.TB, master *os.File, columns, rows int) {
	tb.Helper()
	if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(columns), Row: uint16(rows)}); err != nil {
		tb.Fatal(err)
	}
}
