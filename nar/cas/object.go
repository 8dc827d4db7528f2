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
	counts  []byte // numbers of chunks, see the format
	records *chunks
	files   []file // by node; made with records when contents are read
	order   []uint32
	places  *extents // nil if they are too many; exchanged when sweeps have moved chunks
}

// file says where the content of a regular file is.
type file struct {
	base     int64  // in the object's content
	first, n uint32 // records of the list
}

// Object returns the object of a NAR hash, or ErrNotFound.
func (s *Store) Object(narHash [32]byte) (*Object, error) {
	rec, err := s.index.get(objectKey(narHash))
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
	o.layout, o.counts = tree, b[n+int(size):]
	return nil
}

// ready makes what it takes to read contents.
func (o *Object) ready() error {
	tree, err := o.Tree()
	if err != nil {
		return err
	}
	o.load.Lock()
	defer o.load.Unlock()
	if o.files != nil {
		return nil
	}
	files, order, total, err := o.countChunks(tree, o.counts)
	if err == nil && total*int64(chunkRecordSize) != o.list.size {
		err = fmt.Errorf("%w: %d chunks in a list of %d bytes", ErrCorrupt, total, o.list.size)
	}
	if err == nil && o.places == nil {
		err = o.loadExtents()
	}
	if err != nil {
		return fmt.Errorf("object %x: %w", o.info.NarHash, err)
	}
	o.records = &chunks{n: total, blob: o.list}
	o.files, o.order, o.counts = files, order, nil
	return nil
}

// countChunks reads the numbers of chunks that follow the tree. Order has the files that have content, in NAR order.
func (o *Object) countChunks(tree *nar.Tree, counts []byte) (files []file, order []uint32, total int64, err error) {
	files = make([]file, tree.Len())
	smallest := int64(o.s.opts.Chunks.Min)
	base := int64(0)
	for i := range tree.All() {
		if tree.Type(i) != nar.TypeRegular {
			continue
		}
		n := uint64(1)
		size := tree.Size(i)
		switch {
		case size == 0:
			n = 0
		case size > smallest:
			var k int
			n, k = binary.Uvarint(counts)
			if k <= 0 || n == 0 || n > uint64(size) {
				return nil, nil, 0, fmt.Errorf("%w: number of chunks of a file", ErrCorrupt)
			}
			counts = counts[k:]
		}
		if total+int64(n) > 1<<32-1 {
			return nil, nil, 0, fmt.Errorf("%w: number of chunks", ErrCorrupt)
		}
		files[i] = file{base, uint32(total), uint32(n)}
		if n > 0 {
			order = append(order, i)
		}
		total += int64(n)
		base += size
	}
	if len(counts) > 0 {
		return nil, nil, 0, fmt.Errorf("%w: tree has a tail", ErrCorrupt)
	}
	if base != o.content {
		return nil, nil, 0, fmt.Errorf("%w: files of %d bytes, not %d", ErrCorrupt, base, o.content)
	}
	return files, order, total, nil
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
	return locate(id, s.index.lookup, &s.pending)
}

