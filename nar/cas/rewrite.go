package cas

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/narfs/narfs/nar/chunk"
)

// rewrite moves what is live to the end of the log and removes the pack, unless damage keeps it.
// The record about its frames that are gone goes last: without it, they would be damage to who
// reads the pack.
func (sw *sweep) rewrite(ctx context.Context, id uint32, pm *packMarks, oldest bool) (gone bool, err error) {
	moved, whole, err := sw.moveChunks(ctx, id, pm)
	sw.countMoved()
	if err == nil && whole {
		err = sw.moveRecords(ctx, id, pm, oldest)
	}
	if err == nil {
		err = sw.switchOver(ctx, moved)
	}
	if err != nil || !whole {
		return false, err
	}
	if err := sw.s.log.drop(id); err != nil {
		return false, err
	}
	sw.res.Packs++
	sw.res.Freed += pm.disk
	return true, sw.forgetHoles(ctx)
}

// countMoved counts what was written to empty a pack, be it emptied or not: so much less is free.
func (sw *sweep) countMoved() {
	n := sw.moved.Swap(0)
	sw.res.Moved += n
	sw.res.Freed -= n
}

// forgetHoles deletes the records about frames of packs that are gone themselves.
func (sw *sweep) forgetHoles(ctx context.Context) error {
	var recs []record
	ids := sw.s.log.ids()
	err := sw.s.index.scan([]byte{spaceHoles}, func(key, _ []byte) error {
		if _, there := slices.BinarySearch(ids, binary.BigEndian.Uint32(key[1:])); !there {
			recs = append(recs, record{key: bytes.Clone(key)})
		}
		return nil
	})
	if err != nil || len(recs) == 0 {
		return err
	}
	return sw.s.submit(ctx, &commit{recs: recs, done: make(chan error, 1)})
}

// moveChunks appends the live chunks of a pack to the log and returns their new frames. What is
// broken remains, and the pack with it: it is not whole then.
func (sw *sweep) moveChunks(ctx context.Context, id uint32, pm *packMarks) (_ *pins, whole bool, err error) {
	s := sw.s
	whole = true
	moved := &pins{frames: map[position]struct{}{}}
	builders := map[frameKind]*frameBuilder{kindData: {kind: kindData}, kindBlobs: {kind: kindBlobs}}
	how := CompressFast
	if sw.opts.Compress {
		how = CompressBest
	}
	writers, ctx := errgroup.WithContext(ctx)
	writers.SetLimit(s.opts.Workers)
	defer func() {
		if werr := writers.Wait(); err == nil {
			err = werr
		}
	}()
	seal := func(fb *frameBuilder) {
		if len(fb.ids) == 0 {
			return
		}
		full := *fb
		*fb = frameBuilder{kind: full.kind, raw: s.rawBuffer()}
		writers.Go(func() error {
			defer s.raws.Put(&full.raw)
			place, err := s.writeFrame(&full, how, moved)
			sw.moved.Add(int64(place.size))
			return err
		})
	}
	for i := range pm.frames {
		fm := &pm.frames[i]
		if fm.gone || sw.m.live(fm) == 0 {
			continue
		}
		if err := errors.Join(context.Cause(ctx), s.room()); err != nil {
			return nil, false, err
		}
		at := position{id, fm.off}
		f, err := s.cache.get(at, fm.size)
		if errors.Is(err, errBadFrame) {
			s.opts.Logger.ErrorContext(ctx, "damage keeps a pack", "store", s.dir, "error", err)
			whole = false
			continue
		}
		if err != nil {
			return nil, false, err
		}
		fb := builders[f.kind]
		for ord := range f.ends {
			data := f.chunk(ord)
			cid := chunk.Sum(data)
			loc, err := s.locate(cid)
			if errors.Is(err, ErrCorrupt) && !sw.m.needed(at, fm, ord) {
				continue // dead
			}
			if err != nil { // the index has lost what it had when the sweep began
				f.release()
				return nil, false, fmt.Errorf("%w: %w", ErrIndex, err)
			}
			if loc.frame != at || int(loc.ord) != ord {
				continue // kept elsewhere
			}
			if len(fb.raw)+len(data) > s.opts.FrameSize || len(fb.ids) == maxFrameChunks {
				seal(fb)
			}
			fb.raw = append(fb.raw, data...)
			fb.ids = append(fb.ids, cid)
			fb.lens = append(fb.lens, uint32(len(data)))
		}
		f.release()
	}
	seal(builders[kindData])
	seal(builders[kindBlobs])
	return moved, whole, nil
}

