package cas

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/narfs/narfs/nar"
	"github.com/narfs/narfs/nar/chunk"
)

// Info says what a NAR is.
type Info struct {
	NarHash [32]byte // SHA-256
	NarSize int64    // bytes
}

const objectVersion = 1

// maxTreeBlob bounds a manifest's tree: nar's limits on entries and names, encoded.
const maxTreeBlob = 1 << 30

// Object is a stored NAR. Its methods may be called concurrently. It remains readable
// while its chunks are there: see Sweep for objects that were deleted while in use.
type Object struct {
	s       *Store
	info    Info
	entries int64
	content int64
	tree    *blob
	list    *blob

	load    sync.Mutex // guards the rest: loaded once, an error is not kept
	layout  *nar.Tree
	records *chunks
	files   []fileChunks // by node
	order   []uint32     // the regular files that have content, in NAR order; made when needed
}

// fileChunks says which records of the list a regular file has.
type fileChunks struct{ first, n uint32 }

// Object returns the object of a NAR hash, or ErrNotFound.
func (s *Store) Object(narHash [32]byte) (*Object, error) {
	rec, err := s.index.get(append([]byte{spaceObject}, narHash[:]...))
	if err != nil {
		return nil, fmt.Errorf("object %x: %w", narHash, err)
	}
	o, err := s.parseObject(narHash, rec)
	if err != nil {
		return nil, fmt.Errorf("object %x: %w", narHash, err)
	}
	return o, nil
}

func (s *Store) parseObject(narHash [32]byte, rec []byte) (*Object, error) {
	return s.parseObjectFrom(narHash, rec, s)
}

// parseObjectFrom is parseObject with another source of chunks, for tests.
func (s *Store) parseObjectFrom(narHash [32]byte, rec []byte, src chunkSource) (*Object, error) {
	o := &Object{s: s, info: Info{NarHash: narHash}}
	if len(rec) == 0 || rec[0] != objectVersion {
		return nil, fmt.Errorf("%w: object record's version", ErrCorrupt)
	}
	rec = rec[1:]
	for _, field := range []*int64{&o.info.NarSize, &o.entries, &o.content} {
		v, n := binary.Uvarint(rec)
		if n <= 0 || v > 1<<60 {
			return nil, fmt.Errorf("%w: object record's sizes", ErrCorrupt)
		}
		*field, rec = int64(v), rec[n:]
	}
	var err error
	if o.tree, rec, err = parseBlob(rec, src); err != nil {
		return nil, err
	}
	if o.list, rec, err = parseBlob(rec, src); err != nil {
		return nil, err
	}
	if len(rec) != 0 || o.tree.size > maxTreeBlob || o.list.size%int64(chunkRecordSize) != 0 {
		return nil, fmt.Errorf("%w: object record's end", ErrCorrupt)
	}
	return o, nil
}

// Info returns the NAR's hash and size.
func (o *Object) Info() Info { return o.info }

// Entries returns the number of files, folders and links; Content the bytes of all files.
func (o *Object) Entries() int64 { return o.entries }

// Content returns the bytes of all regular files.
func (o *Object) Content() int64 { return o.content }

// Tree returns the entries. The first call reads them; they are kept as long as o is.
func (o *Object) Tree() (*nar.Tree, error) {
	o.load.Lock()
	defer o.load.Unlock()
	if o.layout != nil {
		return o.layout, nil
	}
	if err := o.loadTree(); err != nil {
		return nil, fmt.Errorf("object %x: %w", o.info.NarHash, err)
	}
	return o.layout, nil
}

func (o *Object) loadTree() error {
	b := make([]byte, o.tree.size)
	if err := o.tree.readFull(b, 0); err != nil {
		return err
	}
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return fmt.Errorf("%w: tree of %d bytes", ErrCorrupt, size)
	}
	tree, err := nar.ParseTree(b[n : n+int(size)])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	files, total, err := o.countChunks(tree, b[n+int(size):])
	if err != nil {
		return err
	}
	if total*int64(chunkRecordSize) != o.list.size {
		return fmt.Errorf("%w: %d chunks in a list of %d bytes", ErrCorrupt, total, o.list.size)
	}
	o.records = &chunks{n: total, blob: o.list}
	o.layout, o.files = tree, files
	return nil
}

