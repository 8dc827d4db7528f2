package cas

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/narfs/narfs/nar/chunk"
)

// SweepOptions of one sweep. The zero value sweeps.
type SweepOptions struct {
	// Keep returns the objects that were deleted and are still being read. It is called once,
	// after the objects that the store has were marked: who read one that was deleted since
	// began before that, so a list made now has it. An error ends the sweep before it takes
	// anything. It may be nil.
	Keep func() ([]*Object, error)
	// DryRun only counts.
	DryRun bool
	// Compress also rewrites packs of which more than a quarter was stored lightly.
	Compress bool
	// Progress hears of the packs done; it may be nil.
	Progress func(done, total int)
}

// SweepResult says what a sweep did, or would do.
type SweepResult struct {
	Chunks int64 `json:"chunks"` // dead chunks taken out of the index
	Frames int64 `json:"frames"` // frames without a live chunk
	Freed  int64 `json:"freed"`  // bytes given back to the disk, less those of Moved
	Moved  int64 `json:"moved"`  // bytes written again to empty packs
	Packs  int64 `json:"packs"`  // packs removed
}

// thin is when a pack is rewritten: when less than half of what it occupies is needed.
func thin(live, disk int64) bool { return live*2 < disk }

// hole sizes that file systems can give back.
const pageSize = 4096

// Sweep takes away the chunks that no object needs and gives their space back: it removes
// packs without live chunks, rewrites packs that are mostly dead, or damaged where nothing is
// needed, and punches holes into the others. The pack that grows is ended if it is worth
// rewriting. Imports, reads and commits go on meanwhile. An interrupted sweep leaves
// garbage, nothing else, and the next one takes it up.
//
// It returns ErrIndex if the index contradicts the log, and ErrCorrupt if the index does not
// have a chunk that an object names: nothing can be called garbage then, before the index is
// made again, or the object repaired or deleted.
func (s *Store) Sweep(ctx context.Context, opts SweepOptions) (res SweepResult, err error) {
	s.oneSweep.Lock()
	defer s.oneSweep.Unlock()
	defer func() {
		if err != nil {
			err = fmt.Errorf("sweep: %w", err)
		}
	}()
	sw := &sweep{s: s, opts: opts, res: &res}
	defer s.changes.watch()()
	if err := sw.begin(ctx); err != nil {
		return res, err
	}
	defer sw.end()
	for _, step := range []func(context.Context) error{sw.markLive, sw.sealLast, sw.takeOut, sw.giveBack} {
		if err := step(ctx); err != nil {
			return res, err
		}
	}
	return res, nil
}

type sweep struct {
	s       *Store
	opts    SweepOptions
	res     *SweepResult
	limit   position // frames from here on are not looked at
	growing uint32   // the pack that is not rewritten, since frames are appended to it; 0 for none
	m       *marks
	moved   atomic.Int64 // bytes written again, not counted in res yet
}

// begin lists the frames that stand in the log, and publishes the marks.
func (sw *sweep) begin(ctx context.Context) error {
	s := sw.s
	sw.limit, sw.growing = s.log.front()
	// The checkpoint lies behind every frame that this sweep may take, so that a replay never
	// meets one.
	if err := s.submit(ctx, &commit{checkpoint: true, done: make(chan error, 1)}); err != nil {
		return err
	}
	if !sw.opts.DryRun {
		if err := sw.forgetHoles(ctx); err != nil { // of a sweep that was interrupted
			return err
		}
	}
	sw.m = &marks{packs: map[uint32]*packMarks{}, whole: map[position]struct{}{}}
	said := newLedger()
	for _, id := range s.log.ids() {
		if id > sw.limit.pack {
			break
		}
		pm, err := s.listFrames(id, sw.limit, &sw.m.count, said.add)
		if err != nil {
			return err
		}
		sw.m.packs[id] = pm
	}
	if err := sw.trust(said); err != nil {
		return err
	}
	sw.m.grow()
	s.sweeping.Lock()
	defer s.sweeping.Unlock()
	s.marks = sw.m
	s.pending.forget() // else an import could find a chunk there that the index no longer has
	for _, p := range s.pinned() {
		for _, at := range p.all() {
			sw.m.mark(at, -1)
		}
	}
	return nil
}

