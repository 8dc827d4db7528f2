package cas

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/narfs/narfs/nar/chunk"
)

// rewrite moves what is live to the end of the log and removes the pack.
func (sw *sweep) rewrite(ctx context.Context, id uint32, pm *packMarks, oldest bool) error {
	moved, err := sw.moveChunks(ctx, id, pm)
	if err != nil {
		return err
	}
	if err := sw.moveRecords(ctx, id, pm, oldest); err != nil {
		return err
	}
	if err := sw.switchOver(ctx, moved); err != nil {
		return err
	}
	if err := sw.s.log.drop(id); err != nil {
		return err
	}
	sw.res.Packs++
	sw.res.Freed += pm.disk
	return nil
}

// moveChunks appends the live chunks of a pack to the log and returns their new frames.
func (sw *sweep) moveChunks(ctx context.Context, id uint32, pm *packMarks) (moved *pins, err error) {
	s := sw.s
	moved = &pins{frames: map[position]struct{}{}}
	builders := map[frameKind]*frameBuilder{kindData: {kind: kindData}, kindBlobs: {kind: kindBlobs}}
	how := s.opts.Compression
	if sw.opts.Compress {
		how = CompressBest
	}
	seal := func(fb *frameBuilder) error {
		if len(fb.ids) == 0 {
			return nil
		}
		sw.res.Moved += int64(len(fb.raw))
		_, err := s.writeFrame(fb, how, moved)
		*fb = frameBuilder{kind: fb.kind, raw: fb.raw[:0]}
		return err
	}
	for i := range pm.frames {
		fm := &pm.frames[i]
		if fm.gone || sw.m.live(fm) == 0 {
			continue
		}
		if err := errors.Join(context.Cause(ctx), s.room()); err != nil {
			return nil, err
		}
		at := position{id, fm.off}
		f, err := s.cache.get(at, fm.size)
		if errors.Is(err, errBadFrame) {
			return nil, fmt.Errorf("%w: %v: %w", ErrCorrupt, at, err)
		}
		if err != nil {
			return nil, err
		}
		fb := builders[f.kind]
		err = func() error {
			defer f.release()
			for ord := range f.ends {
				data := f.chunk(ord)
				cid := chunk.Sum(data)
				loc, err := s.locate(cid)
				if err != nil || loc.frame != at || int(loc.ord) != ord {
					continue // dead, or kept elsewhere too
				}
				if len(fb.raw)+len(data) > s.opts.FrameSize || len(fb.ids) == maxFrameChunks {
					if err := seal(fb); err != nil {
						return err
					}
				}
				fb.raw = append(fb.raw, data...)
				fb.ids = append(fb.ids, cid)
				fb.lens = append(fb.lens, uint32(len(data)))
			}
			return nil
		}()
		if err != nil {
			return nil, err
		}
	}
	return moved, errors.Join(seal(builders[kindData]), seal(builders[kindBlobs]))
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
	if pm.metas == 0 {
		return nil
	}
	keys, err := sw.s.metaKeys(id)
	if err != nil {
		return err
	}
	for group := range slices.Chunk(keys, 512) {
		c := &commit{done: make(chan error, 1), late: func() (recs []record, err error) {
			for _, key := range group {
				if bytes.Equal(key, holesKey(id)) {
					recs = append(recs, record{key: key})
					continue
				}
				value, err := sw.s.index.get(key)
				if errors.Is(err, ErrNotFound) {
					if !oldest { // an older pack may say that it is there
						recs = append(recs, record{key: key})
					}
					continue
				}
				if err != nil {
					return nil, err
				}
				recs = append(recs, record{key, value})
			}
			return recs, nil
		}}
		if err := sw.s.submit(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// metaKeys returns the keys of all records in a pack, each once.
func (s *Store) metaKeys(id uint32) (keys [][]byte, err error) {
	p, err := s.log.get(id)
	if err != nil {
		return nil, err
	}
	defer p.release()
	r := &replayer{s: s}
	seen := map[string]bool{}
	_, err = s.log.scan(p, packHeaderSize, nil, func(h frameHeader, off int64, _ []byte) error {
		if h.kind != kindMeta {
			return nil
		}
		payload, err := r.payload(p, h, off)
		if err != nil {
			return err
		}
		return parseRecords(payload, func(rec record) error {
			if !seen[string(rec.key)] {
				seen[string(rec.key)] = true
				keys = append(keys, bytes.Clone(rec.key))
			}
			return nil
		})
	})
	return keys, err
}
