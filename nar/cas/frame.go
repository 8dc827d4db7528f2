package cas

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Sizes of the format; see the package comment.
const (
	packHeaderSize  = 32
	frameHeaderSize = 32
	lengthSize      = 3 // of a chunk's length in a frame
	maxFrameRaw     = 1 << 20
	maxMetaRaw      = 4 << 20
	maxFrameChunks  = 8192
	formatVersion   = 1
)

type frameKind uint8

const (
	kindData  frameKind = 1
	kindBlobs frameKind = 2
	kindMeta  frameKind = 3
)

type codec uint8

const (
	codecStored codec = 0
	codecZstd   codec = 1
)

const (
	// flagMore, of a meta frame, says that the commit goes on in the next frame.
	flagMore = 1
	// flagLight, of the others, says that compressing was put off.
	flagLight = 2
)

type marker [8]byte

var (
	packMagic  = [8]byte{'n', 'a', 'r', 'f', 'p', 'a', 'c', 'k'} //nolint:gochecknoglobals // a constant
	castagnoli = crc32.MakeTable(crc32.Castagnoli)               //nolint:gochecknoglobals // a constant
)

// errBadFrame is the cause of every finding of a frame that is not what was written.
var errBadFrame = errors.New("broken frame")

func checksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

// frameHeader is a frame's header as it stands, without the lengths.
type frameHeader struct {
	kind   frameKind
	codec  codec
	flags  uint8
	count  uint32
	raw    uint32
	stored uint32
	payCRC uint32
}

func (h frameHeader) lengths() int {
	if h.kind == kindMeta {
		return 0
	}
	return int(h.count) * lengthSize
}

// size is the length of the whole frame.
func (h frameHeader) size() int64 {
	return frameHeaderSize + int64(h.lengths()) + int64(h.stored)
}

// check compares h with the limits of the format, before memory is taken for it.
func (h frameHeader) check() error {
	limit := uint32(maxFrameRaw)
	if h.kind == kindMeta {
		limit = maxMetaRaw
	}
	switch {
	case h.kind < kindData || h.kind > kindMeta:
		return fmt.Errorf("%w: kind %d", errBadFrame, h.kind)
	case h.codec > codecZstd:
		return fmt.Errorf("%w: codec %d", errBadFrame, h.codec)
	case h.raw > limit || h.stored > limit || h.codec == codecStored && h.raw != h.stored:
		return fmt.Errorf("%w: %d bytes stored for %d", errBadFrame, h.stored, h.raw)
	case h.kind != kindMeta && h.count > maxFrameChunks:
		return fmt.Errorf("%w: %d chunks", errBadFrame, h.count)
	}
	return nil
}

// appendFrame appends a whole frame to dst. lens are the chunks' lengths.
func appendFrame(dst []byte, m marker, h frameHeader, lens []uint32, payload []byte) []byte {
	start := len(dst)
	dst = append(dst, m[:]...)
	dst = append(dst, byte(h.kind), byte(h.codec), h.flags, 0)
	dst = binary.LittleEndian.AppendUint32(dst, h.count)
	dst = binary.LittleEndian.AppendUint32(dst, h.raw)
	dst = binary.LittleEndian.AppendUint32(dst, h.stored)
	dst = binary.LittleEndian.AppendUint32(dst, checksum(payload))
	crcAt := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	for _, n := range lens {
		dst = append(dst, byte(n), byte(n>>8), byte(n>>16))
	}
	crc := crc32.Update(checksum(dst[start:crcAt]), castagnoli, dst[crcAt+4:])
	binary.LittleEndian.PutUint32(dst[crcAt:], crc)
	return append(dst, payload...)
}

// parseHeader reads the first frameHeaderSize bytes of a frame. Its checksum covers the
// lengths too: see checkHeader.
func parseHeader(b []byte, m marker) (frameHeader, error) {
	if len(b) < frameHeaderSize || marker(b[:8]) != m {
		return frameHeader{}, fmt.Errorf("%w: no frame begins here", errBadFrame)
	}
	h := frameHeader{
		kind: frameKind(b[8]), codec: codec(b[9]), flags: b[10],
		count:  binary.LittleEndian.Uint32(b[12:]),
		raw:    binary.LittleEndian.Uint32(b[16:]),
		stored: binary.LittleEndian.Uint32(b[20:]),
		payCRC: binary.LittleEndian.Uint32(b[24:]),
	}
	return h, h.check()
}

