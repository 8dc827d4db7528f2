package cas

import (
	"context"
	"fmt"
	"slices"
)

// Get returns the value of one of the owner's keys, or ErrNotFound.
func (s *Store) Get(key []byte) ([]byte, error) {
	return s.index.get(append([]byte{spaceOwner}, key...))
}

// Present reports which of the owner's keys are there, all as of one moment. It costs less than a Get for each.
func (s *Store) Present(keys [][]byte) ([]bool, error) {
	prefixed := make([][]byte, len(keys))
	for i, key := range keys {
		prefixed[i] = append([]byte{spaceOwner}, key...)
	}
	return s.index.present(prefixed)
}

// Scan calls fn with each of the owner's keys that begin with prefix, in the order of
// their bytes and from one snapshot. The slices are valid during the call only.
func (s *Store) Scan(prefix []byte, fn func(key, value []byte) error) error {
	return s.index.scan(append([]byte{spaceOwner}, prefix...), func(key, value []byte) error {
		return fn(key[1:], value)
	})
}

// ScanMany calls fn with each of the owner's keys that begin with one of some prefixes, and the number of that, as of one moment. It
// costs less than a Scan for each. The slice is valid during the call only.
func (s *Store) ScanMany(prefixes [][]byte, fn func(i int, key []byte) error) error {
	full := make([][]byte, len(prefixes))
	for i, prefix := range prefixes {
		full[i] = append([]byte{spaceOwner}, prefix...)
	}
	return s.index.scanMany(full, func(i int, key []byte) error { return fn(i, key[1:]) })
}

// Batch is a set of changes that Commit makes together. The zero value is empty.
type Batch struct {
	// Lazy says that the changes need not be durable when Commit returns, but within a second, and when a later commit that is
	// not lazy, or Flush, returns. They survive the end of the process all the same, and are lost in order: never one
	// without those after it.
	Lazy bool

	recs   []record
	staged []*Staged
	err    error
}

const maxValue = 512 << 10

// Put sets one of the owner's keys. Keys have 1 to 65,534 bytes, values up to 512 KiB;
// Commit refuses others.
func (b *Batch) Put(key, value []byte) {
	if len(value) > maxValue {
		b.err = fmt.Errorf("value of %d bytes", len(value))
	}
	b.add(spaceOwner, key, append(make([]byte, 0, len(value)), value...))
}

// Delete takes one of the owner's keys away; it need not be there.
func (b *Batch) Delete(key []byte) { b.add(spaceOwner, key, nil) }

// PutObject makes a staged object visible under its NAR hash. After the commit the Staged
// is of no further use.
func (b *Batch) PutObject(st *Staged) {
	b.staged = append(b.staged, st)
	b.add(spaceObject, st.info.NarHash[:], st.record)
}

// DeleteObject takes an object away. Its chunks are garbage for Sweep unless others use them.
func (b *Batch) DeleteObject(narHash [32]byte) { b.add(spaceObject, narHash[:], nil) }

func (b *Batch) add(space byte, key, value []byte) {
	if len(key) == 0 || len(key) >= maxKey {
		b.err = fmt.Errorf("key of %d bytes", len(key))
	}
	b.recs = append(b.recs, record{append([]byte{space}, key...), value})
}

// Flush returns when all commits that have returned are durable.
func (s *Store) Flush(ctx context.Context) error {
	if !s.lazy.Load() {
		return nil
	}
	if err := s.flush(ctx); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}

// Len returns the number of changes.
func (b *Batch) Len() int { return len(b.recs) }

// Commit makes the changes of b, all or none, and returns when they are durable, unless b is lazy. The cost
// of that, one sync of the pack, is shared with the commits of others at the same time. When ctx ends
// first, Commit returns its error and the changes are made or not.
func (s *Store) Commit(ctx context.Context, b *Batch) error {
	if b.err != nil {
		return fmt.Errorf("commit: %w", b.err)
	}
	// Deletions may use the reserve: how else would a full disk get room again.
	if slices.ContainsFunc(b.recs, func(r record) bool { return r.value != nil }) {
		if err := s.room(); err != nil {
			return fmt.Errorf("commit: %w", err)
		}
	}
	c := &commit{recs: b.recs, lazy: b.Lazy, done: make(chan error, 1)}
	for _, st := range b.staged {
		c.extents = append(c.extents, objectExtents{st.info.NarHash, st.places.encode()})
	}
	err := s.submit(ctx, c)
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	for _, st := range b.staged {
		st.Discard() // the pins: the object itself keeps the chunks alive now
	}
	return nil
}
