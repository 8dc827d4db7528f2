package cas

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/narfs/narfs/nar/chunk"
)

// chunkRecordSize is an ID and a 48-bit offset.
const chunkRecordSize = len(chunk.ID{}) + 6

// inlineBlob is the largest blob, and the largest list of chunk records, that an object's
// record holds itself.
const (
	inlineBlob = 256
	inlineList = 2 << 10
	maxDepth   = 8 // of lists of lists: more than any blob below 2^60 bytes needs
)

func appendChunkRecord(b []byte, id chunk.ID, end int64) []byte {
	b = append(b, id[:]...)
	return append(b, byte(end), byte(end>>8), byte(end>>16), byte(end>>24), byte(end>>32), byte(end>>40))
}

func parseChunkRecord(b []byte) (id chunk.ID, end int64) {
	copy(id[:], b)
	return id, parseEnd(b[len(id):])
}

func parseEnd(b []byte) int64 {
	return int64(uint64(binary.LittleEndian.Uint32(b)) | uint64(binary.LittleEndian.Uint16(b[4:]))<<32)
}

// blobWriter stores a byte string of any length as chunks, in little memory: the list of
// its chunks is a byte string itself and is stored in the same way when it is long.
type blobWriter struct {
	ctx   context.Context //nolint:containedctx // one call's writer, not kept
	put   func(data []byte) (chunk.ID, error)
	cut   *chunk.Cutter
	size  int64
	buf   []byte
	list  []byte      // chunk records, while they are few
	upper *blobWriter // takes the records once they are many
}

const blobBuffer = 256 << 10

func (w *blobWriter) write(p []byte) error {
	w.size += int64(len(p))
	w.buf = append(w.buf, p...)
	if len(w.buf) < blobBuffer {
		return nil
	}
	return w.drain(false)
}

// drain stores the chunks that buf holds.
func (w *blobWriter) drain(final bool) error {
	if err := w.ctx.Err(); err != nil {
		return context.Cause(w.ctx)
	}
	rest := w.buf
	for {
		n := w.cut.Cut(rest, final)
		if n == 0 {
			w.buf = append(w.buf[:0], rest...)
			return nil
		}
		id, err := w.put(rest[:n])
		if err != nil {
			return err
		}
		rest = rest[n:]
		if err := w.record(id, w.size-int64(len(rest))); err != nil {
			return err
		}
	}
}

func (w *blobWriter) record(id chunk.ID, end int64) error {
	w.list = appendChunkRecord(w.list, id, end)
	if w.upper == nil {
		if len(w.list) <= inlineList {
			return nil
		}
		w.upper = &blobWriter{ctx: w.ctx, put: w.put, cut: w.cut}
	}
	err := w.upper.write(w.list)
	w.list = w.list[:0]
	return err
}

// finish stores the rest and appends the blob's root to dst.
func (w *blobWriter) finish(dst []byte) ([]byte, error) {
	dst = binary.AppendUvarint(dst, uint64(w.size))
	if w.size <= inlineBlob {
		return append(append(dst, 0), w.buf...), nil
	}
	if err := w.drain(true); err != nil {
		return nil, err
	}
	depth := byte(1)
	list := w
	for ; list.upper != nil; depth++ {
		list = list.upper
		if err := list.drain(true); err != nil {
			return nil, err
		}
	}
	dst = append(dst, depth)
	dst = binary.AppendUvarint(dst, uint64(len(list.list)/chunkRecordSize))
	return append(dst, list.list...), nil
}

// chunkSource gives decoded chunks by name: the Store.
type chunkSource interface {
	// piece returns a chunk in its frame, which the caller releases.
	piece(id chunk.ID) (piece, error)
}

// blob is a stored byte string, read at random.
type blob struct {
	src    chunkSource
	size   int64
	inline []byte  // the whole, if list is nil
	list   *chunks // its chunks
}

// chunks is a list of chunk records: held inline, or itself a blob.
type chunks struct {
	n      int64
	inline []byte
	blob   *blob
}

// parseBlob takes a blob's root off the front of b.
func parseBlob(b []byte, src chunkSource) (*blob, []byte, error) {
	bad := func(what string) (*blob, []byte, error) {
		return nil, nil, fmt.Errorf("%w: object record: %s of a blob", ErrCorrupt, what)
	}
	size, n := binary.Uvarint(b)
	if n <= 0 || size > 1<<60 || len(b) < n+1 {
		return bad("size")
	}
	depth := b[n]
	b = b[n+1:]
	if depth == 0 {
		if size > uint64(len(b)) {
			return bad("bytes")
		}
		return &blob{size: int64(size), inline: b[:size:size]}, b[size:], nil
	}
	count, n := binary.Uvarint(b)
	if n <= 0 || depth > maxDepth || count == 0 || count > uint64(len(b)-n)/uint64(chunkRecordSize) {
		return bad("records")
	}
	b = b[n:]
	end := int(count) * chunkRecordSize
	l := &chunks{n: int64(count), inline: b[:end:end]}
	for ; depth > 1; depth-- {
		sz := parseEnd(l.last())
		if sz%int64(chunkRecordSize) != 0 || sz == 0 {
			return bad("list")
		}
		l = &chunks{n: sz / int64(chunkRecordSize), blob: &blob{src: src, size: sz, list: l}}
		if depth > 2 { // the size of the next level stands in this one's last record
			rec := make([]byte, chunkRecordSize)
			if err := l.read(rec, l.n-1); err != nil {
				return nil, nil, err
			}
			l.inline = rec
		}
	}
	return &blob{src: src, size: int64(size), list: l}, b[end:], nil
}

