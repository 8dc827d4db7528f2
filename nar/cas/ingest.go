package cas

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/narfs/narfs/internal/wire"
	"github.com/narfs/narfs/nar"
	"github.com/narfs/narfs/nar/chunk"
)

// Staged is a NAR whose chunks are stored and that nobody sees yet. Either a Batch makes
// it an object, or it is discarded; until then a sweep leaves its chunks alone.
type Staged struct {
	s      *Store
	info   Info
	tree   *nar.Tree
	record []byte
	places *extents // nil if they are too many
	pins   *pins
}

// Info returns the NAR's hash and size.
func (st *Staged) Info() Info { return st.info }

// Tree returns the NAR's entries.
func (st *Staged) Tree() *nar.Tree { return st.tree }

// Object returns the staged NAR for reading. It must not be used after Discard.
func (st *Staged) Object() (*Object, error) {
	o, err := st.s.parseObject(st.info.NarHash, st.record)
	if err == nil {
		o.places = st.places
	}
	return o, err
}

// Discard gives the NAR up; its chunks are garbage unless other objects use them. It may
// be called more than once, and after the commit.
func (st *Staged) Discard() { st.s.unpin(st.pins) }

// IngestOptions of one import. The zero value is good.
type IngestOptions struct {
	// Limits of the NAR's entries; zero means nar's defaults.
	Limits nar.Limits
	// Tap sees every byte of the NAR, in order, from one goroutine. It may be nil.
	Tap func(p []byte)
	// Mend reads the chunks that the store has already, and stores those again that cannot be
	// read: whatever else needs them is whole again after the commit, too.
	Mend bool
	// Compression of the chunks that are new.
	Compression Compression
}

const (
	batchSize    = 256 << 10
	hashBlock    = 256 << 10
	maxFileBytes = 1<<48 - 1 // an offset in a chunk record
)

// Ingest reads one NAR from r, and nothing behind it if r is a *wire.Reader, and stores
// its chunks. Errors are *nar.FormatError for a bad NAR, r's own, and those of writing.
//
// It is a pipeline: this goroutine reads, parses and cuts; one hashes the NAR; some name
// the chunks and look them up; one puts the new ones into frames and writes the list;
// some compress and append. Memory is bounded whatever the NAR's size. A NAR below one
// batch goes through all of it in this goroutine.
func (s *Store) Ingest(ctx context.Context, r io.Reader, opts IngestOptions) (*Staged, error) {
	if err := s.room(); err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	in := &ingest{
		s: s, ctx: ctx, cancel: cancel, pins: s.pin(), mend: opts.Mend, how: opts.Compression,
		inflight: map[chunk.ID]location{},
		slots:    make(chan struct{}, s.opts.Workers),
		cur:      s.newBatch(),
	}
	in.data = frameBuilder{kind: kindData, seq: in.nextFrame()}
	in.blobs = frameBuilder{kind: kindBlobs, seq: in.nextFrame()}
	in.list = &blobWriter{ctx: ctx, put: in.putBlobChunk, cut: s.cutter}
	st, err := in.run(r, opts)
	cancel(err)
	in.wait()
	if err != nil {
		s.unpin(in.pins)
		return nil, err
	}
	return st, nil
}

// ingest is one import.
type ingest struct {
	s      *Store
	ctx    context.Context //nolint:containedctx // one call's pipeline, not kept
	cancel context.CancelCauseFunc
	pins   *pins
	mend   bool
	how    Compression

	// The parser's.
	cur     *batch
	counts  []byte // of the chunks of files
	content int64
	nar     *narHash

	// Between parser, workers and assembler; made when a NAR outgrows one batch.
	work    chan *batch // to the workers, in any order
	ordered chan *batch // to the assembler
	stages  sync.WaitGroup

	// The assembler's.
	list    *blobWriter
	data    frameBuilder
	blobs   frameBuilder
	extents extentBuilder // in frames that are not in the log yet: see location

	// Compressors: slots bounds them.
	slots      chan struct{}
	compressor sync.WaitGroup

	mu       sync.Mutex            // guards the rest
	inflight map[chunk.ID]location // in frames that are not in the log yet: instead of the offset, their numbers
	frames   []framePlace          // of this import, by number; zero before they are written
}

// batch is a piece of the files' contents on its way through the pipeline.
type batch struct {
	buf  []byte
	cuts []cut
	ids  []chunk.ID
	locs []location
	done chan struct{} // closed when ids and locs are there
}

// cut is the end of a chunk, in the batch and in its file.
type cut struct {
	end    int
	inFile int64
}

func (s *Store) newBatch() *batch {
	b, _ := s.batches.Get().(*batch)
	if b == nil {
		b = &batch{buf: make([]byte, 0, batchSize)}
	}
	b.buf, b.cuts, b.ids, b.locs = b.buf[:0], b.cuts[:0], b.ids[:0], b.locs[:0]
	b.done = make(chan struct{})
	return b
}

