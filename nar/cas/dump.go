package cas

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/narfs/narfs/nar"
	"github.com/narfs/narfs/nar/chunk"
)

// ahead is how many frames WriteNAR decodes before they are asked for.
const ahead = 8

// WriteNAR writes the NAR, byte for byte what was imported. Frames are decoded ahead on
// all processors; memory is bounded whatever the NAR's size.
func (o *Object) WriteNAR(ctx context.Context, w io.Writer) error {
	tree, err := o.Tree()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st := o.stream(ctx)
	defer st.close()
	defer cancel() // before close, which waits
	nw := nar.NewWriter(w)
	for i, depth := range tree.All() {
		h := tree.Header(i, depth)
		if err := nw.WriteHeader(h); err != nil {
			return err
		}
		if h.Type != nar.TypeRegular {
			continue
		}
		for left := h.Size; left > 0; {
			data, err := st.next()
			if err != nil {
				return fmt.Errorf("object %x: %s: %w", o.info.NarHash, tree.Path(i), err)
			}
			if left -= int64(len(data)); left < 0 {
				return fmt.Errorf("object %x: %s: %w: chunks longer than the file", o.info.NarHash, tree.Path(i), ErrCorrupt)
			}
			if _, err := nw.Write(data); err != nil {
				return err
			}
		}
	}
	return nw.Close()
}

// stream gives an object's chunks in NAR order.
type stream struct {
	s    *Store
	runs chan *run
	wg   sync.WaitGroup
	cur  *run
	at   int   // in cur
	last piece // given out by next, if cur has no frame
}

// run is a sequence of chunks of one frame.
type run struct {
	frame position
	ids   []chunk.ID
	locs  []location
	f     *frame
	err   error
	ready chan struct{}
}

func (o *Object) stream(ctx context.Context) *stream {
	st := &stream{s: o.s, runs: make(chan *run, ahead)}
	st.wg.Go(func() {
		defer close(st.runs)
		if err := o.plan(ctx, st); err != nil {
			r := &run{err: err, ready: make(chan struct{})}
			close(r.ready)
			select {
			case st.runs <- r:
			case <-ctx.Done():
			}
		}
	})
	return st
}

// plan groups the list's chunks by frame and has the frames decoded.
func (o *Object) plan(ctx context.Context, st *stream) error {
	var cur *run
	emit := func() error {
		if cur == nil {
			return nil
		}
		r := cur
		cur = nil
		select {
		case st.runs <- r:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		st.wg.Go(func() {
			defer close(r.ready)
			r.f, r.err = o.s.cache.get(r.frame, r.locs[0].size)
		})
		return nil
	}
	ids := make([]chunk.ID, 0, markBatch)
	locs := make([]location, markBatch)
	take := func() error {
		if err := o.s.index.lookup(ids, locs); err != nil {
			return err
		}
		for i, id := range ids {
			loc := locs[i]
			if loc.size == 0 {
				var err error
				if loc, err = o.s.locate(id); err != nil {
					return err
				}
			}
			if cur == nil || cur.frame != loc.frame {
				if err := emit(); err != nil {
					return err
				}
				cur = &run{frame: loc.frame, ready: make(chan struct{})}
			}
			cur.ids = append(cur.ids, id)
			cur.locs = append(cur.locs, loc)
		}
		ids = ids[:0]
		return nil
	}
	err := o.records.each(0, o.records.n, func(id chunk.ID, _ int64) error {
		if ids = append(ids, id); len(ids) == markBatch {
			return take()
		}
		return nil
	})
	if err == nil {
		err = take()
	}
	if err == nil {
		err = emit()
	}
	return err
}

// next returns the next chunk's bytes, valid until the next call.
func (st *stream) next() ([]byte, error) {
	st.drop()
	for st.cur == nil || st.at == len(st.cur.ids) {
		if st.cur != nil && st.cur.f != nil {
			st.cur.f.release()
		}
		r, ok := <-st.runs
		if !ok {
			st.cur = nil
			return nil, fmt.Errorf("%w: chunks end before the file does", ErrCorrupt)
		}
		<-r.ready
		st.cur, st.at = r, 0
		if len(r.ids) == 0 {
			return nil, r.err
		}
	}
	id, loc, f := st.cur.ids[st.at], st.cur.locs[st.at], st.cur.f
	st.at++
	if f == nil { // the frame is broken, or a sweep moved its chunks meanwhile
		var err error
		if st.last, err = st.s.piece(id); err != nil {
			return nil, err
		}
		return st.last.data(), nil
	}
	if int(loc.ord) >= len(f.ends) || uint32(len(f.chunk(int(loc.ord)))) != loc.n {
		return nil, fmt.Errorf("%w: chunk %v is not where the index says", ErrCorrupt, id)
	}
	return f.chunk(int(loc.ord)), nil
}

func (st *stream) drop() {
	if st.last.f != nil {
		st.last.release()
		st.last = piece{}
	}
}

// close releases what was decoded and not asked for; ctx is cancelled already.
func (st *stream) close() {
	st.drop()
	if st.cur != nil && st.cur.f != nil {
		st.cur.f.release()
	}
	for r := range st.runs {
		if <-r.ready; r.f != nil {
			r.f.release()
		}
	}
	st.wg.Wait()
}
