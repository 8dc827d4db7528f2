package lock

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// OwnerFile is the name of the owner's lock in a state directory.
const OwnerFile = "owner.lock"

// OwnedError says that another process owns a state directory.
type OwnedError struct {
	Dir  string
	PID  int    // 0 if unknown
	What string // what the owner does, in its own words; may be empty
}

// Error implements error.
func (e *OwnedError) Error() string {
	who := "another process"
	if e.PID != 0 {
		who = "process " + strconv.Itoa(e.PID)
	}
	if e.What != "" {
		who += " (" + e.What + ")"
	}
	return fmt.Sprintf("state directory %s is in use by %s", e.Dir, who)
}

// Owner is the ownership of a state directory.
type Owner struct {
	f *os.File
}

// Own takes the ownership of a state directory, which must exist, without waiting: it is an *OwnedError if another
// process, or another part of this one, has it. What is said about the owner in such an error is for people. The
// ownership ends with Release, or with the process.
func Own(dir, what string) (*Owner, error) {
	f, err := os.OpenFile(filepath.Join(dir, OwnerFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("own the state directory: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err := owned(dir, f)
		_ = f.Close()
		return nil, err
	}
	if err == nil {
		err = sign(f, what)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("own the state directory: lock %s: %w", f.Name(), err)
	}
	return &Owner{f: f}, nil
}

// sign writes down who the owner is.
func sign(f *os.File, what string) error {
	what = strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, what)
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt(fmt.Appendf(nil, "%d %s\n", os.Getpid(), what), 0)
	return err
}

// maxOwnerLine bounds what is read of an owner's line.
const maxOwnerLine = 1024

func owned(dir string, f *os.File) *OwnedError {
	e := &OwnedError{Dir: dir}
	b, err := io.ReadAll(io.NewSectionReader(f, 0, maxOwnerLine))
	if err != nil {
		return e
	}
	line, _, _ := strings.Cut(string(b), "\n")
	pid, what, _ := strings.Cut(line, " ")
	if n, err := strconv.Atoi(pid); err == nil && n > 0 {
		e.PID, e.What = n, what
	}
	return e
}

// Release gives the ownership back.
func (o *Owner) Release() error {
	_ = o.f.Truncate(0) // else the line would name a process that has left; it is only for people
	// Closing is not enough: a child that is just being started has a copy of the descriptor until its exec.
	err := unix.Flock(int(o.f.Fd()), unix.LOCK_UN)
	return errors.Join(err, o.f.Close())
}