func (in *ingest) run(r io.Reader, opts IngestOptions) (*Staged, error) {
	tree, err := in.parse(r, opts)
	if err == nil {
		err = in.drain()
	}
	if cause := context.Cause(in.ctx); cause != nil {
		err = cause // what a later stage found is why the parser stopped
	}
	if err != nil {
		return nil, err
	}
	rec, err := in.manifest(tree)
	if err != nil {
		return nil, err
	}
	in.compressor.Wait()
	if err := context.Cause(in.ctx); err != nil {
		return nil, err
	}
	return &Staged{s: in.s, info: in.nar.info, tree: tree, record: rec, places: in.places(), pins: in.pins}, nil
}

// nextFrame returns the number of a new frame.
func (in *ingest) nextFrame() uint32 {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.frames = append(in.frames, framePlace{})
	return uint32(len(in.frames) - 1)
}

// places returns the extents; all frames are written.
func (in *ingest) places() *extents {
	if in.extents.many {
		return nil
	}
	x := in.extents.extents
	for i := range x.list {
		if e := &x.list[i]; e.frame.pack == 0 {
			place := in.frames[e.frame.off]
			e.frame, e.size = place.at, place.size
		}
	}
	x.moved = in.s.moved.Load()
	return &x
}

// parse reads the NAR and ships batches.
func (in *ingest) parse(r io.Reader, opts IngestOptions) (*nar.Tree, error) {
	src := wire.NewReader(r)
	in.nar = newNarHash(opts.Tap, &in.s.hashed)
	src.Tap(in.nar.write)
	defer in.nar.finish()
	defer src.Tap(nil)
	nr := nar.NewReader(src, opts.Limits)
	tb := nar.NewTreeBuilder(opts.Limits)
	for {
		h, err := nr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := tb.Add(h); err != nil {
			return nil, err
		}
		if h.Type == nar.TypeRegular {
			if err := in.file(nr, h.Size); err != nil {
				return nil, err
			}
		}
		if err := context.Cause(in.ctx); err != nil {
			return nil, err
		}
	}
	return tb.Finish()
}

// file reads and cuts one file's content.
func (in *ingest) file(r io.Reader, size int64) error {
	if size > maxFileBytes {
		return fmt.Errorf("import: file of %d bytes, the limit is %d", size, int64(maxFileBytes))
	}
	in.content += size
	count := uint64(0)
	start, done := len(in.cur.buf), int64(0) // of what is not cut yet, in the batch and in the file
	for left := size; left > 0; {
		b := in.cur
		if len(b.buf) == cap(b.buf) {
			b = in.ship(start)
			start = 0
		}
		n := int(min(left, int64(cap(b.buf)-len(b.buf))))
		at := len(b.buf)
		b.buf = b.buf[:at+n]
		if _, err := io.ReadFull(r, b.buf[at:]); err != nil {
			return err
		}
		left -= int64(n)
		for {
			n := in.s.cutter.Cut(b.buf[start:], left == 0)
			if n == 0 {
				break
			}
			start, done, count = start+n, done+int64(n), count+1
			b.cuts = append(b.cuts, cut{start, done})
		}
	}
	if size > int64(in.s.opts.Chunks.Min) {
		in.counts = binary.AppendUvarint(in.counts, count)
	}
	return nil
}

// ship sends the current batch off, but for what is not cut yet, which begins the next one.
func (in *ingest) ship(uncut int) *batch {
	b := in.cur
	next := in.s.newBatch()
	next.buf = append(next.buf, b.buf[uncut:]...)
	b.buf = b.buf[:uncut]
	in.cur = next
	if in.work == nil {
		in.start()
	}
	for _, to := range []chan *batch{in.work, in.ordered} {
		select {
		case to <- b:
		case <-in.ctx.Done():
			return next
		}
	}
	return next
}

func (in *ingest) start() {
	in.work = make(chan *batch)
	in.ordered = make(chan *batch, in.s.opts.Workers+1)
	for range in.s.opts.Workers {
		in.stages.Go(func() {
			for b := range in.work {
				if err := in.name(b); err != nil {
					in.cancel(err)
				}
				close(b.done)
			}
		})
	}
	in.stages.Go(func() {
		for b := range in.ordered {
			<-b.done
			if in.ctx.Err() != nil {
				continue
			}
			if err := in.assemble(b); err != nil {
				in.cancel(err)
			}
			in.s.batches.Put(b)
		}
	})
}

// drain ends the stages up to the assembler; the last batch goes through here.
func (in *ingest) drain() error {
	in.stop()
	if err := context.Cause(in.ctx); err != nil {
		return err
	}
	b := in.cur
	if err := in.name(b); err != nil {
		return err
	}
	err := in.assemble(b)
	in.s.batches.Put(b)
	return err
}

func (in *ingest) stop() {
	if in.work != nil {
		close(in.work)
		close(in.ordered)
		in.stages.Wait()
		in.work = nil
	}
}

// wait ends whatever still runs.
func (in *ingest) wait() {
	in.stop()
	in.compressor.Wait()
}

// name names a batch's chunks and looks them up.
func (in *ingest) name(b *batch) error {
	start := 0
	for _, c := range b.cuts {
		b.ids = append(b.ids, chunk.Sum(b.buf[start:c.end]))
		start = c.end
	}
	b.locs = append(b.locs, make([]location, len(b.ids))...)
	return in.lookup(b.ids, b.locs)
}

