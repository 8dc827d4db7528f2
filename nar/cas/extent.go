package cas

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sort"

	"github.com/narfs/narfs/nar/chunk"
)

// extent is a run of an object's content that stands in one piece in a decoded frame. The content of an object is the
// bytes of all its regular files, one behind the other in NAR order.
//
// Extents say where to read what the list of chunks says by name, so that a read costs a binary search and not a look-up
// in the index for each chunk (6 µs, a quarter of the CPU time of an export). They are a cache of what the index says of
// the chunks, made on import and kept in the index: a sweep may move chunks, and whoever then finds no good frame in the
// old place asks for the chunks by their names. Positions in the log are never used twice, so an old extent leads to the
// same bytes or to none.
type extent struct {
	start int64    // of the run in the content
	frame position // where it stands
	size  uint32   // of the whole frame on disk
	at    uint32   // of the run in the decoded frame
}

// maxExtents bounds the memory for one object's extents: 24 MiB, which are 128 GiB of new data. Objects with more
// have none.
const maxExtents = 1 << 20

// extents are all of an object, or as many of them as one needs, in order and without gaps.
type extents struct {
	list  []extent
	end   int64 // of the last one
	moved int64 // Store.moved when they were made; less than 0 if that was another process
}

// find returns the number of the extent that has the byte at off, which is inside.
func (x *extents) find(off int64) int {
	return sort.Search(len(x.list), func(i int) bool { return x.list[i].start > off }) - 1
}

// bounds returns where the run of extent i begins and ends in the content.
func (x *extents) bounds(i int) (start, end int64) {
	if i+1 < len(x.list) {
		return x.list[i].start, x.list[i+1].start
	}
	return x.list[i].start, x.end
}

// extentBuilder joins places into extents.
type extentBuilder struct {
	extents

	behind uint32 // where the last run ends in its frame
	many   bool   // more than maxExtents
}

// add appends n bytes.
func (b *extentBuilder) add(loc location) {
	start := b.end
	b.end += int64(loc.n)
	if k := len(b.list) - 1; k >= 0 && b.list[k].frame == loc.frame && b.behind == loc.at {
		b.behind += loc.n
		return
	}
	if b.many = b.many || len(b.list) == maxExtents; b.many {
		b.list = nil
		return
	}
	b.list = append(b.list, extent{start: start, frame: loc.frame, size: loc.size, at: loc.at})
	b.behind = loc.at + loc.n
}

// Extents in the index, all integers uvarints but the differences, which are varints:
//
//	bytes of all that follows, number of extents, and for each
//	    length, difference of pack, of offset from the end of the frame before, size, at
const minExtent = 5 // bytes

func (x *extents) encode() []byte {
	if x == nil {
		return nil
	}
	var b []byte
	b = binary.AppendUvarint(b, uint64(len(x.list)))
	pack, behind := uint32(0), uint32(0)
	for i, e := range x.list {
		_, end := x.bounds(i)
		b = binary.AppendUvarint(b, uint64(end-e.start))
		b = binary.AppendVarint(b, int64(e.frame.pack)-int64(pack))
		b = binary.AppendVarint(b, int64(e.frame.off)-int64(behind))
		b = binary.AppendUvarint(b, uint64(e.size))
		b = binary.AppendUvarint(b, uint64(e.at))
		pack, behind = e.frame.pack, e.frame.off+e.size
	}
	return append(binary.AppendUvarint(nil, uint64(len(b))), b...)
}

var errBadExtents = errors.New("bad extents")

// parseExtents reads what encode wrote, without the number of bytes.
func parseExtents(b []byte, content int64) (*extents, error) {
	n, k := binary.Uvarint(b)
	if k <= 0 || n > maxExtents || n > uint64(len(b)/minExtent) {
		return nil, errBadExtents
	}
	b = b[k:]
	x := &extents{list: make([]extent, n), moved: -1}
	pack, behind := int64(0), int64(0)
	uvarint := func(limit uint64) int64 {
		v, k := binary.Uvarint(b)
		if k <= 0 || v > limit {
			n = 0 // bad
			return 0
		}
		b = b[k:]
		return int64(v)
	}
	varint := func(from int64) int64 {
		v, k := binary.Varint(b)
		if k <= 0 || from+v < 0 || from+v > 1<<32-1 {
			n = 0
			return 0
		}
		b = b[k:]
		return from + v
	}
	for i := range x.list {
		e := &x.list[i]
		e.start = x.end
		length := uvarint(maxFrameRaw)
		x.end += length
		pack = varint(pack)
		e.frame = position{uint32(pack), uint32(varint(behind))}
		e.size = uint32(uvarint(1<<24 - 1))
		e.at = uint32(uvarint(maxFrameRaw))
		behind = int64(e.frame.off) + int64(e.size)
		if n == 0 || length == 0 {
			return nil, errBadExtents
		}
	}
	if len(b) > 0 || x.end != content {
		return nil, errBadExtents
	}
	return x, nil
}