func (sw *sweep) end() {
	sw.s.sweeping.Lock()
	defer sw.s.sweeping.Unlock()
	sw.s.marks = nil
}

// listFrames lists a pack's data and blobs frames before limit, giving each chunk one of the
// bits. It also reads the meta frames if records is not nil, and calls it with each record.
func (s *Store) listFrames(id uint32, limit position, bits *uint32, records func(record) error) (*packMarks, error) {
	p, err := s.log.get(id)
	if err != nil {
		return nil, err
	}
	defer p.release()
	gone, err := s.holes(id)
	if err != nil {
		return nil, err
	}
	pm := &packMarks{}
	r := &replayer{s: s}
	gap := func(from, _ int64) error {
		if !(position{id, uint32(from)}).before(limit) {
			return errStop
		}
		pm.broken = true
		return nil
	}
	_, err = s.log.scan(p, packHeaderSize, gap, func(h frameHeader, off int64, _ []byte) error {
		if !(position{id, uint32(off)}).before(limit) {
			return errStop
		}
		if h.kind == kindMeta {
			pm.metas += h.size()
			if records == nil {
				return nil
			}
			payload, err := r.payload(p, h, off)
			if err == nil {
				err = parseRecords(payload, records)
			}
			if errors.Is(err, errBadFrame) {
				return gap(off, off+h.size())
			}
			return err
		}
		f := frameMarks{
			off: uint32(off), size: uint32(h.size()), raw: h.raw, first: *bits, count: h.count,
			light: h.flags&flagLight != 0, gone: gone[uint32(off)],
		}
		if !f.gone {
			pm.disk += h.size()
		}
		pm.frames = append(pm.frames, f)
		*bits += h.count
		return nil
	})
	if errors.Is(err, errStop) {
		err = nil
	}
	return pm, err
}

var errStop = errors.New("stop")

func holesKey(id uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{spaceHoles}, id)
}

func (s *Store) holes(id uint32) (map[uint32]bool, error) {
	b, err := s.index.get(holesKey(id))
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseHoles(b)
}

// markLive marks every chunk that an object needs.
func (sw *sweep) markLive(ctx context.Context) error {
	var keys [][]byte
	err := sw.s.index.scan([]byte{spaceObject}, func(key, _ []byte) error {
		keys = append(keys, bytes.Clone(key))
		return nil
	})
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		o, err := sw.s.Object([32]byte(key[1:]))
		if errors.Is(err, ErrNotFound) {
			continue // deleted meanwhile
		}
		if err == nil {
			err = sw.markObject(o)
		}
		if err != nil {
			return err // an object that cannot be read could need any chunk
		}
	}
	if sw.opts.Keep == nil {
		return nil
	}
	keep, err := sw.opts.Keep()
	if err != nil {
		return err
	}
	for _, o := range keep {
		if err := sw.markObject(o); err != nil {
			return err
		}
	}
	return nil
}

func (sw *sweep) markObject(o *Object) error {
	var ids []chunk.ID
	locs := make([]location, markBatch)
	flush := func() error {
		if err := sw.s.index.lookup(ids, locs); err != nil {
			return err
		}
		for i, loc := range locs[:len(ids)] {
			f := sw.m.frame(loc.frame)
			if loc.size == 0 || loc.frame.before(sw.limit) && (f == nil || f.gone || loc.ord >= uint16(f.count)) {
				// It may be in any frame.
				return fmt.Errorf("%w: object %x: the place of chunk %v is not known", ErrCorrupt, o.info.NarHash, ids[i])
			}
			sw.m.mark(loc.frame, int(loc.ord))
		}
		ids = ids[:0]
		return nil
	}
	err := o.eachChunk(func(id chunk.ID) error {
		if ids = append(ids, id); len(ids) == markBatch {
			return flush()
		}
		return nil
	})
	return errors.Join(err, flush())
}