// lookup finds the chunks that need not be stored.
func (in *ingest) lookup(ids []chunk.ID, locs []location) error {
	if err := in.s.lookup(ids, locs, in.pins); err != nil || !in.mend {
		return err
	}
	for i, id := range ids {
		if locs[i].size == 0 {
			continue
		}
		p, err := in.s.chunkAt(id, locs[i])
		if err == nil {
			if chunk.Sum(p.data()) != id {
				err = ErrCorrupt
			}
			p.release()
		}
		if errors.Is(err, ErrCorrupt) {
			locs[i], err = location{}, nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lookup finds chunks in the index and among the pending ones, and pins what it found.
func (s *Store) lookup(ids []chunk.ID, locs []location, pins *pins) error {
	s.sweeping.RLock()
	defer s.sweeping.RUnlock()
	s.placing.RLock()
	defer s.placing.RUnlock()
	if err := s.index.lookup(ids, locs); err != nil {
		return err
	}
	for i := range ids {
		if locs[i].size == 0 {
			locs[i], _ = s.pending.get(ids[i])
		}
		if locs[i].size != 0 {
			s.keep(pins, locs[i])
		}
	}
	return nil
}

// assemble lists a batch's chunks and stores those that are new.
func (in *ingest) assemble(b *batch) error {
	var rec [chunkRecordSize]byte
	start := 0
	for i, c := range b.cuts {
		data := b.buf[start:c.end]
		start = c.end
		if err := in.list.write(appendChunkRecord(rec[:0], b.ids[i], c.inFile)); err != nil {
			return err
		}
		loc := b.locs[i]
		if loc.size == 0 {
			var err error
			if loc, err = in.store(&in.data, b.ids[i], data); err != nil {
				return err
			}
		}
		in.extents.add(loc)
	}
	return nil
}

// store puts a chunk that the index does not know into a frame, unless this import did before, and returns where it is.
// A frame that is not written yet has pack 0 and its number instead of an offset.
func (in *ingest) store(fb *frameBuilder, id chunk.ID, data []byte) (location, error) {
	if loc, ok := in.stored(id); ok {
		return loc, nil
	}
	if len(fb.raw)+len(data) > in.s.opts.FrameSize && len(fb.raw) > 0 || len(fb.ids) == maxFrameChunks {
		if err := in.seal(fb); err != nil {
			return location{}, err
		}
	}
	loc := location{frame: position{off: fb.seq}, at: uint32(len(fb.raw)), n: uint32(len(data))}
	in.mu.Lock()
	in.inflight[id] = loc
	in.mu.Unlock()
	if fb.raw == nil {
		fb.raw = in.s.rawBuffer()
	}
	fb.raw = append(fb.raw, data...)
	fb.ids = append(fb.ids, id)
	fb.lens = append(fb.lens, uint32(len(data)))
	return loc, nil
}

// stored returns where the chunk is if it is on its way or became known since the look-up.
func (in *ingest) stored(id chunk.ID) (location, bool) {
	in.mu.Lock()
	loc, ok := in.inflight[id]
	in.mu.Unlock()
	if ok {
		return loc, true
	}
	in.s.sweeping.RLock()
	defer in.s.sweeping.RUnlock()
	in.s.placing.RLock()
	defer in.s.placing.RUnlock()
	loc, ok = in.s.pending.get(id)
	if ok {
		in.s.keep(in.pins, loc)
	}
	return loc, ok
}

// putBlobChunk stores a chunk of the tree or the list.
func (in *ingest) putBlobChunk(data []byte) (chunk.ID, error) {
	ids := []chunk.ID{chunk.Sum(data)}
	var loc [1]location
	if err := in.lookup(ids, loc[:]); err != nil {
		return ids[0], err
	}
	if loc[0].size != 0 {
		return ids[0], nil
	}
	_, err := in.store(&in.blobs, ids[0], data)
	return ids[0], err
}

// manifest stores the tree and ends the list, and returns the object's record.
func (in *ingest) manifest(tree *nar.Tree) ([]byte, error) {
	enc, err := tree.AppendBinary(nil)
	if err != nil {
		return nil, err
	}
	tw := &blobWriter{ctx: in.ctx, put: in.putBlobChunk, cut: in.s.cutter}
	for _, p := range [][]byte{binary.AppendUvarint(nil, uint64(len(enc))), enc, in.counts} {
		if err := tw.write(p); err != nil {
			return nil, err
		}
	}
	rec := []byte{objectVersion}
	rec = binary.AppendUvarint(rec, uint64(in.nar.info.NarSize))
	rec = binary.AppendUvarint(rec, uint64(tree.Len()))
	rec = binary.AppendUvarint(rec, uint64(in.content))
	if rec, err = tw.finish(rec); err != nil {
		return nil, err
	}
	if rec, err = in.list.finish(rec); err != nil {
		return nil, err
	}
	for _, fb := range []*frameBuilder{&in.data, &in.blobs} {
		if err := in.seal(fb); err != nil {
			return nil, err
		}
	}
	return rec, nil
}