// countChunks reads the numbers of chunks that follow the tree.
func (o *Object) countChunks(tree *nar.Tree, counts []byte) (files []fileChunks, total int64, err error) {
	files = make([]fileChunks, tree.Len())
	smallest := int64(o.s.opts.Chunks.Min)
	for i := range tree.All() {
		if tree.Type(i) != nar.TypeRegular {
			continue
		}
		n := uint64(1)
		switch size := tree.Size(i); {
		case size == 0:
			n = 0
		case size > smallest:
			var k int
			n, k = binary.Uvarint(counts)
			if k <= 0 || n == 0 || n > uint64(size) {
				return nil, 0, fmt.Errorf("%w: number of chunks of a file", ErrCorrupt)
			}
			counts = counts[k:]
		}
		if total+int64(n) > 1<<32-1 {
			return nil, 0, fmt.Errorf("%w: number of chunks", ErrCorrupt)
		}
		files[i] = fileChunks{uint32(total), uint32(n)}
		total += int64(n)
	}
	if len(counts) > 0 {
		return nil, 0, fmt.Errorf("%w: tree has a tail", ErrCorrupt)
	}
	return files, total, nil
}

// piece is a chunk in its decoded frame, to be released.
type piece struct {
	f   *frame
	at  position
	ord int
}

func (p piece) data() []byte { return p.f.chunk(p.ord) }

func (p piece) release() { p.f.release() }

// piece implements chunkSource.
func (s *Store) piece(id chunk.ID) (piece, error) {
	for try := 0; ; try++ {
		loc, err := s.locate(id)
		if err != nil {
			return piece{}, err
		}
		p, err := s.chunkAt(id, loc)
		// A sweep may have moved the chunk between the look-up and the reading.
		if err == nil || try == 2 {
			return p, err
		}
		if again, lerr := s.locate(id); lerr != nil || again == loc {
			return piece{}, err
		}
	}
}

// locate returns where a chunk is.
func (s *Store) locate(id chunk.ID) (location, error) {
	var loc [1]location
	if err := s.index.lookup([]chunk.ID{id}, loc[:]); err != nil {
		return location{}, err
	}
	if loc[0].size == 0 {
		if l, ok := s.pending.get(id); ok {
			return l, nil
		}
		return location{}, fmt.Errorf("%w: chunk %v is missing", ErrCorrupt, id)
	}
	return loc[0], nil
}

func (s *Store) chunkAt(id chunk.ID, loc location) (piece, error) {
	f, err := s.cache.get(loc.frame, loc.size)
	if errors.Is(err, errBadFrame) || errors.Is(err, errPackGone) {
		return piece{}, fmt.Errorf("%w: chunk %v: %w", ErrCorrupt, id, err)
	}
	if err != nil {
		return piece{}, err
	}
	if int(loc.ord) >= len(f.ends) || uint32(len(f.chunk(int(loc.ord)))) != loc.n {
		f.release()
		return piece{}, fmt.Errorf("%w: chunk %v is not where the index says", ErrCorrupt, id)
	}
	return piece{f, loc.frame, int(loc.ord)}, nil
}

// file returns what ReadAt and Span need to know of a node.
func (o *Object) file(node uint32) (fc fileChunks, size int64, err error) {
	tree, err := o.Tree()
	if err != nil {
		return fc, 0, err
	}
	if int(node) >= tree.Len() || tree.Type(node) != nar.TypeRegular {
		return fc, 0, fmt.Errorf("object %x: node %d is no regular file", o.info.NarHash, node)
	}
	return o.files[node], tree.Size(node), nil
}