const markBatch = 256

// eachChunk calls fn with the names of all chunks of an object: its files', its tree's
// and its list's.
func (o *Object) eachChunk(fn func(chunk.ID) error) error {
	if err := o.tree.eachChunk(fn); err != nil {
		return err
	}
	if err := o.list.eachChunk(fn); err != nil {
		return err
	}
	all := chunks{n: o.list.size / int64(chunkRecordSize), blob: o.list}
	return all.each(0, all.n, func(id chunk.ID, _ int64) error { return fn(id) })
}

// takeOut removes dead chunks from the index and syncs it: from then on nobody finds them.
func (sw *sweep) takeOut(ctx context.Context) error {
	type dead struct {
		key []byte
		loc location
	}
	var batch []dead
	remove := func() error {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		sw.s.sweeping.Lock()
		defer sw.s.sweeping.Unlock()
		sw.s.placing.Lock()
		defer sw.s.placing.Unlock()
		ids := make([]chunk.ID, len(batch))
		for i, d := range batch {
			ids[i] = chunk.ID(d.key[1:])
		}
		now := make([]location, len(batch))
		if err := sw.s.index.lookup(ids, now); err != nil {
			return err
		}
		defer sw.s.index.seen.changed()
		wb := sw.s.index.db.NewWriteBatch()
		defer wb.Cancel()
		for i, d := range batch {
			if now[i] != d.loc || !sw.m.dead(d.loc.frame, int(d.loc.ord)) {
				continue // an import stored it again, or found it since
			}
			if err := wb.Delete(d.key); err != nil {
				return err
			}
			sw.res.Chunks++
		}
		batch = batch[:0]
		return wb.Flush()
	}
	err := sw.s.index.scan([]byte{spaceChunk}, func(key, value []byte) error {
		loc, err := parseLocation(value)
		if len(key) != 1+len(chunk.ID{}) {
			err = fmt.Errorf("%w: chunk name of %d bytes in the index", ErrCorrupt, len(key)-1)
		}
		if err != nil || !sw.m.dead(loc.frame, int(loc.ord)) {
			return err
		}
		if sw.opts.DryRun {
			sw.res.Chunks++
			return nil
		}
		if batch = append(batch, dead{bytes.Clone(key), loc}); len(batch) == 1024 {
			return remove()
		}
		return nil
	})
	if err != nil || sw.opts.DryRun {
		return err
	}
	if err := remove(); err != nil {
		return err
	}
	return sw.s.index.db.Sync()
}

