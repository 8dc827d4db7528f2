//go:build unix

package nar

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/narfs/narfs/casefold"
)

// RestoreOptions says what Restore makes of a NAR. The zero value makes what
// nix-store --restore makes.
type RestoreOptions struct {
	// CaseHack renames entries that are one to a file system that folds case by
	// Rule (whose zero value is Nix's own), see package casefold.
	CaseHack bool
	Rule     casefold.Rule
	// Canonical gives everything the metadata of Nix's store: nothing is writable,
	// what is executable is so for all, times are 1 second after 1970. Otherwise the
	// umask decides, and times are those of the restoring.
	Canonical bool
	// Limits bounds the entries; zero values mean the usual limits.
	Limits Limits
}

// Restore reads the NAR that begins at r's next byte and makes the tree at
// dest, which must not exist. It reads as NewReader does. It follows no symlink,
// also none that someone puts into the new tree meanwhile. After an error it
// leaves what it has made and says so.
func Restore(r io.Reader, dest string, o RestoreOptions) error {
	rs := restorer{in: NewReader(r, o.Limits), o: o, at: here()}
	err := rs.run(dest)
	if err == nil {
		return nil
	}
	for rs.at.fd != unix.AT_FDCWD {
		rs.leave()
	}
	if rs.begun {
		return fmt.Errorf("restore %s: %w (the incomplete tree is still there)", dest, err)
	}
	return fmt.Errorf("restore %s: %w", dest, err)
}

type restorer struct {
	in *Reader
	o  RestoreOptions

	begun   bool                 // something was made
	at      *folder              // the directory being filled, in the end the working directory
	up      []*folder            // those around it
	hackers [MaxDepth + 2]hacker // by the depth of the entries
	buf     []byte
}

// hacker names the entries of one directory. Without the hack it is nil.
type hacker = *casefold.Hacker

func (rs *restorer) run(dest string) error {
	for {
		h, err := rs.in.Next()
		complete := errors.Is(err, io.EOF)
		if err != nil && !complete {
			return err
		}
		for depth := len(rs.up) + 1; depth > 1 && (complete || depth > h.Depth); depth-- {
			if err := rs.finish(); err != nil {
				return err
			}
		}
		if complete {
			return nil
		}
		name := dest
		if h.Depth > 1 {
			name = h.Name
			if hk := rs.hackers[h.Depth]; hk != nil {
				name = hk.Add(name)
			}
		}
		if err := rs.node(&h, name); err != nil {
			return err
		}
	}
}

// node makes one node.
func (rs *restorer) node(h *Header, name string) (err error) {
	switch h.Type {
	case TypeDirectory:
		err = rs.enter(name)
	case TypeRegular:
		err = rs.file(h, name)
	case TypeSymlink:
		if err = unix.Symlinkat(h.Target, rs.at.fd, name); err == nil {
			rs.begun = true
			err = rs.stampLink(name)
		}
	}
	switch {
	case err == nil || rs.in.err != nil: // the Reader's errors say everything
		return err
	case h.Depth == 1:
		return fmt.Errorf("make %s: %w", h.Type, err)
	case errors.Is(err, unix.EEXIST) && rs.o.CaseHack:
		return fmt.Errorf("make %s: %w: this file system takes more names for one than the rule %s of the case hack", rs.at.path(name), err, rs.o.Rule)
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("make %s: %w: this file system takes two names for one, which the case hack avoids", rs.at.path(name), err)
	default:
		return fmt.Errorf("make %s: %w", rs.at.path(name), err)
	}
}

// What new files and directories are allowed before the umask. A canonical tree
// is open to nobody else until it has its final permissions.
const (
	usualFile, usualDir     = 0o666, 0o777
	privateFile, privateDir = 0o600, 0o700
)

