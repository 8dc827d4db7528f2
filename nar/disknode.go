//go:build unix

package nar

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// dirent is an entry of a directory on disk.
type dirent struct {
	name string // in the NAR
	disk string // on disk
	kind entryKind
}

// entryKind is what a directory says of an entry.
type entryKind uint8

const (
	entryUnknown entryKind = iota
	entryDir
	entryFile
	entryLink
	entryOther
)

func kindOfMode(mode uint32) entryKind {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return entryDir
	case unix.S_IFREG:
		return entryFile
	case unix.S_IFLNK:
		return entryLink
	default:
		return entryOther
	}
}

// diskNode is a node on its way from disk to a NAR.
type diskNode struct {
	Header

	dir  *folder // holds a reference for files and symlinks, until load or emit is done
	disk string  // its name in dir
	data []byte  // the contents of a file, if they were read ahead
	err  error   // what kept us from reading it
}

func (n *diskNode) setKind(k entryKind) {
	switch k {
	case entryDir:
		n.Type = TypeDirectory
	case entryFile:
		n.Type = TypeRegular
	case entryLink:
		n.Type = TypeSymlink
	case entryUnknown, entryOther:
		n.err = errors.New("it is no regular file, directory or symlink")
	}
}

// fail adds to an error what was being dumped.
func (n *diskNode) fail(err error) error {
	return fmt.Errorf("dump %s: %w", n.dir.path(n.disk), err)
}

// open opens a file, which may have become something else since it was listed.
// O_NONBLOCK is for pipes and devices: opening must not wait for them.
func (n *diskNode) open() (int, unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := retry(func() (int, error) {
		return unix.Openat(n.dir.fd, n.disk, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return -1, st, err
	}
	err = unix.Fstat(fd, &st)
	if err == nil && kindOfMode(uint32(st.Mode)) != entryFile {
		err = errors.New("it is no regular file any more")
	}
	if err != nil {
		_ = unix.Close(fd) // it was only looked at
		return -1, st, err
	}
	return fd, st, nil
}

func executable(st *unix.Stat_t) bool { return st.Mode&unix.S_IXUSR != 0 }

// load reads what the header lacks, and the contents of a file if they fit the
// free part of buf. It returns buf with them.
func (n *diskNode) load(buf []byte) []byte {
	switch n.Type {
	case TypeSymlink:
		const most = MaxTarget + 1 // a longer target than allowed shows
		free := buf[len(buf):cap(buf)]
		if len(free) < most {
			free = make([]byte, most)
		}
		n.Target, n.err = n.dir.readlink(n.disk, free[:most])
	case TypeRegular:
		fd, st, err := n.open()
		if err != nil {
			n.err = err
			return buf
		}
		n.Size, n.Executable = st.Size, executable(&st)
		if room := int64(cap(buf) - len(buf)); n.Size > 0 && n.Size < room {
			data := buf[len(buf) : int64(len(buf))+n.Size]
			if n.err = readWhole(fd, buf[len(buf):int64(len(buf))+n.Size+1]); n.err == nil {
				n.data = data
				buf = buf[:len(buf)+len(data)]
			}
		}
		_ = unix.Close(fd) // it was only read
	case TypeDirectory: // its entries follow as nodes of their own
	}
	return buf
}

// readWhole reads a file of one byte less than buf has room for. A read that
// falls short of the room has met the end, so that one call is the rule.
func readWhole(fd int, buf []byte) error {
	size, got := len(buf)-1, 0
	for got < size {
		n, err := retry(func() (int, error) { return unix.Read(fd, buf[got:]) })
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		got += n
	}
	if got != size {
		return errSizeChanged
	}
	return nil
}
