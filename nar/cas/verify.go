package cas

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/narfs/narfs/nar/chunk"
)

// Damage is one thing that Verify found.
type Damage struct {
	// NarHash is the object that cannot be read whole, if Object is set; otherwise the damage
	// is in a pack and Err says where.
	NarHash [32]byte
	Object  bool
	Err     error
}

// VerifyOptions of one verification. The zero value checks everything.
type VerifyOptions struct {
	// SkipPacks leaves the packs as such unread: only what objects need is checked.
	SkipPacks bool
	// Objects, if not nil, are the only ones that are checked.
	Objects [][32]byte
	// Progress hears of the bytes checked so far and of all; it may be nil.
	Progress func(done, total int64)
}

// Verify reads the packs, comparing every frame's checksum and every chunk's name, and every object,
// comparing its NAR hash. It calls found with each damage, and returns an error only if it could
// not look.
func (s *Store) Verify(ctx context.Context, opts VerifyOptions, found func(Damage)) error {
	v := &verifier{s: s, opts: opts, found: found}
	for _, d := range s.damage {
		found(Damage{Err: d})
	}
	objects, err := v.plan()
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if !opts.SkipPacks && opts.Objects == nil {
		for _, id := range s.log.ids() {
			if err := v.pack(ctx, id); err != nil {
				return fmt.Errorf("verify: %s: %w", packName(id), err)
			}
		}
	}
	for _, h := range objects {
		if err := v.object(ctx, h); err != nil {
			return fmt.Errorf("verify: %w", err)
		}
	}
	return nil
}

type verifier struct {
	s     *Store
	opts  VerifyOptions
	found func(Damage)
	done  int64
	total int64
}

// plan lists the objects and adds up what there is to read.
func (v *verifier) plan() (objects [][32]byte, err error) {
	if v.opts.Objects != nil {
		for _, h := range v.opts.Objects {
			if o, err := v.s.Object(h); err == nil {
				v.total += o.info.NarSize
			}
		}
		return v.opts.Objects, nil
	}
	err = v.s.index.scan([]byte{spaceObject}, func(key, rec []byte) error {
		h := [32]byte(key[1:])
		objects = append(objects, h)
		if o, err := v.s.parseObject(h, bytes.Clone(rec)); err == nil {
			v.total += o.info.NarSize
		}
		return nil
	})
	if err == nil && !v.opts.SkipPacks {
		var st Stats
		st, err = v.s.packStats()
		v.total += st.PackBytes
	}
	return objects, err
}

func (v *verifier) progress(n int64) {
	v.done += n
	if v.opts.Progress != nil {
		v.opts.Progress(v.done, v.total)
	}
}

// pack checks the frames of one pack.
func (v *verifier) pack(ctx context.Context, id uint32) error {
	s := v.s
	p, err := s.log.get(id)
	if errors.Is(err, errPackGone) {
		return nil // by a sweep
	}
	if err != nil {
		return err
	}
	defer p.release()
	gone, err := s.holes(id)
	if err != nil {
		return err
	}
	limit := s.log.tail()
	r := &replayer{s: s}
	damaged := func(off int64, err error) {
		v.found(Damage{Err: fmt.Errorf("%v: %w", position{id, uint32(off)}, err)})
	}
	_, err = s.log.scan(p, packHeaderSize,
		func(from, to int64) { damaged(from, fmt.Errorf("%w: %d bytes are no frame", errBadFrame, to-from)) },
		func(h frameHeader, off int64, lengths []byte) error {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			if !(position{id, uint32(off)}).before(limit) {
				return errStop
			}
			v.progress(h.size())
			if gone[uint32(off)] {
				return nil
			}
			ends, err := chunkEnds(nil, lengths, h.raw)
			if h.kind == kindMeta {
				ends, err = nil, nil
			}
			var payload []byte
			if err == nil {
				payload, err = r.payload(p, h, off)
			}
			if err == nil {
				err = v.chunks(position{id, uint32(off)}, ends, payload)
			}
			if errors.Is(err, errBadFrame) {
				damaged(off, err)
				return nil
			}
			return err
		})
	if errors.Is(err, errStop) {
		err = nil
	}
	return err
}

// chunks checks that the chunks of a frame are those that the index has there. A chunk that
// the index has elsewhere is a duplicate, one that it does not have is garbage: both are fine.
// Frames whose bytes were changed together with their checksums show as objects that lack a chunk.
func (v *verifier) chunks(at position, ends []uint32, payload []byte) error {
	start := uint32(0)
	for ord, end := range ends {
		id := chunk.Sum(payload[start:end])
		loc, err := v.s.locate(id)
		if err == nil && loc.frame == at && (int(loc.ord) != ord || loc.n != end-start) {
			v.found(Damage{Err: fmt.Errorf("%v: %w: index has chunk %v at another place of its frame", at, ErrCorrupt, id)})
		}
		if err != nil && !errors.Is(err, ErrCorrupt) {
			return err
		}
		start = end
	}
	return nil
}

// object reads one object as its users do and compares its hash.
func (v *verifier) object(ctx context.Context, h [32]byte) error {
	o, err := v.s.Object(h)
	if errors.Is(err, ErrNotFound) && v.opts.Objects == nil {
		return nil // deleted meanwhile
	}
	if err == nil {
		sum := sha256.New()
		w := countWriter{w: sum.Write, count: v.progress}
		if err = o.WriteNAR(ctx, w); err == nil && [32]byte(sum.Sum(nil)) != h {
			err = fmt.Errorf("%w: the NAR's hash is %x", ErrCorrupt, sum.Sum(nil))
		}
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		v.found(Damage{NarHash: h, Object: true, Err: err})
	}
	return nil
}

type countWriter struct {
	w     func([]byte) (int, error)
	count func(int64)
}

// Write implements io.Writer.
func (c countWriter) Write(p []byte) (int, error) {
	c.count(int64(len(p)))
	return c.w(p)
}
