package cas

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/narfs/narfs/nar/chunk"
)

// replay makes the index know the log from the last checkpoint on, or all of it, and finds
// the log's end.
func (s *Store) replay(all bool) error {
	from, err := s.index.lastCheckpoint()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrIndex, err)
	}
	if all {
		from = logStart
	}
	ids := s.log.ids()
	if len(ids) == 0 || ids[len(ids)-1] < from.pack {
		if from != logStart {
			s.damage = append(s.damage, fmt.Errorf("%w: the log ends before its checkpoint %v", ErrCorrupt, from))
		}
		s.checked = from
		return s.log.resume(from, resumption{})
	}
	if at, _ := slices.BinarySearch(ids, from.pack); at > 0 {
		ids = ids[at:]
	}
	r := &replayer{s: s, holes: map[uint32]map[uint32]bool{}, durable: later(from, position{ids[len(ids)-1], packHeaderSize})}
	for _, id := range ids {
		r.total += max(s.log.packs[id].size-start(from, id), 0)
	}
	for _, id := range ids {
		if err := r.survey(id, start(from, id)); err != nil {
			return err
		}
	}
	end := from
	for i, id := range ids {
		if end, err = r.pack(id, start(from, id), i == len(ids)-1); err != nil {
			return err
		}
	}
	if err := r.flush(); err != nil {
		return err
	}
	if err := s.log.resume(end, resumption{written: r.entered, from: from, damaged: len(s.damage) > 0}); err != nil {
		return err
	}
	if r.entered || all {
		return s.saveCheckpoint(s.log.tail())
	}
	s.checked = s.log.tail() // what stands behind the checkpoint says nothing new
	return nil
}

func start(from position, id uint32) int64 {
	if id == from.pack {
		return int64(from.off)
	}
	return packHeaderSize
}

func later(p, q position) position {
	if p.before(q) {
		return q
	}
	return p
}

// replayer carries what is read between frames.
type replayer struct {
	s       *Store
	holes   map[uint32]map[uint32]bool // pack → offsets of frames that are gone
	durable position                   // the log was once durable up to here
	group   []record                   // of a commit whose last frame was not seen yet
	found   map[chunk.ID]location
	entered bool // something was entered into the index
	buf     []byte

	read, total int64 // bytes of the frames, and of all that there is to read
}

// progress counts a frame, which is looked at twice.
func (r *replayer) progress(h frameHeader) {
	r.read += h.size()
	if r.s.opts.Replay != nil {
		r.s.opts.Replay(r.read/2, r.total)
	}
}

// survey reads what meta frames say of other frames, before any frame is entered: which are
// gone, and how far the log was durable.
func (r *replayer) survey(id uint32, from int64) error {
	p, err := r.s.log.get(id)
	if err != nil {
		return err
	}
	defer p.release()
	_, err = r.s.log.scan(p, from, stepOver, func(h frameHeader, off int64, _ []byte) error {
		r.progress(h)
		if h.kind != kindMeta {
			return nil
		}
		payload, err := r.payload(p, h, off)
		if errors.Is(err, errBadFrame) || err == nil && len(payload) < metaPrefix {
			return nil // told by the second pass
		}
		if err != nil {
			return err
		}
		if told := parsePosition(payload); !(position{id, uint32(off)}).before(told) {
			r.durable = later(r.durable, told)
		}
		return parseRecords(payload, func(rec record) error {
			if rec.key[0] == spaceHoles && len(rec.key) == 5 {
				gone, err := parseHoles(rec.value)
				r.holes[binary.BigEndian.Uint32(rec.key[1:])] = gone
				return err
			}
			return nil
		})
	})
	return err
}

// pack enters one pack's frames into the index and returns where the log ends if this is
// its last pack.
//
// A crash tears frames only at the end of the last pack, because a pack is synced before
// the next begins, and there only behind the position up to which the log was durable. So
// the first broken frame behind that position is the end, and all behind it is cut off. A
// broken frame elsewhere is damage, and what is whole behind it is entered: records that
// name what is lost are how one finds out what that is.
func (r *replayer) pack(id uint32, from int64, last bool) (end position, err error) {
	p, err := r.s.log.get(id)
	if err != nil {
		return end, err
	}
	defer p.release()
	r.group = nil
	durable := int64(math.MaxInt64)
	if last {
		durable = int64(r.durable.off)
	}
	stop := int64(-1)
	broken := func(at, next int64, cause error) error {
		if at >= durable {
			stop = at
			return errStop
		}
		r.s.damage = append(r.s.damage, &frameError{position{id, uint32(at)}, cause})
		// Of a commit in several frames that has lost one, the others count all the same.
		if err := r.apply(); err != nil {
			return err
		}
		if next > durable { // what tore and what was damaged touch
			stop = durable
			return errStop
		}
		return nil
	}
	size, err := r.s.log.scan(p, from,
		func(at, next int64) error {
			return broken(at, next, fmt.Errorf("%w: %d bytes are no frame", errBadFrame, next-at))
		},
		func(h frameHeader, off int64, lengths []byte) error {
			r.progress(h)
			err := r.frame(p, h, position{id, uint32(off)}, slices.Clone(lengths))
			if errors.Is(err, errBadFrame) {
				return broken(off, off+h.size(), err)
			}
			return err
		})
	if err != nil && !errors.Is(err, errStop) {
		return end, err
	}
	if stop < 0 {
		stop = size
	}
	if p.size < from {
		r.s.damage = append(r.s.damage, fmt.Errorf("%s: %w: it ends at %d, before its checkpoint %d", packName(id), ErrCorrupt, p.size, from))
	}
	return position{id, uint32(stop)}, nil
}

