package cas

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

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

// Verify reads the packs, comparing every frame's checksum, every chunk's name and every
// record with the index, and then every object, comparing its NAR hash. It calls found
// with each damage, and returns an error only if it could not look.
func (s *Store) Verify(ctx context.Context, opts VerifyOptions, found func(Damage)) error {
	v := &verifier{s: s, opts: opts, found: found, stale: map[string][]byte{}}
	defer s.changes.watch()()
	// Commits whose callers did not wait for them are in the log, or seen by the watch, from
	// here on. A store that takes no more writes can be verified as it is.
	_ = s.flush(ctx)
	all := !opts.SkipPacks && opts.Objects == nil
	for _, d := range s.damage {
		// Frames that are still broken are found again.
		if _, ok := errors.AsType[*frameError](d); all && !ok {
			found(Damage{Err: d})
		}
	}
	objects, err := v.plan()
	if errors.Is(err, ErrIndex) {
		found(Damage{Err: err})
	} else if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if all {
		for _, id := range s.log.ids() {
			if err := v.pack(ctx, id); err != nil {
				return fmt.Errorf("verify: %s: %w", packName(id), err)
			}
		}
		v.records()
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
	stale map[string][]byte // records that the index contradicts, by key
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
		v.found(Damage{Err: &frameError{position{id, uint32(off)}, err}})
	}
	_, err = s.log.scan(p, packHeaderSize,
		func(from, to int64) error {
			damaged(from, noFrame(to-from))
			return nil
		},
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
			payload, err := r.payload(p, h, off)
			switch {
			case err != nil && h.kind == kindMeta:
				err = lostRecords(err)
			case err != nil:
			case h.kind == kindMeta:
				err = parseRecords(payload, v.record)
			default:
				var ends []uint32
				if ends, err = chunkEnds(nil, lengths, h.raw); err == nil {
					err = v.chunks(position{id, uint32(off)}, ends, payload)
				}
			}
			if errors.Is(err, errBadFrame) && h.kind != kindMeta {
				// A sweep may have taken it meanwhile. It says so in the index before it does.
				now, herr := s.holes(id)
				if herr != nil || now[uint32(off)] {
					return herr
				}
			}
			if errors.Is(err, errBadFrame) || errors.Is(err, ErrIndex) {
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

// record compares a record of the log with the index. A difference means that a later
// record has changed the key, or damage.
func (v *verifier) record(r record) error {
	if v.holds(r.key, r.value) {
		delete(v.stale, string(r.key))
	} else {
		v.stale[string(r.key)] = bytes.Clone(r.value)
	}
	return nil
}

// holds reports whether the index has the value for the key, nil meaning none.
func (v *verifier) holds(key, value []byte) bool {
	got, err := v.s.index.get(key)
	if errors.Is(err, ErrNotFound) {
		return value == nil
	}
	return err == nil && value != nil && bytes.Equal(got, value)
}

// records tells of the records that no later one explains. Commits that came meanwhile
// change keys too: those keys are left to the next verification.
func (v *verifier) records() {
	for key, value := range v.stale {
		if v.holds([]byte(key), value) || v.s.changes.has(key) {
			continue
		}
		d := Damage{Err: fmt.Errorf("%w: the index contradicts the log on key %q", ErrCorrupt, key)}
		if key[0] == spaceObject && len(key) == 1+len(d.NarHash) {
			d.Object, d.NarHash = true, [32]byte([]byte(key[1:]))
		}
		v.found(d)
	}
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
		if err == nil {
			err = o.placed()
		}
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		if _, now := v.s.Object(h); errors.Is(now, ErrNotFound) && v.opts.Objects == nil {
			return nil // deleted, and swept away, while it was read
		}
		v.found(Damage{NarHash: h, Object: true, Err: err})
	}
	return nil
}

// placed makes sure that the list of an object's chunks can be read, which those who read by extents do not need, and that the index
// knows a place for each chunk: sweeps need both.
func (o *Object) placed() error {
	var ids []chunk.ID
	locs := make([]location, markBatch)
	flush := func() error {
		if err := o.s.index.lookup(ids, locs); err != nil {
			return err
		}
		for i, loc := range locs[:len(ids)] {
			if loc.size == 0 {
				if _, err := o.s.locate(ids[i]); err != nil { // it may be pending
					return err
				}
			}
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

type countWriter struct {
	w     func([]byte) (int, error)
	count func(int64)
}

// Write implements io.Writer.
func (c countWriter) Write(p []byte) (int, error) {
	c.count(int64(len(p)))
	return c.w(p)
}

// changedKeys remembers the keys that commits change while somebody watches.
type changedKeys struct {
	mu       sync.Mutex
	watchers int
	keys     map[string]struct{}
}

// watch begins to remember, until the returned function is called.
func (c *changedKeys) watch() (stop func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watchers++; c.keys == nil {
		c.keys = map[string]struct{}{}
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.watchers--; c.watchers == 0 {
			c.keys = nil
		}
	}
}

func (c *changedKeys) add(recs []record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watchers > 0 {
		for _, r := range recs {
			c.keys[string(r.key)] = struct{}{}
		}
	}
}

func (c *changedKeys) all() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.keys))
}

func (c *changedKeys) has(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.keys[key]
	return ok
}