// checkHeader compares the header's checksum; b holds the header and the lengths.
func checkHeader(b []byte, h frameHeader) error {
	crc := crc32.Update(checksum(b[:28]), castagnoli, b[frameHeaderSize:frameHeaderSize+h.lengths()])
	if crc != binary.LittleEndian.Uint32(b[28:]) {
		return fmt.Errorf("%w: header checksum", errBadFrame)
	}
	return nil
}

// chunkEnds turns the lengths of a frame's chunks into the offsets behind their last
// bytes in the decoded payload.
func chunkEnds(dst []uint32, lengths []byte, raw uint32) ([]uint32, error) {
	var end uint32
	for ; len(lengths) > 0; lengths = lengths[lengthSize:] {
		end += uint32(lengths[0]) | uint32(lengths[1])<<8 | uint32(lengths[2])<<16
		dst = append(dst, end)
	}
	if end != raw {
		return nil, fmt.Errorf("%w: chunks of %d bytes in %d", errBadFrame, end, raw)
	}
	return dst, nil
}

func appendPackHeader(dst []byte, id uint32, m marker) []byte {
	start := len(dst)
	dst = append(dst, packMagic[:]...)
	dst = binary.LittleEndian.AppendUint32(dst, formatVersion)
	dst = binary.LittleEndian.AppendUint32(dst, id)
	dst = append(dst, m[:]...)
	dst = append(dst, 0, 0, 0, 0)
	return binary.LittleEndian.AppendUint32(dst, checksum(dst[start:]))
}

func parsePackHeader(b []byte, id uint32) (m marker, err error) {
	switch {
	case len(b) < packHeaderSize || [8]byte(b[:8]) != packMagic || checksum(b[:28]) != binary.LittleEndian.Uint32(b[28:]):
		return m, errPackHeader
	case binary.LittleEndian.Uint32(b[8:]) != formatVersion:
		return m, fmt.Errorf("%w: pack version %d", ErrFormat, binary.LittleEndian.Uint32(b[8:]))
	case binary.LittleEndian.Uint32(b[12:]) != id:
		return m, fmt.Errorf("this is pack %d", binary.LittleEndian.Uint32(b[12:]))
	}
	return marker(b[16:24]), nil
}

// Records: what meta frames hold, behind the position up to which the log was durable
// when they were written.

const metaPrefix = 8

func (p position) encode() []byte {
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, p.pack), p.off)
}

// appendMark appends a meta frame without records, which only says how far the log is durable.
func appendMark(dst []byte, m marker, durable position) []byte {
	h := frameHeader{kind: kindMeta, raw: metaPrefix, stored: metaPrefix}
	return appendFrame(dst, m, h, nil, durable.encode())
}

// parsePosition reads a position from 8 bytes.
func parsePosition(b []byte) position {
	return position{binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])}
}

// record is one change of one key; a nil value deletes it.
type record struct {
	key   []byte
	value []byte
}

const maxKey = 1<<16 - 1

func appendRecord(dst []byte, r record) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(r.key)))
	dst = append(dst, r.key...)
	if r.value == nil {
		return append(dst, 0)
	}
	dst = binary.AppendUvarint(dst, uint64(len(r.value))+1)
	return append(dst, r.value...)
}

// parseRecords calls fn with each record of a meta payload. The slices alias p.
func parseRecords(p []byte, fn func(record) error) error {
	if len(p) < metaPrefix {
		return fmt.Errorf("%w: records of %d bytes", errBadFrame, len(p))
	}
	p = p[metaPrefix:]
	take := func(what string) ([]byte, bool, error) {
		n, k := binary.Uvarint(p)
		if k <= 0 {
			return nil, false, fmt.Errorf("%w: %s", errBadFrame, what)
		}
		p = p[k:]
		if what == "value" {
			if n == 0 {
				return nil, false, nil
			}
			n--
		}
		if n > uint64(len(p)) {
			return nil, false, fmt.Errorf("%w: %s of %d bytes", errBadFrame, what, n)
		}
		b := p[:n:n]
		p = p[n:]
		return b, true, nil
	}
	for len(p) > 0 {
		key, _, err := take("key")
		if err != nil {
			return err
		}
		if len(key) == 0 || len(key) > maxKey {
			return fmt.Errorf("%w: key of %d bytes", errBadFrame, len(key))
		}
		value, put, err := take("value")
		if err != nil {
			return err
		}
		if put && value == nil {
			value = []byte{}
		}
		if err := fn(record{key, value}); err != nil {
			return err
		}
	}
	return nil
}