func (r *replayer) frame(p *pack, h frameHeader, at position, lengths []byte) error {
	if h.kind == kindMeta {
		return r.meta(p, h, at)
	}
	if r.holes[at.pack][at.off] {
		return nil
	}
	payload, err := r.payload(p, h, int64(at.off))
	if err != nil {
		return err
	}
	ends, err := chunkEnds(nil, lengths, h.raw)
	if err != nil {
		return err
	}
	if r.found == nil {
		r.found = map[chunk.ID]location{}
	}
	begin := uint32(0)
	r.entered = true
	for i, e := range ends {
		r.found[chunk.Sum(payload[begin:e])] = location{frame: at, size: uint32(h.size()), ord: uint16(i), at: begin, n: e - begin}
		begin = e
	}
	if len(r.found) > pendingChunks {
		return r.flush()
	}
	return nil
}

func (r *replayer) flush() error {
	err := r.s.index.putChunks(r.found)
	r.found = nil
	return err
}

func (r *replayer) meta(p *pack, h frameHeader, at position) error {
	payload, err := r.payload(p, h, int64(at.off))
	if err != nil {
		return lostRecords(err)
	}
	err = parseRecords(payload, func(rec record) error {
		r.group = append(r.group, record{slices.Clone(rec.key), slices.Clone(rec.value)})
		return nil
	})
	if err != nil || h.flags&flagMore != 0 {
		return err
	}
	return r.apply()
}

// apply makes the changes of the records gathered so far.
func (r *replayer) apply() error {
	if len(r.group) == 0 {
		return nil
	}
	if err := r.flush(); err != nil {
		return err
	}
	recs := r.group
	r.group, r.entered = nil, true
	return r.s.index.apply(recs)
}

// frameError says that a place in a pack is not what was written there.
type frameError struct {
	at  position
	err error
}

// Error implements error.
func (e *frameError) Error() string { return fmt.Sprintf("%v: %v", e.at, e.err) }

// Unwrap gives the cause, which wraps errBadFrame.
func (e *frameError) Unwrap() error { return e.err }

func noFrame(n int64) error { return fmt.Errorf("%w: %d bytes are no frame", errBadFrame, n) }

func lostRecords(err error) error { return fmt.Errorf("%w: it held records", err) }

// payload reads and decodes a frame's payload; it is valid until the next call.
func (r *replayer) payload(p *pack, h frameHeader, off int64) ([]byte, error) {
	if cap(r.buf) < int(h.stored) {
		r.buf = make([]byte, h.stored)
	}
	b := r.buf[:h.stored]
	if _, err := p.file.ReadAt(b, off+frameHeaderSize+int64(h.lengths())); errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: cut off", errBadFrame)
	} else if err != nil {
		return nil, err
	}
	if checksum(b) != h.payCRC {
		return nil, fmt.Errorf("%w: checksum", errBadFrame)
	}
	if h.codec == codecStored {
		return b, nil
	}
	raw, err := r.s.cache.dec.DecodeAll(b, nil)
	if err != nil || len(raw) != int(h.raw) {
		return nil, fmt.Errorf("%w: decoding: %v", errBadFrame, err)
	}
	return raw, nil
}

// appendHoles and parseHoles write and read the offsets of a pack's frames that are gone.
func appendHoles(b []byte, offs []uint32) []byte {
	last := uint32(0)
	for _, off := range offs {
		b = binary.AppendUvarint(b, uint64(off-last))
		last = off
	}
	return b
}

func parseHoles(b []byte) (map[uint32]bool, error) {
	gone := map[uint32]bool{}
	off := uint64(0)
	for len(b) > 0 {
		d, n := binary.Uvarint(b)
		if n <= 0 || d > 1<<32 || off+d > 1<<32 {
			return nil, fmt.Errorf("%w: list of holes", errBadFrame)
		}
		off += d
		gone[uint32(off)] = true
		b = b[n:]
	}
	return gone, nil
}
