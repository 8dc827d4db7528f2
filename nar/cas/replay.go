package cas

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/narfs/narfs/nar/chunk"
)

// replay makes the index know the log from the last checkpoint on, or all of it, and finds
// the log's end.
func (s *Store) replay(rebuild func(done, total int)) error {
	from, err := s.index.lastCheckpoint()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrIndex, err)
	}
	if rebuild != nil {
		from = position{1, packHeaderSize}
	}
	ids := s.log.ids()
	if len(ids) == 0 || ids[len(ids)-1] < from.pack {
		if from != (position{1, packHeaderSize}) {
			s.damage = append(s.damage, fmt.Errorf("%s: %w: the log ends before its checkpoint %v", s.dir, ErrCorrupt, from))
		}
		return s.log.resume(from, true)
	}
	if at, _ := slices.BinarySearch(ids, from.pack); at > 0 {
		ids = ids[at:]
	}
	r := &replayer{s: s, holes: map[uint32]map[uint32]bool{}}
	for _, id := range ids {
		if err := r.scanHoles(id, start(from, id)); err != nil {
			return err
		}
	}
	end, keep := from, false
	for i, id := range ids {
		if end, keep, err = r.pack(id, start(from, id), i == len(ids)-1); err != nil {
			return err
		}
		if rebuild != nil {
			rebuild(i+1, len(ids))
		}
	}
	if err := r.flush(); err != nil {
		return err
	}
	if err := s.log.resume(end, keep); err != nil {
		return err
	}
	if end != from || rebuild != nil {
		return s.index.checkpoint(end)
	}
	return nil
}

func start(from position, id uint32) int64 {
	if id == from.pack {
		return int64(from.off)
	}
	return packHeaderSize
}

// replayer carries what is read between frames.
type replayer struct {
	s     *Store
	holes map[uint32]map[uint32]bool // pack → offsets of frames that are gone
	group []record                   // of a commit whose last frame was not seen yet
	found map[chunk.ID]location
	buf   []byte
}

// scanHoles reads the records about frames that are gone before any frame is entered.
func (r *replayer) scanHoles(id uint32, from int64) error {
	p, err := r.s.log.get(id)
	if err != nil {
		return err
	}
	defer p.release()
	_, err = r.s.log.scan(p, from, func(int64, int64) {}, func(h frameHeader, off int64, _ []byte) error {
		if h.kind != kindMeta {
			return nil
		}
		payload, err := r.payload(p, h, off)
		if errors.Is(err, errBadFrame) {
			return nil // told by the second pass
		}
		if err != nil {
			return err
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
// the next begins, and what was acknowledged there stands before what is torn. So the
// first broken frame of the last pack is the end, and all behind it is cut off, unless a
// meta frame there tells that the log had been durable beyond the break: that is damage.
// Then nothing is cut off (keep) and the log goes on in a new pack.
func (r *replayer) pack(id uint32, from int64, last bool) (end position, keep bool, err error) {
	p, err := r.s.log.get(id)
	if err != nil {
		return end, false, err
	}
	defer p.release()
	r.group = nil
	torn := int64(-1) // where the first break of the last pack is
	broken := func(at int64, err error) {
		r.group = nil
		if last {
			if torn < 0 {
				torn = at
			}
			return
		}
		r.s.damage = append(r.s.damage, fmt.Errorf("%v: %w", position{id, uint32(at)}, err))
	}
	stop, err := r.s.log.scan(p, from, func(at, _ int64) { broken(at, errBadFrame) },
		func(h frameHeader, off int64, lengths []byte) error {
			if torn >= 0 {
				beyond, err := r.durable(p, h, off)
				keep = keep || position{id, uint32(torn)}.before(beyond)
				return err
			}
			err := r.frame(p, h, position{id, uint32(off)}, slices.Clone(lengths))
			if errors.Is(err, errBadFrame) {
				broken(off, err)
				return nil
			}
			return err
		})
	if err != nil {
		return end, false, err
	}
	if torn < 0 {
		torn = stop
	} else if keep {
		r.s.damage = append(r.s.damage, fmt.Errorf("%v: %w in the middle of the log", position{id, uint32(torn)}, errBadFrame))
		torn = stop
	}
	return position{id, uint32(torn)}, keep, nil
}

// durable returns the position that a meta frame tells, and none for other frames.
func (r *replayer) durable(p *pack, h frameHeader, off int64) (position, error) {
	if h.kind != kindMeta {
		return position{}, nil
	}
	payload, err := r.payload(p, h, off)
	if errors.Is(err, errBadFrame) || err == nil && len(payload) < metaPrefix {
		return position{}, nil
	}
	if err != nil {
		return position{}, err
	}
	return parsePosition(payload), nil
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
		return err
	}
	err = parseRecords(payload, func(rec record) error {
		r.group = append(r.group, record{slices.Clone(rec.key), slices.Clone(rec.value)})
		return nil
	})
	if err != nil || h.flags&flagMore != 0 {
		return err
	}
	if err := r.flush(); err != nil {
		return err
	}
	recs := r.group
	r.group = nil
	return r.s.index.apply(recs)
}

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
