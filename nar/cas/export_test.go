package cas

import "github.com/narfs/narfs/nar/chunk"

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
	f, err := c.decode(b)
	if err == nil && f.kind == kindMeta {
		err = parseRecords(f.data, func(record) error { return nil })
	}
	return err
}

// AppendMetaFrame makes a meta frame of one record.
func AppendMetaFrame(m [8]byte, key, value []byte) []byte {
	payload := appendRecord(appendPosition(nil, position{1, 32}), record{key, value})
	h := frameHeader{kind: kindMeta, count: 1, raw: uint32(len(payload)), stored: uint32(len(payload))}
	return appendFrame(nil, m, h, nil, payload)
}

// AppendDataFrame makes a stored data frame of one chunk.
func AppendDataFrame(m [8]byte, data []byte) []byte {
	h := frameHeader{kind: kindData, count: 1, raw: uint32(len(data)), stored: uint32(len(data))}
	return appendFrame(nil, m, h, []uint32{uint32(len(data))}, data)
}
