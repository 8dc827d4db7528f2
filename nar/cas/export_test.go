package cas

import (
	"errors"
	"slices"
	"sync"

	"github.com/narfs/narfs/nar/chunk"
)

// ParseObjectRecord parses an object's record against a store without chunks.
func ParseObjectRecord(rec []byte) error {
	s := &Store{}
	s.opts.Chunks = chunk.Params{Min: 64, Avg: 256, Max: 1024}
	_, err := s.parseObjectFrom([32]byte{}, rec, noChunks{})
	return err
}

type noChunks struct{}

func (noChunks) piece(chunk.ID) (piece, error) { return piece{}, ErrCorrupt }

// DecodeFrame decodes a frame with the given marker.
func DecodeFrame(b []byte, m [8]byte) error {
	c, err := newFrameCache(&packLog{marker: m}, 1<<20)
	if err != nil {
		return err
	}
	defer c.close()
	h, lengths, payload, err := splitFrame(b, m)
	if err != nil {
		return err
	}
	f, err := c.decode(h, lengths, payload, allOfIt)
	if err == nil && f.kind == kindMeta {
		err = parseRecords(f.data, func(record) error { return nil })
	}
	return err
}

// AppendMetaFrame makes a meta frame of one record.
func AppendMetaFrame(m [8]byte, key, value []byte) []byte {
	payload := appendRecord(position{1, 32}.encode(), record{key, value})
	h := frameHeader{kind: kindMeta, count: 1, raw: uint32(len(payload)), stored: uint32(len(payload))}
	return appendFrame(nil, m, h, nil, payload)
}

// AppendDataFrame makes a stored data frame of one chunk.
func AppendDataFrame(m [8]byte, data []byte) []byte {
	h := frameHeader{kind: kindData, count: 1, raw: uint32(len(data)), stored: uint32(len(data))}
	return appendFrame(nil, m, h, []uint32{uint32(len(data))}, data)
}

// StoredExtents returns how many extents of an object the index has, -1 if none that are good.
func (s *Store) StoredExtents(narHash [32]byte, content int64) int {
	x, err := s.index.extents(narHash, content)
	if err != nil || x == nil {
		return -1
	}
	return len(x.list)
}

// DropExtents takes an object's extents out of the index.
func (s *Store) DropExtents(narHash [32]byte) error { return s.index.dropExtents(narHash) }

// ForgetExtents makes an object find its contents by the names of their chunks only.
func (o *Object) ForgetExtents() error {
	if err := o.ready(); err != nil {
		return err
	}
	o.places = nil
	return nil
}

// RecodeExtents decodes extents and encodes them again, with the length before them.
func RecodeExtents(b []byte, content int64) ([]byte, error) {
	x, err := parseExtents(b, content)
	if err != nil {
		return nil, err
	}
	return x.encode(), nil
}

// PlacesEqual compares an object's extents with what the index has of its chunks.
func (o *Object) PlacesEqual() (bool, error) {
	if err := o.ready(); err != nil {
		return false, err
	}
	x, err := o.resolveAll()
	return err == nil && o.places != nil && x.end == o.places.end && slices.Equal(x.list, o.places.list), err
}

// LocateAcross asks where the chunks of a staged object are. Meanwhile, when the index has been asked for the first
// one, it calls between.
func LocateAcross(st *Staged, between func() error) error {
	o, err := st.Object()
	if err != nil {
		return err
	}
	s := st.s
	between = sync.OnceValue(between)
	return o.eachChunk(func(id chunk.ID) error {
		_, err := locate(id, func(ids []chunk.ID, locs []location) error {
			return errors.Join(s.index.lookup(ids, locs), between())
		}, &s.pending)
		return err
	})
}
