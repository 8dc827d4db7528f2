//go:build unix

package nar

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// DumpOptions says how to read a tree on disk. The zero value reads it as it is.
type DumpOptions struct {
	// CaseHack undoes the renaming of Restore (and of Nix) with the case hack: names
	// lose their suffix, and two that become equal are an error.
	CaseHack bool
}

// Dump writes the NAR of the file, symlink or directory at path, which it does
// not follow. The rules are those of the newest Nix: executable is what its
// owner may execute; sockets, pipes and devices are errors, as are more than
// MaxDepth levels. So is a file whose size changes meanwhile. Hard links, owners,
// times and extended attributes leave no trace.
//
// Small files are read ahead by goroutines of its own, which end before it
// returns; memory and open files are bounded whatever the tree, except for the names
// of the directories on the way down. After an error, w holds the beginning of a NAR.
func Dump(w io.Writer, path string, o DumpOptions) error {
	cwd := here()
	st, err := cwd.stat(path)
	if err != nil {
		return fmt.Errorf("dump %s: %w", path, err)
	}
	d := dumper{out: NewWriter(w), o: o}
	root := diskNode{dir: cwd, disk: path, Header: Header{Depth: 1}}
	root.setKind(kindOfMode(uint32(st.Mode)))
	if root.Type != TypeDirectory {
		root.load(nil)
		if err := d.emit(&root); err != nil {
			return err
		}
		return d.out.Close()
	}
	if err := d.tree(path); err != nil {
		return err
	}
	return d.out.Close()
}

// dumper writes what its readAhead delivers.
type dumper struct {
	out  *Writer
	o    DumpOptions
	bufs [2][]byte // for large files, made when first needed
}

// tree dumps the directory at path.
func (d *dumper) tree(path string) error {
	ahead := startReadAhead(path, d.o)
	defer ahead.stop()
	for b := range ahead.order {
		<-b.ready
		for i := range b.nodes {
			if err := d.emit(&b.nodes[i]); err != nil {
				b.release()
				return err
			}
		}
		ahead.recycle(b)
	}
	return nil
}

// emit writes one node.
func (d *dumper) emit(n *diskNode) error {
	if n.err != nil {
		return n.fail(n.err)
	}
	if n.Type == TypeRegular && n.data == nil && n.Size > 0 {
		return d.large(n)
	}
	if err := d.out.WriteHeader(n.Header); err != nil {
		return n.fail(err)
	}
	if len(n.data) > 0 {
		if _, err := d.out.Write(n.data); err != nil {
			return n.fail(err)
		}
	}
	return nil
}

// pieceSize is how much of a large file is read at once.
const pieceSize = 256 << 10

// large writes a file that is too large to be read ahead with others.
func (d *dumper) large(n *diskNode) error {
	fd, st, err := n.open()
	if err != nil {
		return n.fail(err)
	}
	defer func() { _ = unix.Close(fd) }() // it was only read
	n.Size, n.Executable = st.Size, executable(&st)
	if err := d.out.WriteHeader(n.Header); err != nil {
		return n.fail(err)
	}
	if d.bufs[0] == nil {
		d.bufs = [2][]byte{make([]byte, pieceSize), make([]byte, pieceSize)}
	}
	if n.Size <= pieceSize {
		buf := d.bufs[0][:n.Size]
		if err := readExactly(fd, buf); err != nil {
			return n.fail(err)
		}
		if _, err := d.out.Write(buf); err != nil {
			return n.fail(err)
		}
		return nil
	}
	return d.stream(fd, n)
}

// stream writes the contents of a file, reading the next piece while one is
// written.
func (d *dumper) stream(fd int, n *diskNode) error {
	type piece struct {
		data []byte
		err  error
	}
	pieces := make(chan piece) // unbuffered: a buffer is written before it is filled again
	quit := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(pieces)
		left := n.Size
		for i := 0; left > 0; i++ {
			buf := d.bufs[i%2][:min(left, pieceSize)]
			read := readFull
			if left -= int64(len(buf)); left == 0 {
				read = readExactly
			}
			err := read(fd, buf)
			select {
			case pieces <- piece{buf, err}:
			case <-quit:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	defer func() {
		close(quit)
		<-done
	}()
	for p := range pieces {
		if p.err != nil {
			return n.fail(p.err)
		}
		if _, err := d.out.Write(p.data); err != nil {
			return n.fail(err)
		}
	}
	return nil
}

var errSizeChanged = errors.New("its size changes while it is being read")

// readFull fills buf from a file that must hold that much.
func readFull(fd int, buf []byte) error {
	for len(buf) > 0 {
		n, err := retry(func() (int, error) { return unix.Read(fd, buf) })
		if err != nil {
			return err
		}
		if n == 0 {
			return errSizeChanged
		}
		buf = buf[n:]
	}
	return nil
}

// readExactly fills buf with the rest of a file.
func readExactly(fd int, buf []byte) error {
	if err := readFull(fd, buf); err != nil {
		return err
	}
	return atEnd(fd)
}

// atEnd makes sure that nothing is left to read.
func atEnd(fd int) error {
	var b [1]byte
	n, err := retry(func() (int, error) { return unix.Read(fd, b[:]) })
	if err == nil && n > 0 {
		return errSizeChanged
	}
	return err
}
