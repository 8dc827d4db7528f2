package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// bufferSize is the size of a Reader's and of a Writer's buffer. A Token longer than a Reader's buffer (less the
// padding) costs an allocation; everything that Nix sends apart from file contents, build logs and .drv texts is far shorter.
const bufferSize = 64 << 10

// ErrPadding says that the bytes that fill a string up to a multiple of eight are not all zero. The text is Nix's.
var ErrPadding = errors.New("non-zero padding")

// LimitError says that a length or a count in the stream is larger than its reader allows.
type LimitError struct {
	What     string // what was being read, in the caller's words: "symlink target"
	Len, Max uint64 // what the stream said, and the limit
}

// Error implements error.
func (e *LimitError) Error() string {
	return fmt.Sprintf("%s: length %d exceeds the limit of %d", e.What, e.Len, e.Max)
}

// Reader decodes a stream. It reads ahead into its buffer, but asks its source for more only when the buffer does not
// hold what the call needs, so that it never waits for bytes beyond the value that is being read. What stands after that value
// is therefore to be had through this same Reader only.
//
// Methods return io.EOF only where no byte of the value was there, and io.ErrUnexpectedEOF where the stream ends inside it. After
// any error but that io.EOF the position is undefined, and reading on is a mistake. A Reader is not for concurrent use.
type Reader struct {
	src io.Reader
	err error // of src, kept: a source is not asked again once it failed

	buf      []byte // always bufferSize long
	pos, end int    // buf[pos:end] is read from src and not yet consumed
	base     int64  // the stream's offset of buf[0]

	tap    func([]byte) // nil: nobody listens
	tapped int          // buf[tapped:pos] is consumed and not yet passed to tap
}

// NewReader returns a Reader of r; r itself if it is a Reader already, because a second buffer would take bytes that
// belong to what follows.
func NewReader(r io.Reader) *Reader {
	if wr, ok := r.(*Reader); ok {
		return wr
	}
	return &Reader{src: r, buf: make([]byte, bufferSize)}
}

// Reset has the Reader read from another source, as if it were new, with the memory that it has.
func (r *Reader) Reset(src io.Reader) { *r = Reader{src: src, buf: r.buf} }

// Offset returns how many bytes of the stream have been consumed.
func (r *Reader) Offset() int64 { return r.base + int64(r.pos) }

// Tap passes every byte that is consumed from now on to fn, in order and in pieces of any size; fn must not keep them. Pieces
// come late: the last ones when Tap is called again, with nil to end it. So the hash of a NAR is taken beside its parsing,
// though nobody knows where the NAR ends before it is parsed.
func (r *Reader) Tap(fn func(p []byte)) {
	r.flushTap()
	r.tap = fn
	r.tapped = r.pos
}

// flushTap passes on what was consumed from the buffer.
func (r *Reader) flushTap() {
	if r.tap != nil && r.pos > r.tapped {
		r.tap(r.buf[r.tapped:r.pos])
	}
	r.tapped = r.pos
}

// Uint64 reads an integer.
func (r *Reader) Uint64() (uint64, error) {
	if r.end-r.pos < 8 {
		if err := r.fill(8); err != nil {
			return 0, err
		}
	}
	v := binary.LittleEndian.Uint64(r.buf[r.pos:])
	r.pos += 8
	return v, nil
}

// Bool reads an integer of which, as in Nix, every value but zero means true.
func (r *Reader) Bool() (bool, error) {
	v, err := r.Uint64()
	return v != 0, err
}

// Count reads the number of a list's elements. One above limit, which must fit an int, is a *LimitError that names what.
func (r *Reader) Count(limit uint64, what string) (int, error) {
	n, err := r.Uint64()
	if err != nil {
		return 0, err
	}
	if n > limit {
		return 0, &LimitError{What: what, Len: n, Max: limit}
	}
	return int(n), nil
}

// String reads a string of at most limit bytes; a longer one is a *LimitError that names what.
func (r *Reader) String(limit int, what string) (string, error) {
	b, err := r.Token(limit, what)
	return string(b), err
}

// Token reads a string as String does, but returns bytes that are valid only until the next call of any method. It
// allocates for strings of about 64 KiB and longer only, and for these no faster than their bytes arrive.
func (r *Reader) Token(limit int, what string) ([]byte, error) {
	n, err := r.Uint64()
	if err != nil {
		return nil, err
	}
	if n > uint64(limit) {
		return nil, &LimitError{What: what, Len: n, Max: uint64(limit)}
	}
	if n > bufferSize-8 {
		return r.longToken(n)
	}
	size, padded := int(n), int(n+padding(n))
	if r.end-r.pos < padded {
		if err := r.fill(padded); err != nil {
			return nil, unexpected(err)
		}
	}
	b := r.buf[r.pos : r.pos+padded]
	r.pos += padded
	if size&7 != 0 && binary.LittleEndian.Uint64(b[padded-8:])>>(8*(size&7)) != 0 {
		return nil, ErrPadding
	}
	return b[:size:size], nil
}

