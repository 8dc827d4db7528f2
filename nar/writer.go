package nar

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/narfs/narfs/internal/wire"
)

// Writer writes one NAR, node by node, and refuses what would not be one. It
// is not for concurrent use.
type Writer struct {
	dst *wire.Writer
	seq sequence
	err error  // the first one; every later call returns it
	buf []byte // the tokens of one header, kept for its memory

	dirs   int   // directories begun and not ended: the depth of the innermost
	inFile bool  // the contents of a file are being written
	size   int64 // of these contents
	left   int64 // what is still to come of them
}

var errClosed = errors.New("write to a closed NAR")

// NewWriter returns a Writer to w. It buffers; Close writes what is left, and
// does not close w.
func NewWriter(w io.Writer) *Writer { return &Writer{dst: wire.NewWriter(w)} }

// WriteHeader begins the next node in NAR order, ending the directories that
// are not above it. The contents of a regular file, exactly h.Size bytes, must
// follow by Write.
func (w *Writer) WriteHeader(h Header) error {
	if w.err != nil {
		return w.err
	}
	b, err := w.appendEnd(w.buf[:0], max(h.Depth, 2))
	if err != nil {
		return w.fail(err)
	}
	if err := w.seq.next(&h); err != nil {
		return w.fail(fmt.Errorf("write %q to a NAR: %w", h.Name, err))
	}
	if h.Depth == 1 {
		b = append(b, runRoot...)
	} else {
		b = append(b, runEntry...)
		b = appendString(b, h.Name)
		b = append(b, runNode...)
	}
	switch h.Type {
	case TypeDirectory:
		b = append(b, tokDirectory...)
		w.dirs = h.Depth
	case TypeSymlink:
		b = append(b, runSymlink...)
		b = appendString(b, h.Target)
		b = appendNodeEnd(b, h.Depth)
	case TypeRegular:
		if h.Executable {
			b = append(b, runExec...)
		} else {
			b = append(b, runFile...)
		}
		b = binary.LittleEndian.AppendUint64(b, uint64(h.Size))
		w.inFile, w.size, w.left = true, h.Size, h.Size
	}
	return w.flush(b)
}

// Write writes contents of the current regular file. More than its header
// announced is an error.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if int64(len(p)) > w.left {
		return 0, w.fail(fmt.Errorf("write %q to a NAR: more contents than the %d bytes announced", w.name(), w.size))
	}
	n, err := w.dst.Write(p)
	w.left -= int64(n)
	if err != nil {
		return n, w.fail(fmt.Errorf("write NAR: %w", err))
	}
	return n, nil
}

// Close ends the NAR and flushes it. It is an error if no root was written or
// contents are missing.
func (w *Writer) Close() error {
	if w.err != nil {
		return w.err
	}
	if w.seq.depth == 0 {
		return w.fail(errors.New("write NAR: no root"))
	}
	b, err := w.appendEnd(w.buf[:0], 1)
	if err != nil {
		return w.fail(err)
	}
	if err := w.flush(b); err != nil {
		return err
	}
	if err := w.dst.Flush(); err != nil {
		return w.fail(fmt.Errorf("write NAR: %w", err))
	}
	w.err = errClosed
	return nil
}

// appendEnd ends the current file, and the directories at depth and below.
func (w *Writer) appendEnd(b []byte, depth int) ([]byte, error) {
	if w.inFile {
		if w.left > 0 {
			return nil, fmt.Errorf("write %q to a NAR: %d of %d bytes of contents are missing", w.name(), w.left, w.size)
		}
		b = append(b, zeros[:padded(w.size)-w.size]...)
		b = appendNodeEnd(b, w.seq.depth)
		w.inFile = false
	}
	for ; w.dirs >= depth; w.dirs-- {
		b = appendNodeEnd(b, w.dirs)
	}
	return b, nil
}

const zeros = "\x00\x00\x00\x00\x00\x00\x00"

// appendNodeEnd ends a node, and its entry if it is not the root.
func appendNodeEnd(b []byte, depth int) []byte {
	if depth == 1 {
		return append(b, tokClose...)
	}
	return append(b, runCloses...)
}

func appendString(b []byte, s string) []byte {
	n := int64(len(s))
	b = binary.LittleEndian.AppendUint64(b, uint64(n))
	b = append(b, s...)
	return append(b, zeros[:padded(n)-n]...)
}

// name is the current node's, for errors.
func (w *Writer) name() string { return w.seq.last[w.seq.depth] }

func (w *Writer) flush(b []byte) error {
	w.buf = b[:0]
	if _, err := w.dst.Write(b); err != nil {
		return w.fail(fmt.Errorf("write NAR: %w", err))
	}
	return nil
}

func (w *Writer) fail(err error) error {
	w.err = err
	return err
}
