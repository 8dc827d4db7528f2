package wire

import (
	"bufio"
	"encoding/binary"
	"io"
)

// Writer encodes into a stream, through a buffer: nothing is sure to have been written before Flush. The first error of
// the destination stays; every later call returns it and writes nothing, so that it is enough to look at Flush's. A Writer is not
// for concurrent use.
type Writer struct {
	dst *bufio.Writer
	num [8]byte // the integer on its way, so that it does not escape to the heap each time
}

// NewWriter returns a Writer to w; w itself if it is a Writer already.
func NewWriter(w io.Writer) *Writer {
	if ww, ok := w.(*Writer); ok {
		return ww
	}
	return &Writer{dst: bufio.NewWriterSize(w, bufferSize)}
}

// Uint64 writes an integer.
func (w *Writer) Uint64(v uint64) error {
	binary.LittleEndian.PutUint64(w.num[:], v)
	_, err := w.dst.Write(w.num[:])
	return err
}

// Bool writes 1 for true and 0 for false.
func (w *Writer) Bool(v bool) error {
	if v {
		return w.Uint64(1)
	}
	return w.Uint64(0)
}

// String writes s with its length and its padding.
func (w *Writer) String(s string) error {
	if err := w.Uint64(uint64(len(s))); err != nil {
		return err
	}
	if _, err := w.dst.WriteString(s); err != nil {
		return err
	}
	return w.Padding(uint64(len(s)))
}

// Bytes writes b as String does.
func (w *Writer) Bytes(b []byte) error {
	if err := w.Uint64(uint64(len(b))); err != nil {
		return err
	}
	if _, err := w.dst.Write(b); err != nil {
		return err
	}
	return w.Padding(uint64(len(b)))
}

// Padding writes the zero bytes that follow n bytes of content. It is for callers that put a string together themselves: its
// length with Uint64, its bytes with Write.
func (w *Writer) Padding(n uint64) error {
	_, err := w.dst.WriteString("\x00\x00\x00\x00\x00\x00\x00"[:padding(n)])
	return err
}

// Write implements io.Writer: the bytes as they are, without length or padding. What does not fit the buffer goes past it.
func (w *Writer) Write(p []byte) (int, error) { return w.dst.Write(p) }

// Flush hands everything written so far to the destination.
func (w *Writer) Flush() error { return w.dst.Flush() }
