package cas

import (
	"context"
	"errors"

	"github.com/narfs/narfs/nar/chunk"
)

// frameBuilder gathers chunks.
type frameBuilder struct {
	kind frameKind
	raw  []byte
	ids  []chunk.ID
	lens []uint32
}

// seal has the gathered chunks compressed and appended, in another goroutine.
func (in *ingest) seal(fb *frameBuilder) error {
	if len(fb.ids) == 0 {
		return nil
	}
	select {
	case in.slots <- struct{}{}:
	case <-in.ctx.Done():
		return context.Cause(in.ctx)
	}
	full := *fb
	*fb = frameBuilder{kind: full.kind, raw: in.s.rawBuffer()}
	in.compressor.Go(func() {
		if err := in.s.writeFrame(&full, in.s.opts.Compression, in.pins); err != nil {
			in.cancel(err)
		}
		in.mu.Lock()
		for _, id := range full.ids {
			delete(in.inflight, id)
		}
		in.mu.Unlock()
		in.s.raws.Put(&full.raw)
		if in.s.pending.len() > pendingChunks {
			if err := errors.Join(in.s.room(), in.s.flush(in.ctx)); err != nil {
				in.cancel(err)
			}
		}
		<-in.slots
	})
	return nil
}

// writeFrame compresses a frame and appends it to the log; its chunks are pending then.
func (s *Store) writeFrame(fb *frameBuilder, how Compression, pins *pins) error {
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
		enc := s.fast
		if how == CompressBest {
			enc = s.best
		}
		*packed = enc.EncodeAll(fb.raw, (*packed)[:0])
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
	size := uint32(len(*buf))
	return s.log.append(*buf, func(at position) {
		pins.add(at)
		s.pending.add(fb.ids, at, size, fb.lens, pins)
	})
}

func (s *Store) rawBuffer() []byte {
	if p, _ := s.raws.Get().(*[]byte); p != nil {
		return (*p)[:0]
	}
	return make([]byte, 0, s.opts.FrameSize)
}