// last returns the offset field of the last record of an inline list.
func (l *chunks) last() []byte { return l.inline[len(l.inline)-6:] }

// read fills p, a multiple of the record size, with the records from number i on.
func (l *chunks) read(p []byte, i int64) error {
	if l.blob != nil {
		return l.blob.readFull(p, i*int64(chunkRecordSize))
	}
	copy(p, l.inline[i*int64(chunkRecordSize):])
	return nil
}

// span is a place in a list: record i, whose chunk covers the bytes start to end.
type span struct {
	i          int64
	id         chunk.ID
	start, end int64
}

// find returns the chunk that covers off among the records from first to first+n, whose
// offsets ascend to size. It guesses by proportion and looks around: cut sizes are even
// enough that two or three reads do.
func (l *chunks) find(first, n, size, off int64) (span, error) {
	if off < 0 || off >= size {
		return span{}, fmt.Errorf("%w: offset %d of %d", ErrCorrupt, off, size)
	}
	lo, hi := first, first+n // the answer is in [lo, hi)
	var rec [chunkRecordSize]byte
	endOf := func(i int64) (int64, error) {
		err := l.read(rec[:], i)
		return parseEnd(rec[len(chunk.ID{}):]), err
	}
	guess := first + int64(float64(off)/float64(size)*float64(n))
	for step := int64(1); lo < hi; step *= 4 {
		i := min(max(guess, lo), hi-1)
		end, err := endOf(i)
		if err != nil {
			return span{}, err
		}
		if end <= off {
			lo = i + 1
			guess = i + step
		} else {
			start := int64(0)
			if i > first {
				if start, err = endOf(i - 1); err != nil {
					return span{}, err
				}
			}
			if start <= off {
				if err := l.read(rec[:], i); err != nil {
					return span{}, err
				}
				id, end := parseChunkRecord(rec[:])
				return span{i, id, start, end}, nil
			}
			hi = i
			guess = i - step
		}
		if step > 16 { // the sizes are not even: halve
			guess = (lo + hi) / 2
		}
	}
	return span{}, fmt.Errorf("%w: no chunk covers offset %d", ErrCorrupt, off)
}

// readFull fills p with the bytes at off.
func (b *blob) readFull(p []byte, off int64) error {
	if off < 0 || off+int64(len(p)) > b.size {
		return fmt.Errorf("%w: %d bytes at %d of a blob of %d", ErrCorrupt, len(p), off, b.size)
	}
	if b.list == nil {
		copy(p, b.inline[off:])
		return nil
	}
	for len(p) > 0 {
		sp, err := b.list.find(0, b.list.n, b.size, off)
		if err != nil {
			return err
		}
		c, err := b.src.piece(sp.id)
		if err != nil {
			return err
		}
		if int64(len(c.data())) != sp.end-sp.start {
			c.release()
			return fmt.Errorf("%w: chunk %v is not of %d bytes", ErrCorrupt, sp.id, sp.end-sp.start)
		}
		n := copy(p, c.data()[off-sp.start:])
		c.release()
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// eachChunk calls fn with the names of all chunks that hold the blob: those of its bytes
// and those of its lists.
func (b *blob) eachChunk(fn func(chunk.ID) error) error {
	if b.list == nil {
		return nil
	}
	if b.list.blob != nil {
		if err := b.list.blob.eachChunk(fn); err != nil {
			return err
		}
	}
	return b.list.each(0, b.list.n, func(id chunk.ID, _ int64) error { return fn(id) })
}

// each calls fn with the records first to first+n.
func (l *chunks) each(first, n int64, fn func(id chunk.ID, end int64) error) error {
	const batch = 128
	buf := make([]byte, batch*chunkRecordSize)
	for i := first; i < first+n; i += batch {
		part := buf[:min(batch, first+n-i)*int64(chunkRecordSize)]
		if err := l.read(part, i); err != nil {
			return err
		}
		for ; len(part) > 0; part = part[chunkRecordSize:] {
			if err := fn(parseChunkRecord(part)); err != nil {
				return err
			}
		}
	}
	return nil
}
