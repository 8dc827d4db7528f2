package closure

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// Writer writes what Nix calls a serialisation: numbers, strings and NARs. Errors stay with it until Flush.
type Writer struct{ b *bufio.Writer }

// NewWriter returns a Writer with a buffer of its own.
func NewWriter(w io.Writer) *Writer { return &Writer{bufio.NewWriterSize(w, 64<<10)} }

// Flush writes what is left in the buffer and returns the first error of all that was written.
func (w *Writer) Flush() error { return w.b.Flush() }

// Write implements io.Writer: raw bytes, without length and padding.
func (w *Writer) Write(p []byte) (int, error) { return w.b.Write(p) }

// Number writes an integer.
func (w *Writer) Number(n uint64) {
	var buf [8]byte
	binary.LittleEndian.PutUint64(buf[:], n)
	_, _ = w.b.Write(buf[:])
}

// Text writes strings.
func (w *Writer) Text(list ...string) {
	for _, s := range list {
		w.Number(uint64(len(s)))
		_, _ = w.b.WriteString(s)
		w.pad(int64(len(s)))
	}
}

// List writes a list of strings.
func (w *Writer) List(list []string) {
	w.Number(uint64(len(list)))
	w.Text(list...)
}

func (w *Writer) pad(n int64) {
	var zero [8]byte
	_, _ = w.b.Write(zero[:(8-n%8)%8])
}

// A node is an entry of a NAR: a file, link, folder, disk or noise.
type node interface{ write(w *Writer) error }

type (
	file struct {
		executable bool
		text       string
	}
	link   string
	folder []entry // sorted by name
	entry  struct {
		name string
		node node
	}
	disk  string   // what is at a path of the file system
	noise struct { // a file of random bytes
		seed [32]byte
		size int64
	}
)

func (f file) write(w *Writer) error {
	w.head(f.executable, int64(len(f.text)))
	_, err := w.b.WriteString(f.text)
	w.pad(int64(len(f.text)))
	w.Text(")")
	return err
}

func (w *Writer) head(executable bool, size int64) {
	w.Text("(", "type", "regular")
	if executable {
		w.Text("executable", "")
	}
	w.Text("contents")
	w.Number(uint64(size))
}

func (n noise) write(w *Writer) error {
	w.head(false, n.size)
	_, err := io.CopyN(w.b, rand.NewChaCha8(n.seed), n.size)
	w.pad(n.size)
	w.Text(")")
	return err
}

func (l link) write(w *Writer) error {
	w.Text("(", "type", "symlink", "target", string(l), ")")
	return nil
}

func (d folder) write(w *Writer) error {
	w.Text("(", "type", "directory")
	for _, e := range d {
		w.Text("entry", "(", "name", e.name, "node")
		if err := e.node.write(w); err != nil {
			return err
		}
		w.Text(")")
	}
	w.Text(")")
	return nil
}

func (d disk) write(w *Writer) error {
	info, err := os.Lstat(string(d))
	if err != nil {
		return err
	}
	switch {
	case info.IsDir():
		found, err := os.ReadDir(string(d)) // sorted by bytes, as a NAR wants it
		if err != nil {
			return err
		}
		list := make(folder, 0, len(found))
		for _, f := range found {
			list = append(list, entry{f.Name(), disk(filepath.Join(string(d), f.Name()))})
		}
		return list.write(w)
	case info.Mode()&os.ModeSymlink != 0:
		target, err := os.Readlink(string(d))
		if err != nil {
			return err
		}
		return link(target).write(w)
	case info.Mode().IsRegular():
		return d.writeFile(w, info)
	}
	return fmt.Errorf("%s is no file, folder or link", string(d))
}

func (d disk) writeFile(w *Writer, info os.FileInfo) error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	w.head(info.Mode()&0o100 != 0, info.Size())
	if n, err := io.Copy(w.b, f); err != nil || n != info.Size() {
		return fmt.Errorf("reading %s: %d of %d bytes: %w", string(d), n, info.Size(), err)
	}
	w.pad(info.Size())
	w.Text(")")
	return nil
}