// resolve calls fn with the places of an object's chunks in the order of its content, as the index has them now.
func (o *Object) resolve(fn func(location) error) error {
	ids := make([]chunk.ID, 0, markBatch)
	locs := make([]location, markBatch)
	take := func() error {
		if err := o.s.index.lookup(ids, locs); err != nil {
			return err
		}
		for i, id := range ids {
			loc := locs[i]
			if loc.size == 0 {
				var err error
				if loc, err = o.s.locate(id); err != nil {
					return err
				}
			}
			if err := fn(loc); err != nil {
				return err
			}
		}
		ids = ids[:0]
		return nil
	}
	n := o.list.size / int64(chunkRecordSize)
	all := chunks{n: n, blob: o.list}
	err := all.each(0, n, func(id chunk.ID, _ int64) error {
		if ids = append(ids, id); len(ids) == markBatch {
			return take()
		}
		return nil
	})
	if err != nil {
		return err
	}
	return take()
}

// resolveAll makes the extents of an object as the index has its chunks now, nil if they are too many.
func (o *Object) resolveAll() (*extents, error) {
	b := extentBuilder{extents: extents{moved: o.s.moved.Load()}}
	err := o.resolve(func(loc location) error {
		b.add(loc)
		return nil
	})
	if err == nil && b.end != o.content {
		err = fmt.Errorf("%w: chunks of %d bytes in %d", ErrCorrupt, b.end, o.content)
	}
	if err != nil || b.many {
		return nil, err
	}
	return &b.extents, nil
}

// fewChunks is up to how many chunks a reader resolves a whole object for: a tenth of a second. The chunks of others
// are looked up one by one until a sweep or a rebuild has made the extents.
const fewChunks = 16 << 10

// loadExtents sets o.places. o.load is held.
func (o *Object) loadExtents() (err error) {
	o.places, err = o.s.index.extents(o.info.NarHash, o.content)
	if err == nil && o.places == nil && o.list.size/int64(chunkRecordSize) <= fewChunks {
		o.places, err = o.resolveAll()
		if errors.Is(err, ErrCorrupt) {
			err = nil // whoever reads the bytes concerned will hear of it
		}
	}
	return err
}

// renewExtents makes the extents again of those objects of which a chunk has left its place, or that have none.
func (s *Store) renewExtents(ctx context.Context) error {
	holes := map[uint32]map[uint32]bool{} // of the packs that there are
	for _, id := range s.log.ids() {
		gone, err := s.holes(id)
		if err != nil {
			return err
		}
		holes[id] = gone
	}
	there := func(x *extents) bool {
		for _, e := range x.list {
			if gone, ok := holes[e.frame.pack]; !ok || gone[e.frame.off] {
				return false
			}
		}
		return true
	}
	objects, err := s.objects()
	if err != nil {
		return err
	}
	var group []objectExtents
	size := 0
	enter := func() error {
		if len(group) == 0 {
			return nil
		}
		c := &commit{extents: group, done: make(chan error, 1)}
		group, size = nil, 0
		return s.submit(ctx, c)
	}
	for _, h := range objects {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		o, err := s.Object(h)
		if errors.Is(err, ErrNotFound) || errors.Is(err, ErrCorrupt) {
			continue // deleted meanwhile, or verify tells
		}
		if err != nil {
			return err
		}
		if x, err := s.index.extents(h, o.content); err != nil || x != nil && there(x) {
			if err != nil {
				return err
			}
			continue
		}
		x, err := o.resolveAll()
		if errors.Is(err, ErrCorrupt) {
			continue // verify tells
		}
		if err != nil {
			return err
		}
		e := objectExtents{h, x.encode()}
		group, size = append(group, e), size+len(e.encoded)
		if len(group) == renewGroup || size > extentsPart {
			if err := enter(); err != nil {
				return err
			}
		}
	}
	return enter()
}

// renewGroup is of how many objects the extents are entered together.
const renewGroup = 256

// objects returns the names of all objects.
func (s *Store) objects() (all [][32]byte, err error) {
	err = s.index.scan([]byte{spaceObject}, func(key, _ []byte) error {
		if len(key) != 1+len(chunk.ID{}) {
			return fmt.Errorf("%w: object name of %d bytes in the index", ErrCorrupt, len(key)-1)
		}
		all = append(all, [32]byte(key[1:]))
		return nil
	})
	return all, err
}

// stale is called when the place of an extent of x did not have it, and makes the extents again if they may have moved
// since x was made.
func (o *Object) stale(x *extents) {
	o.load.Lock()
	defer o.load.Unlock()
	if o.places != x || x.moved == o.s.moved.Load() || o.list.size/int64(chunkRecordSize) > fewChunks {
		return
	}
	x.moved = o.s.moved.Load() // whatever comes: this is tried once
	if now, err := o.resolveAll(); err == nil && now != nil {
		o.places = now
	}
}
