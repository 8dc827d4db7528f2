package cas

import (
	"bytes"
	"errors"
	iofs "io/fs"
	"os"
	"path/filepath"

	"github.com/narfs/narfs/nar/chunk"
)

// Stats of a store. All sizes are bytes.
type Stats struct {
	Objects   int64 `json:"objects"`
	Logical   int64 `json:"logical"`   // NARs, each counted whole
	Chunks    int64 `json:"chunks"`    // distinct
	Unique    int64 `json:"unique"`    // bytes of the distinct chunks
	Packs     int64 `json:"packs"`     // number of packs
	PackBytes int64 `json:"packBytes"` // frames that are not gone
	Light     int64 `json:"light"`     // of these: compressed lightly, if at all, for the time being
	Index     int64 `json:"index"`     // what the index occupies
}

// Stored returns what the store occupies, index included.
func (st Stats) Stored() int64 { return st.PackBytes + st.Index }

// Stats counts. It reads all of the index and of the packs' frame headers.
func (s *Store) Stats() (Stats, error) {
	st, err := s.packStats()
	if err != nil {
		return st, err
	}
	err = s.index.scan([]byte{spaceChunk}, func(_, value []byte) error {
		loc, err := parseLocation(value)
		st.Chunks++
		st.Unique += int64(loc.n)
		return err
	})
	if err != nil {
		return st, err
	}
	err = s.index.scan([]byte{spaceObject}, func(key, rec []byte) error {
		o, err := s.parseObject([32]byte(key[1:]), bytes.Clone(rec))
		if err != nil {
			return err
		}
		st.Objects++
		st.Logical += o.info.NarSize
		return nil
	})
	return st, err
}

// packStats fills in what the packs and the index folder say.
func (s *Store) packStats() (st Stats, err error) {
	limit := s.log.tail()
	for _, id := range s.log.ids() {
		bits := uint32(0)
		pm, err := s.listFrames(id, limit, &bits, nil)
		if errors.Is(err, errPackGone) {
			continue // by a sweep
		}
		if err != nil {
			return st, err
		}
		st.Packs++
		st.PackBytes += pm.disk + pm.metas
		for _, f := range pm.frames {
			if f.light && !f.gone {
				st.Light += int64(f.size)
			}
		}
	}
	st.Index, err = occupied(filepath.Join(s.dir, "index"))
	return st, err
}

// Occupied returns the bytes of disk space that the store occupies. Unlike Stats it reads nothing
// but the sizes of files.
func (s *Store) Occupied() (int64, error) { return occupied(s.dir) }

// occupied adds up what the files below a folder occupy.
func occupied(dir string) (sum int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d iofs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil // compacted away meanwhile
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if os.IsNotExist(err) {
			return nil
		}
		if err == nil {
			sum += allocated(info)
		}
		return err
	})
	return sum, err
}

// Usage is what one object costs.
type Usage struct {
	Logical int64 `json:"logical"` // its NAR
	Chunks  int64 `json:"chunks"`  // named by it, each once
	Unique  int64 `json:"unique"`  // bytes of these chunks
	Stored  int64 `json:"stored"`  // its share of the frames they stand in
}

// Seen is a set of chunks. Make one with make.
type Seen map[chunk.ID]struct{}

// Usage counts what an object's chunks occupy. seen, if not nil, holds the chunks that are counted
// already, and learns the object's: so a set of objects is counted without what they share.
func (o *Object) Usage(seen Seen) (Usage, error) {
	u := Usage{Logical: o.info.NarSize}
	if seen == nil {
		seen = Seen{}
	}
	err := o.eachChunk(func(id chunk.ID) error {
		if _, ok := seen[id]; ok {
			return nil
		}
		seen[id] = struct{}{}
		loc, h, err := o.s.frameOf(id)
		if err != nil {
			return err
		}
		u.Chunks++
		u.Unique += int64(loc.n)
		u.Stored += int64(loc.n) * int64(loc.size) / int64(max(h.raw, 1))
		return nil
	})
	return u, err
}

// frameOf returns where a chunk is, and its frame's header.
func (s *Store) frameOf(id chunk.ID) (loc location, h frameHeader, err error) {
	for range 3 { // a sweep may move the chunk between the look-up and the reading
		if loc, err = s.locate(id); err != nil {
			return loc, h, err
		}
		if h, err = s.frameHeader(loc.frame); !errors.Is(err, errPackGone) {
			break
		}
	}
	return loc, h, err
}

// frameHeader reads a frame's header.
func (s *Store) frameHeader(at position) (frameHeader, error) {
	p, err := s.log.get(at.pack)
	if err != nil {
		return frameHeader{}, err
	}
	defer p.release()
	var b [frameHeaderSize]byte
	if _, err := p.file.ReadAt(b[:], int64(at.off)); err != nil {
		return frameHeader{}, err
	}
	return parseHeader(b[:], s.log.marker)
}
