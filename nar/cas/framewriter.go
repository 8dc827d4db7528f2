package cas

import (
	"bytes"
	"context"
	"errors"

	"github.com/klauspost/compress/zstd"

	"github.com/narfs/narfs/nar/chunk"
)

// frameBuilder gathers chunks.
type frameBuilder struct {
	kind frameKind
	seq  uint32 // of an import, the number of the frame
	raw  []byte
	ids  []chunk.ID
	lens []uint32
}

// framePlace is where a frame stands.
type framePlace struct {
	at   position
	size uint32
}

// seal has the gathered chunks compressed and appended, in another goroutine.
func (in *ingest) seal(fb *frameBuilder) error {
	if len(fb.ids) == 0 {
		return nil
	}
	if len(fb.raw) <= inlineFrame {
		full := *fb
		*fb = frameBuilder{kind: full.kind, seq: in.nextFrame()}
		return in.writeSealed(&full)
	}
	select {
	case in.slots <- struct{}{}:
	case <-in.ctx.Done():
		return context.Cause(in.ctx)
	}
	full := *fb
	*fb = frameBuilder{kind: full.kind, seq: in.nextFrame()}
	in.compressor.Go(func() {
		if err := in.writeSealed(&full); err != nil {
			in.cancel(err)
		}
		<-in.slots
	})
	return nil
}

// inlineFrame is the size of frames that are compressed by who fills them: for less another goroutine takes longer to begin.
const inlineFrame = 32 << 10

// writeSealed writes a frame of this import.
func (in *ingest) writeSealed(full *frameBuilder) error {
	place, err := in.s.writeFrame(full, in.how, in.pins)
	in.mu.Lock()
	in.frames[full.seq] = place
	for _, id := range full.ids {
		delete(in.inflight, id)
	}
	in.mu.Unlock()
	in.s.raws.Put(&full.raw)
	if err == nil && in.s.pending.len() > pendingChunks {
		err = errors.Join(in.s.room(), in.s.flush(in.ctx))
	}
	return err
}

// writeFrame compresses a frame and appends it to the log; its chunks are pending then.
func (s *Store) writeFrame(fb *frameBuilder, how Compression, pins *pins) (place framePlace, err error) {
	h := frameHeader{kind: fb.kind, count: uint32(len(fb.ids)), raw: uint32(len(fb.raw)), stored: uint32(len(fb.raw))}
	body := fb.raw
	packed, _ := s.packed.Get().(*[]byte)
	if packed == nil {
		packed = new([]byte)
	}
	defer s.packed.Put(packed)
	if how != CompressBest {
		h.flags = flagLight
	}
	if how != CompressNone {
		if how == CompressBest {
			*packed, err = s.compressBest((*packed)[:0], fb.raw)
		} else {
			*packed = s.fast.EncodeAll(fb.raw, (*packed)[:0])
		}
		if err != nil {
			return place, err
		}
		if worthIt(len(*packed), len(fb.raw)) {
			h.codec, h.stored, body = codecZstd, uint32(len(*packed)), *packed
		}
	}
	buf, _ := s.framed.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
	}
	defer s.framed.Put(buf)
	*buf = appendFrame((*buf)[:0], s.log.marker, h, fb.lens, body)
	place.size = uint32(len(*buf))
	err = s.log.append(*buf, func(at position) {
		place.at = at
		pins.add(at)
		s.pending.add(fb.ids, at, place.size, fb.lens, pins)
	})
	return place, err
}

// compressBlock is how many bytes of a frame are compressed as one block. Whoever needs the beginning only can leave the
// rest of the blocks as they are, and blocks of 32 KiB take half a percent less than those of 128 KiB. CompressFast makes
// blocks of 64 KiB.
const compressBlock = 32 << 10

// compressBest appends the compressed src to dst.
func (s *Store) compressBest(dst, src []byte) ([]byte, error) {
	enc, _ := s.best.Get().(*zstd.Encoder)
	if enc == nil {
		var err error
		if enc, err = newEncoder(zstd.SpeedBestCompression, 1); err != nil {
			return nil, err
		}
	}
	defer s.best.Put(enc)
	out := bytes.NewBuffer(dst)
	// Decoders that know the size decode straight into a buffer of that size, twice as fast.
	enc.ResetContentSize(out, int64(len(src)))
	for len(src) > compressBlock {
		_, err := enc.Write(src[:compressBlock])
		if err = errors.Join(err, enc.Flush()); err != nil {
			return nil, err
		}
		src = src[compressBlock:]
	}
	_, err := enc.Write(src)
	err = errors.Join(err, enc.Close())
	return out.Bytes(), err
}

func (s *Store) rawBuffer() []byte {
	if p, _ := s.raws.Get().(*[]byte); p != nil {
		return (*p)[:0]
	}
	return make([]byte, 0, s.opts.FrameSize)
}