// ReadAt reads from the regular file with the given index in the tree. As with io.ReaderAt, fewer bytes than
// asked come with an error, io.EOF at the file's end. Damage is ErrCorrupt.
func (o *Object) ReadAt(node uint32, p []byte, off int64) (int, error) {
	fc, size, err := o.file(node)
	if err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, fmt.Errorf("object %x: offset %d", o.info.NarHash, off)
	}
	done := 0
	for done < len(p) && off < size {
		sp, err := o.records.find(int64(fc.first), int64(fc.n), size, off)
		for err == nil && done < len(p) {
			var n int
			if n, err = o.copyChunk(p[done:], sp, off); err != nil {
				break
			}
			done, off = done+n, off+int64(n)
			if sp.i+1 == int64(fc.first)+int64(fc.n) {
				break
			}
			sp, err = o.next(sp)
		}
		if err != nil {
			return done, fmt.Errorf("object %x: %w", o.info.NarHash, err)
		}
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

func (o *Object) copyChunk(p []byte, sp span, off int64) (int, error) {
	c, err := o.chunkOf(sp)
	if err != nil {
		return 0, err
	}
	n := copy(p, c.data()[off-sp.start:])
	c.release()
	return n, nil
}

func (o *Object) chunkOf(sp span) (piece, error) {
	c, err := o.s.piece(sp.id)
	if err == nil && int64(len(c.data())) != sp.end-sp.start {
		c.release()
		return piece{}, fmt.Errorf("%w: chunk %v is not of %d bytes", ErrCorrupt, sp.id, sp.end-sp.start)
	}
	return c, err
}

// next returns the record behind sp in the same file.
func (o *Object) next(sp span) (span, error) {
	var rec [chunkRecordSize]byte
	if err := o.records.read(rec[:], sp.i+1); err != nil {
		return span{}, err
	}
	id, end := parseChunkRecord(rec[:])
	if end <= sp.end {
		return span{}, fmt.Errorf("%w: list of chunks", ErrCorrupt)
	}
	return span{sp.i + 1, id, sp.end, end}, nil
}

// Span is a run of a file's bytes that stands decoded in memory.
type Span struct {
	Off  int64  // of Data in the file
	Data []byte // not to be written to, and not to be read after Release
	f    *frame
}

// Release lets the memory be used again. It must be called once.
func (s Span) Release() { s.f.release() }

// Span returns the bytes around off of a regular file that came with one frame, so that
// who reads a little may keep the rest too. off must be inside the file.
func (o *Object) Span(node uint32, off int64) (Span, error) {
	fc, size, err := o.file(node)
	if err != nil {
		return Span{}, err
	}
	sp, err := o.records.find(int64(fc.first), int64(fc.n), size, off)
	if err != nil {
		return Span{}, fmt.Errorf("object %x: %w", o.info.NarHash, err)
	}
	c, err := o.chunkOf(sp)
	if err != nil {
		return Span{}, fmt.Errorf("object %x: %w", o.info.NarHash, err)
	}
	first, last := sp, sp
	lo, hi := c.ord, c.ord // the run of chunks in the frame
	for last.i+1 < int64(fc.first)+int64(fc.n) && hi+1 < len(c.f.ends) {
		nx, err := o.next(last)
		if err != nil {
			return Span{}, o.broken(c, err)
		}
		if !c.f.holds(hi+1, nx) {
			break
		}
		last, hi = nx, hi+1
	}
	for first.i > int64(fc.first) && lo > 0 {
		pv, err := o.previous(first, fc)
		if err != nil {
			return Span{}, o.broken(c, err)
		}
		if !c.f.holds(lo-1, pv) {
			break
		}
		first, lo = pv, lo-1
	}
	return Span{Off: first.start, Data: c.f.data[c.f.start(lo):c.f.ends[hi]], f: c.f}, nil
}

// broken releases a piece and wraps an error about the object.
func (o *Object) broken(c piece, err error) error {
	c.release()
	return fmt.Errorf("object %x: %w", o.info.NarHash, err)
}

// previous returns the record before sp, which is not the file's first.
func (o *Object) previous(sp span, fc fileChunks) (span, error) {
	buf := make([]byte, 2*chunkRecordSize)
	i := sp.i - 1
	if i == int64(fc.first) {
		buf = buf[:chunkRecordSize]
	} else {
		i--
	}
	if err := o.records.read(buf, i); err != nil {
		return span{}, err
	}
	start := int64(0)
	if len(buf) > chunkRecordSize {
		_, start = parseChunkRecord(buf)
		buf = buf[chunkRecordSize:]
	}
	id, end := parseChunkRecord(buf)
	if start >= end || end != sp.start {
		return span{}, fmt.Errorf("%w: list of chunks", ErrCorrupt)
	}
	return span{sp.i - 1, id, start, end}, nil
}

// holds reports whether chunk ord of the frame is the one of sp. Hashing what is decoded costs
// less than asking the index where a chunk is.
func (f *frame) holds(ord int, sp span) bool {
	c := f.chunk(ord)
	return int64(len(c)) == sp.end-sp.start && chunk.Sum(c) == sp.id
}