// longToken reads the n bytes of a string that does not fit the buffer, and its padding. Its memory grows with what
// really comes: a peer that only announces much costs little.
func (r *Reader) longToken(n uint64) ([]byte, error) {
	b := make([]byte, 0, bufferSize)
	for uint64(len(b)) < n {
		b = slices.Grow(b, 1)
		part := b[len(b):min(uint64(cap(b)), n)]
		if _, err := io.ReadFull(r, part); err != nil {
			return nil, unexpected(err)
		}
		b = b[:len(b)+len(part)]
	}
	if err := r.Padding(n); err != nil {
		return nil, err
	}
	return b, nil
}

// Padding reads the zero bytes that follow n bytes of content, up to a multiple of eight; others are ErrPadding. It is for callers
// that take a string apart themselves: its length with Uint64, its bytes with Read.
func (r *Reader) Padding(n uint64) error {
	pad := int(padding(n))
	if r.end-r.pos < pad {
		if err := r.fill(pad); err != nil {
			return unexpected(err)
		}
	}
	b := r.buf[r.pos : r.pos+pad]
	r.pos += pad
	for _, c := range b {
		if c != 0 {
			return ErrPadding
		}
	}
	return nil
}

// Match consumes the next len(lit) bytes if they are lit, and reports whether they were; otherwise it consumes nothing.
// A run of fixed strings is recognised several times faster so than one Token after the other. lit must be no longer
// than 1 KiB. At the end of the stream the answer is false; the next read then tells the error.
func (r *Reader) Match(lit string) bool {
	for {
		have := min(r.end-r.pos, len(lit))
		if string(r.buf[r.pos:r.pos+have]) != lit[:have] {
			return false
		}
		if have == len(lit) {
			r.pos += have
			return true
		}
		if r.fill(have+1) != nil {
			return false
		}
	}
}

// Read implements io.Reader: the bytes as they are, without length or padding. Reads of the buffer's size and more go
// past the buffer once it is empty.
func (r *Reader) Read(p []byte) (int, error) {
	if r.pos == r.end {
		if len(p) >= bufferSize {
			return r.readPast(p)
		}
		if len(p) == 0 {
			return 0, nil
		}
		if err := r.fill(1); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.buf[r.pos:r.end])
	r.pos += n
	return n, nil
}

// Discard consumes the next n bytes.
func (r *Reader) Discard(n int64) error {
	for n > int64(r.end-r.pos) {
		n -= int64(r.end - r.pos)
		r.pos = r.end
		if err := r.fill(1); err != nil {
			return unexpected(err)
		}
	}
	r.pos += int(n)
	return nil
}

// readPast reads from the source straight into p; the buffer is empty.
func (r *Reader) readPast(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.src.Read(p)
	r.err = err
	r.base += int64(n)
	if r.tap != nil && n > 0 {
		r.flushTap()
		r.tap(p[:n])
	}
	if n > 0 {
		err = nil // the bytes first; r.err is kept for the next call
	}
	return n, err
}

// fill reads until the buffer holds n unconsumed bytes; n is at most bufferSize.
func (r *Reader) fill(n int) error {
	if r.pos == r.end || r.pos+n > len(r.buf) {
		r.flushTap()
		copy(r.buf, r.buf[r.pos:r.end])
		r.base += int64(r.pos)
		r.end -= r.pos
		r.pos, r.tapped = 0, 0
	}
	const patience = 100 // empty reads in a row before the source counts as broken, as in bufio
	for empty := 0; r.end-r.pos < n; {
		if r.err != nil {
			if r.end > r.pos {
				return unexpected(r.err)
			}
			return r.err
		}
		m, err := r.src.Read(r.buf[r.end:])
		r.end += m
		r.err = err
		if m > 0 {
			empty = 0
		} else if empty++; empty == patience && err == nil {
			r.err = io.ErrNoProgress
		}
	}
	return nil
}

// unexpected turns the end of the stream into the error for an end inside a value.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// padding returns how many bytes fill n bytes up to a multiple of eight.
func padding(n uint64) uint64 { return -n & 7 }