// locate asks the index twice: a chunk that it did not know yet may be pending no more, since the index has learned of it
// meanwhile and a sweep had the pending set forget it.
func locate(id chunk.ID, lookup func([]chunk.ID, []location) error, pending *pending) (location, error) {
	var loc [1]location
	for range 2 {
		if err := lookup([]chunk.ID{id}, loc[:]); err != nil {
			return location{}, err
		}
		if loc[0].size != 0 {
			return loc[0], nil
		}
		if l, ok := pending.get(id); ok {
			return l, nil
		}
	}
	return location{}, fmt.Errorf("%w: chunk %v is missing", ErrCorrupt, id)
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

// file returns what is known of a regular file, and the extents that it can be read with: nil if there are none.
func (o *Object) file(node uint32) (f file, size int64, x *extents, err error) {
	if err := o.ready(); err != nil {
		return f, 0, nil, err
	}
	if tree := o.layout; int(node) < tree.Len() && tree.Type(node) == nar.TypeRegular {
		o.load.Lock()
		defer o.load.Unlock()
		return o.files[node], tree.Size(node), o.places, nil
	}
	return f, 0, nil, fmt.Errorf("object %x: node %d is no regular file", o.info.NarHash, node)
}

// ReadAt reads from the regular file with the given index in the tree. As with io.ReaderAt, fewer bytes than
// asked come with an error, io.EOF at the file's end. Damage is ErrCorrupt.
func (o *Object) ReadAt(node uint32, p []byte, off int64) (int, error) {
	f, size, x, err := o.file(node)
	if err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, fmt.Errorf("object %x: offset %d", o.info.NarHash, off)
	}
	want := p[:max(0, min(int64(len(p)), size-off))]
	done := o.readExtents(x, want, f.base+off)
	if done < len(want) {
		n, err := o.readChunks(f, size, want[done:], off+int64(done))
		if done += n; err != nil {
			return done, fmt.Errorf("object %x: %w", o.info.NarHash, err)
		}
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// readExtents fills p with the content at off, as far as it gets: behind that is either damage or what was moved.
func (o *Object) readExtents(x *extents, p []byte, off int64) (done int) {
	if x == nil || len(p) == 0 {
		return 0
	}
	for i := x.find(off); done < len(p); i++ {
		start, end := x.bounds(i)
		e := &x.list[i]
		at := off + int64(done) - start
		n := min(int64(len(p)-done), end-start-at)
		if err := o.s.cache.read(p[done:], int(n), e.frame, e.size, e.at+uint32(at)); err != nil {
			o.stale(x)
			return done
		}
		done += int(n)
	}
	return done
}

// readChunks fills p with what stands at off in a file, by the names of its chunks.
func (o *Object) readChunks(f file, size int64, p []byte, off int64) (done int, err error) {
	for done < len(p) {
		sp, err := o.records.find(int64(f.first), int64(f.n), size, off)
		if err != nil {
			return done, err
		}
		c, err := o.chunkOf(sp)
		if err != nil {
			return done, err
		}
		n := copy(p[done:], c.data()[off-sp.start:])
		c.release()
		done, off = done+n, off+int64(n)
	}
	return done, nil
}

func (o *Object) chunkOf(sp span) (piece, error) {
	c, err := o.s.piece(sp.id)
	if err == nil && int64(len(c.data())) != sp.end-sp.start {
		c.release()
		return piece{}, fmt.Errorf("%w: chunk %v is not of %d bytes", ErrCorrupt, sp.id, sp.end-sp.start)
	}
	return c, err
}

// Span is a run of a file's bytes that stands decoded in memory.
type Span struct {
	Off  int64  // of Data in the file
	Data []byte // not to be written to, and not to be read after Release
	f    *frame
}

// Release lets the memory be used again. It must be called once.
func (s Span) Release() { s.f.release() }

// Span returns the bytes around off of a regular file that came with one frame, so that who reads a little may keep the
// rest too. off must be inside the file. With n above 0 these n bytes are enough, and what stands behind them need not be
// decoded; the span may have fewer.
func (o *Object) Span(node uint32, off int64, n int) (Span, error) {
	fl, size, x, err := o.file(node)
	if err != nil {
		return Span{}, err
	}
	if off < 0 || off >= size {
		return Span{}, fmt.Errorf("object %x: offset %d of %d", o.info.NarHash, off, size)
	}
	if x != nil {
		need := int64(n)
		if n == 0 {
			need = size
		}
		i := x.find(fl.base + off)
		f, err := o.extent(x, i, fl.base+min(off+need, size))
		if err == nil {
			lo, data := x.clip(i, f, fl.base, size)
			return Span{Off: lo - fl.base, Data: data, f: f}, nil
		}
	}
	sp, err := o.records.find(int64(fl.first), int64(fl.n), size, off)
	if err != nil {
		return Span{}, fmt.Errorf("object %x: %w", o.info.NarHash, err)
	}
	c, err := o.chunkOf(sp)
	if err != nil {
		return Span{}, fmt.Errorf("object %x: %w", o.info.NarHash, err)
	}
	return Span{Off: sp.start, Data: c.data(), f: c.f}, nil
}

// extent returns the frame of an extent, to be released, decoded as far as the content up to upto stands in it.
func (o *Object) extent(x *extents, i int, upto int64) (*frame, error) {
	e := &x.list[i]
	start, end := x.bounds(i)
	need := allOfIt
	if upto < end {
		need = int(int64(e.at) + upto - start)
	}
	f, err := o.s.cache.getStart(e.frame, e.size, uint32(need))
	if err != nil {
		o.stale(x)
		return nil, err
	}
	if int64(e.at)+end-start > int64(f.raw) {
		f.release()
		return nil, fmt.Errorf("%w: %v: shorter than an extent", ErrCorrupt, e.frame)
	}
	return f, nil
}

// clip returns the part of extent i that is in the content from base on, size bytes, with its beginning.
func (x *extents) clip(i int, f *frame, base, size int64) (lo int64, data []byte) {
	start, end := x.bounds(i)
	at := int64(x.list[i].at) - start
	lo, hi := max(start, base), min(end, base+size, int64(len(f.data))-at)
	return lo, f.data[at+lo : at+hi]
}
