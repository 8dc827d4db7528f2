package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// narWriter writes what Nix calls a serialisation: NARs and export streams. It is here because a black-box program asks
// no package of narfs. Errors stay with the bufio.Writer until its Flush.
type narWriter struct{ *bufio.Writer }

func newNARWriter(w io.Writer) narWriter { return narWriter{bufio.NewWriterSize(w, 1<<20)} }

func (w narWriter) number(n uint64) {
	_, _ = w.Write(binary.LittleEndian.AppendUint64(nil, n))
}

func (w narWriter) pad(n int64) {
	var zero [8]byte
	_, _ = w.Write(zero[:(8-n%8)%8])
}

func (w narWriter) text(list ...string) {
	for _, s := range list {
		w.number(uint64(len(s)))
		_, _ = w.WriteString(s)
		w.pad(int64(len(s)))
	}
}

// contents writes a regular file.
func (w narWriter) contents(executable bool, content []byte) {
	w.fileHead(executable, int64(len(content)))
	_, _ = w.Write(content)
	w.pad(int64(len(content)))
	w.text(")")
}

func (w narWriter) fileHead(executable bool, size int64) {
	w.text("(", "type", "regular")
	if executable {
		w.text("executable", "")
	}
	w.text("contents")
	w.number(uint64(size))
}

// tree writes what is at a path of the file system. If change is not nil, it is given the contents of each file and
// each target and returns what to write instead.
func (w narWriter) tree(path string, change func([]byte) []byte) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	switch {
	case info.IsDir():
		entries, err := os.ReadDir(path) // sorted by bytes, as a NAR wants it
		if err != nil {
			return err
		}
		w.text("(", "type", "directory")
		for _, entry := range entries {
			w.text("entry", "(", "name", entry.Name(), "node")
			if err := w.tree(filepath.Join(path, entry.Name()), change); err != nil {
				return err
			}
			w.text(")")
		}
		w.text(")")
	case info.Mode()&os.ModeSymlink != 0:
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		if change != nil {
			target = string(change([]byte(target)))
		}
		w.text("(", "type", "symlink", "target", target, ")")
	case info.Mode().IsRegular():
		return w.file(path, info, change)
	default:
		return fmt.Errorf("%s is no file, folder or link", path)
	}
	return nil
}

func (w narWriter) file(path string, info os.FileInfo, change func([]byte) []byte) error {
	executable := info.Mode()&0o100 != 0
	if change != nil {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		w.contents(executable, change(content))
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	w.fileHead(executable, info.Size())
	if n, err := io.Copy(w, f); err != nil || n != info.Size() {
		return fmt.Errorf("reading %s: %d of %d bytes: %w", path, n, info.Size(), err)
	}
	w.pad(info.Size())
	w.text(")")
	return nil
}

// export writes the paths of a store as nix-store --export does, without references. The NAR of each comes from fn.
func (w narWriter) export(names []string, fn func(i int) error) error {
	for i, name := range names {
		w.number(1)
		w.text("nix-archive-1")
		if err := fn(i); err != nil {
			return err
		}
		const magic = 0x4558494e
		w.number(magic)
		w.text("/nix/store/" + name)
		w.number(0) // references
		w.text("")  // deriver
		w.number(0) // signature, in the past
	}
	w.number(0)
	return w.Flush()
}

// storeName returns the base name of a store path. Its hash says nothing about its contents, as with the output of a
// derivation.
func storeName(salt, name string) string {
	const digits = "0123456789abcdfghijklmnpqrsvwxyz"
	sum := sha256.Sum256([]byte(salt + ":" + name))
	hash := make([]byte, 32)
	for i := range hash {
		hash[i] = digits[sum[i]%32]
	}
	return string(hash) + "-" + name
}