// enter makes a directory and goes there.
func (rs *restorer) enter(name string) error {
	mode := uint32(usualDir)
	if rs.o.Canonical {
		mode = privateDir
	}
	if err := unix.Mkdirat(rs.at.fd, name, mode); err != nil {
		return err
	}
	rs.begun = true
	f, err := rs.at.open(name)
	if err != nil {
		return err
	}
	rs.up = append(rs.up, rs.at)
	rs.at = f
	if rs.o.CaseHack {
		rs.hackers[len(rs.up)+1] = casefold.NewHacker(rs.o.Rule)
	}
	return nil
}

// finish ends the directory being filled and goes back up.
func (rs *restorer) finish() error {
	defer rs.leave()
	if hk := rs.hackers[len(rs.up)+1]; hk != nil {
		for _, r := range hk.Finish() {
			if err := renameNew(rs.at.fd, r.From, r.To); err != nil {
				return fmt.Errorf("rename %s to %q: %w", rs.at.path(r.From), r.To, err)
			}
		}
	}
	if rs.o.Canonical {
		if err := canonical(rs.at.fd, canonicalExec); err != nil {
			return fmt.Errorf("set permissions and time of %s: %w", rs.at.path(""), err)
		}
	}
	return nil
}

func (rs *restorer) leave() {
	rs.hackers[len(rs.up)+1] = nil
	rs.at.release()
	last := len(rs.up) - 1
	rs.at, rs.up = rs.up[last], rs.up[:last]
}

// file makes a regular file.
func (rs *restorer) file(h *Header, name string) error {
	mode := uint32(usualFile)
	if rs.o.Canonical {
		mode = privateFile
	}
	fd, err := retry(func() (int, error) {
		return unix.Openat(rs.at.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	})
	if err != nil {
		return err
	}
	rs.begun = true
	err = rs.contents(fd, h)
	if e := unix.Close(fd); err == nil {
		err = e // network file systems tell of a full disk only now
	}
	return err
}

// contents fills a file and sets its metadata.
func (rs *restorer) contents(fd int, h *Header) error {
	if rs.buf == nil {
		rs.buf = make([]byte, pieceSize)
	}
	for left := h.Size; left > 0; {
		part := rs.buf[:min(left, pieceSize)]
		if _, err := io.ReadFull(rs.in, part); err != nil {
			return err
		}
		left -= int64(len(part))
		if err := writeFull(fd, part); err != nil {
			return err
		}
	}
	switch {
	case rs.o.Canonical && h.Executable:
		return canonical(fd, canonicalExec)
	case rs.o.Canonical:
		return canonical(fd, canonicalFile)
	case h.Executable:
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		// As Nix does: all may execute it, whatever the umask.
		return unix.Fchmod(fd, uint32(st.Mode)&0o7777|0o111)
	}
	return nil
}

// Permissions and time of everything in Nix's store.
const (
	canonicalFile = 0o444
	canonicalExec = 0o555 // and of directories
	canonicalTime = 1     // second after 1970
)

// canonical sets the permissions and time of an open file.
func canonical(fd int, mode uint32) error {
	if err := unix.Fchmod(fd, mode); err != nil {
		return err
	}
	return unix.Futimes(fd, []unix.Timeval{{Sec: canonicalTime}, {Sec: canonicalTime}})
}

// stampLink sets the time of a symlink; its permissions mean nothing.
func (rs *restorer) stampLink(name string) error {
	if !rs.o.Canonical {
		return nil
	}
	times := []unix.Timespec{{Sec: canonicalTime}, {Sec: canonicalTime}}
	return unix.UtimesNanoAt(rs.at.fd, name, times, unix.AT_SYMLINK_NOFOLLOW)
}

func writeFull(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := retry(func() (int, error) { return unix.Write(fd, b) })
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// renameIfFree renames an entry of a directory if no other has the new name. It is
// not atomic: for file systems that offer nothing better.
func renameIfFree(dir int, from, to string) error {
	var st unix.Stat_t
	err := unix.Fstatat(dir, to, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err == nil:
		return unix.EEXIST
	case !errors.Is(err, unix.ENOENT):
		return err
	}
	return unix.Renameat(dir, from, dir, to)
}