// switchOver makes the index name the new places. Imports that found the old ones have
// pinned them; they get the new ones too, before the next sweep can ask.
func (sw *sweep) switchOver(ctx context.Context, moved *pins) error {
	s := sw.s
	s.sweeping.Lock()
	defer s.sweeping.Unlock()
	if err := s.submit(ctx, &commit{checkpoint: true, done: make(chan error, 1)}); err != nil {
		return err
	}
	s.pending.forget()
	for _, p := range s.pinned() {
		for _, at := range moved.all() {
			p.add(at)
		}
	}
	return nil
}

// moveRecords appends what the pack's meta frames say and still holds. The committer asks for
// each group, so that no other change of the same keys comes between.
func (sw *sweep) moveRecords(ctx context.Context, id uint32, pm *packMarks, oldest bool) error {
	keys, err := sw.movedKeys(id, pm)
	if err != nil {
		return err
	}
	for group := range slices.Chunk(keys, 2048) {
		c := &commit{done: make(chan error, 1), relog: true, late: func() (recs []record, err error) {
			names := make([][]byte, len(group))
			for i, name := range group {
				names[i] = []byte(name)
			}
			values, err := sw.s.index.getMany(names)
			if err != nil {
				return nil, err
			}
			for i, key := range names {
				if values[i] != nil || !oldest { // an older pack may say that it is there
					recs = append(recs, record{key, values[i]})
				}
			}
			return recs, nil
		}}
		if err := sw.s.submit(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// movedKeys returns the keys of all records in a pack, each once. A pack with damage may have
// held records of any key.
func (sw *sweep) movedKeys(id uint32, pm *packMarks) ([]string, error) {
	if pm.metas == 0 && !pm.broken {
		return nil, nil
	}
	s := sw.s
	keys := map[string]struct{}{}
	note := func(key []byte) { keys[string(key)] = struct{}{} }
	broken, err := s.eachKey(id, note)
	if err != nil {
		return nil, err
	}
	if broken {
		for _, id := range s.log.ids() {
			if _, err := s.eachKey(id, note); err != nil {
				return nil, err
			}
		}
		for _, space := range []byte{spaceOwner, spaceObject, spaceHoles} {
			err := s.index.scan([]byte{space}, func(key, _ []byte) error {
				note(key)
				return nil
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return slices.Sorted(maps.Keys(keys)), nil
}

// eachKey calls fn with the keys of all records in a pack, and reports whether something there is
// broken that could have been records.
func (s *Store) eachKey(id uint32, fn func(key []byte)) (broken bool, err error) {
	p, err := s.log.get(id)
	if err != nil {
		return false, err
	}
	defer p.release()
	r := &replayer{s: s}
	gap := func(int64, int64) error {
		broken = true
		return nil
	}
	_, err = s.log.scan(p, packHeaderSize, gap, func(h frameHeader, off int64, _ []byte) error {
		if h.kind != kindMeta {
			return nil
		}
		payload, err := r.payload(p, h, off)
		if err == nil {
			err = parseRecords(payload, func(rec record) error {
				fn(rec.key)
				return nil
			})
		}
		if errors.Is(err, errBadFrame) {
			broken, err = true, nil
		}
		return err
	})
	return broken, err
}