// giveBack frees the space of dead frames, pack by pack.
func (sw *sweep) giveBack(ctx context.Context) error {
	ids := make([]uint32, 0, len(sw.m.packs))
	for id := range sw.m.packs {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for i, id := range ids {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		err := sw.pack(ctx, id, i == 0)
		sw.s.moved.Add(1)
		if err != nil {
			return fmt.Errorf("%s: %w", packName(id), err)
		}
		if sw.opts.Progress != nil {
			sw.opts.Progress(i+1, len(ids))
		}
	}
	if sw.opts.DryRun {
		return nil
	}
	if err := sw.s.renewExtents(ctx); err != nil {
		return err
	}
	if sw.res.Chunks > 0 || sw.res.Packs > 0 {
		sw.s.index.merge.Store(true)
		// Tombstones stay in Badger's lowest level until it is compacted (its issue 2329). A second
		// worker finds no tables left and warns of it.
		return sw.s.index.db.Flatten(1)
	}
	return nil
}

// tally is what a sweep knows of a pack.
type tally struct {
	live, light int64 // bytes of frames, as far as their chunks are live; of these, stored lightly
	dead        []frameMarks
}

func (sw *sweep) tally(pm *packMarks) (t tally) {
	for i := range pm.frames {
		f := &pm.frames[i]
		switch n := sw.m.live(f); {
		case f.gone:
		case n == 0:
			t.dead = append(t.dead, *f)
		default:
			t.live += int64(f.size) * int64(n) / int64(f.count)
			if f.light {
				t.light += int64(f.size)
			}
		}
	}
	return t
}

// rewrites reports whether a pack is worth rewriting. On a full disk what is live has no other
// place; holes need none.
func (sw *sweep) rewrites(pm *packMarks, t tally) bool {
	worth := thin(t.live, pm.disk) || sw.opts.Compress && t.light*4 > pm.disk || pm.broken
	return worth && (t.live == 0 || sw.s.room() == nil)
}

// sealLast ends the pack that grows, if it is worth rewriting. Frames that it got since the
// sweep began are live: imports have just written them.
func (sw *sweep) sealLast(ctx context.Context) error {
	s, id := sw.s, sw.growing
	pm := sw.m.packs[id]
	if sw.opts.DryRun || pm == nil || len(pm.frames) == 0 || !sw.rewrites(pm, sw.tally(pm)) {
		return nil
	}
	if err := s.log.seal(id); err != nil {
		return err
	}
	// The index knows every chunk of it then; what is pending stands in the next pack.
	if err := s.submit(ctx, &commit{checkpoint: true, done: make(chan error, 1)}); err != nil {
		return err
	}
	count := sw.m.count - pm.count()
	whole, err := s.listFrames(id, position{pack: id + 1}, &count, nil)
	if err != nil {
		return err
	}
	s.sweeping.Lock()
	defer s.sweeping.Unlock()
	s.pending.forget()
	whole.broken = pm.broken
	sw.m.count = count
	sw.m.grow()
	sw.m.packs[id] = whole
	for _, f := range whole.frames[len(pm.frames):] {
		sw.m.mark(position{id, f.off}, -1)
	}
	sw.growing = 0
	return nil
}

func (sw *sweep) pack(ctx context.Context, id uint32, oldest bool) error {
	pm := sw.m.packs[id]
	t := sw.tally(pm)
	sw.res.Frames += int64(len(t.dead))
	switch {
	case sw.opts.DryRun:
		for _, f := range t.dead {
			sw.res.Freed += int64(f.size)
		}
		return nil
	case id != sw.growing && sw.rewrites(pm, t):
		if gone, err := sw.rewrite(ctx, id, pm, oldest); gone || err != nil {
			return err
		}
	}
	if len(t.dead) == 0 {
		return nil
	}
	return sw.punch(ctx, id, pm, t.dead)
}

// punch writes down that frames are gone and gives their pages back.
func (sw *sweep) punch(ctx context.Context, id uint32, pm *packMarks, dead []frameMarks) error {
	var gone []uint32
	for _, f := range pm.frames {
		if f.gone {
			gone = append(gone, f.off)
		}
	}
	for _, f := range dead {
		gone = append(gone, f.off)
	}
	slices.Sort(gone)
	rec := record{holesKey(id), appendHoles([]byte{}, gone)}
	if err := sw.s.submit(ctx, &commit{recs: []record{rec}, done: make(chan error, 1)}); err != nil {
		return err
	}
	p, err := sw.s.log.get(id)
	if err != nil {
		return err
	}
	defer p.release()
	// Headers stay: a scan steps from one to the next.
	for _, f := range dead {
		lo := (int64(f.off) + frameHeaderSize + int64(f.count)*lengthSize + pageSize - 1) &^ (pageSize - 1)
		hi := (int64(f.off) + int64(f.size)) &^ (pageSize - 1)
		if lo >= hi {
			continue
		}
		err := p.file.PunchHole(lo, hi-lo)
		if errors.Is(err, errors.ErrUnsupported) {
			return nil // the space comes back when the pack is thin enough to be rewritten
		}
		if err != nil {
			return err
		}
		sw.res.Freed += hi - lo
	}
	return nil
}
