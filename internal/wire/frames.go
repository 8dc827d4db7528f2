package wire

import (
	"errors"
	"io"
)

// Frames reads a stream that is sent in pieces: each a length, which is not 0, and so many bytes without padding; a length of 0
// ends it. The end is io.EOF, and the source then stands behind it. A Frames is not for concurrent use.
type Frames struct {
	src  *Reader
	left uint64 // of the present piece
	err  error  // kept
}

// NewFrames returns a Frames of what src has next.
func NewFrames(src *Reader) *Frames { return &Frames{src: src} }

// Read implements io.Reader.
func (f *Frames) Read(p []byte) (int, error) {
	for f.left == 0 {
		if f.err != nil {
			return 0, f.err
		}
		if f.left, f.err = f.src.Uint64(); f.err != nil {
			f.left, f.err = 0, unexpected(f.err)
		} else if f.left == 0 {
			f.err = io.EOF
		}
	}
	if uint64(len(p)) > f.left {
		p = p[:f.left]
	}
	n, err := f.src.Read(p)
	if f.left -= uint64(n); err != nil {
		f.left, f.err = 0, unexpected(err)
		return n, f.err
	}
	return n, nil
}

// Drain reads to the end of the stream.
func (f *Frames) Drain() error {
	for {
		n := min(f.left, 1<<62)
		if err := f.src.Discard(int64(n)); err != nil {
			f.left, f.err = 0, err
			return err
		}
		f.left -= n
		var none [1]byte
		if _, err := f.Read(none[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// FrameWriter writes what Frames reads, a piece a Write. Close ends the stream; it does not flush the Writer below.
type FrameWriter struct{ dst *Writer }

// NewFrameWriter returns a FrameWriter to dst.
func NewFrameWriter(dst *Writer) *FrameWriter { return &FrameWriter{dst} }

// Write implements io.Writer.
func (f *FrameWriter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := f.dst.Uint64(uint64(len(p))); err != nil {
		return 0, err
	}
	return f.dst.Write(p)
}

// Close implements io.Closer.
func (f *FrameWriter) Close() error { return f.dst.Uint64(0) }
