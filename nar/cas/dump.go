package cas

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/narfs/narfs/nar"
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
	if err := o.ready(); err != nil {
		return err
	}
	st := o.stream(ctx)
	defer st.close()
	nw := nar.NewWriter(w)
	for i, depth := range tree.All() {
		h := tree.Header(i, depth)
		if err := nw.WriteHeader(h); err != nil {
			return err
		}
		if h.Type != nar.TypeRegular {
			continue
		}
		for off := int64(0); off < h.Size; {
			data, err := st.next(i, off)
			if err != nil {
				return fmt.Errorf("object %x: %s: %w", o.info.NarHash, tree.Path(i), err)
			}
			if _, err := nw.Write(data); err != nil {
				return err
			}
			off += int64(len(data))
		}
	}
	return nw.Close()
}

// stream gives an object's content in NAR order.
type stream struct {
	o      *Object
	x      *extents // nil if they are made on the way
	runs   chan *run
	cancel context.CancelFunc
	wg     sync.WaitGroup
	cur    *run   // nil before the first
	buf    []byte // of what came by the names of its chunks
}

// run is a part of the content that stands in one frame.
type run struct {
	extent

	end   int64  // in the content
	f     *frame // nil if it is not there, or not any more
	err   error  // of making the extents: there are no more
	ready chan struct{}
}

func (o *Object) stream(ctx context.Context) *stream {
	ctx, cancel := context.WithCancel(ctx)
	st := &stream{o: o, x: o.currentPlaces(), runs: make(chan *run, ahead), cancel: cancel}
	st.wg.Go(func() {
		defer close(st.runs)
		send := func(r *run) error {
			select {
			case st.runs <- r:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		err := o.eachExtent(st.x, func(e extent, end int64) error {
			r := &run{extent: e, end: end, ready: make(chan struct{})}
			if err := send(r); err != nil {
				return err
			}
			st.wg.Go(func() {
				defer close(r.ready)
				r.f, _ = o.s.cache.get(e.frame, e.size) // next has another way
			})
			return nil
		})
		if err != nil {
			r := &run{err: err, ready: make(chan struct{})}
			close(r.ready)
			_ = send(r) // unless nobody waits for it
		}
	})
	return st
}

func (o *Object) currentPlaces() *extents {
	o.load.Lock()
	defer o.load.Unlock()
	return o.places
}

// eachExtent calls fn with all extents in order, and where they end: those of x, or if that is nil as the index has
// the chunks.
func (o *Object) eachExtent(x *extents, fn func(e extent, end int64) error) error {
	if x != nil {
		for i, e := range x.list {
			_, end := x.bounds(i)
			if err := fn(e, end); err != nil {
				return err
			}
		}
		return nil
	}
	var b extentBuilder
	err := o.resolve(func(loc location) error {
		start := b.end
		if b.add(loc); len(b.list) == 2 {
			last := b.list[0]
			b.list = append(b.list[:0], b.list[1])
			return fn(last, start)
		}
		return nil
	})
	if err == nil && len(b.list) > 0 {
		err = fn(b.list[0], b.end)
	}
	return err
}

// next returns what follows, no more than the rest of a file from off on. It is valid until the next call.
func (st *stream) next(node uint32, off int64) ([]byte, error) {
	fl, size := st.o.files[node], st.o.layout.Size(node)
	at := fl.base + off
	for st.cur == nil || at >= st.cur.end {
		st.drop()
		r, ok := <-st.runs
		if !ok {
			return nil, fmt.Errorf("%w: chunks end before the file does", ErrCorrupt)
		}
		<-r.ready
		if st.cur = r; r.err != nil {
			return nil, r.err
		}
	}
	r := st.cur
	n := min(size-off, r.end-at)
	lo := int64(r.at) + at - r.start
	if r.f != nil && lo+n <= int64(len(r.f.data)) {
		return r.f.data[lo : lo+n], nil
	}
	// The frame is damaged, or a sweep moved its chunks.
	if st.x != nil {
		st.o.stale(st.x)
	}
	st.buf = append(st.buf[:0], make([]byte, min(n, maxFrameRaw))...)
	_, err := st.o.readChunks(fl, size, st.buf, off)
	return st.buf, err
}

func (st *stream) drop() {
	if st.cur != nil && st.cur.f != nil {
		st.cur.f.release()
	}
	st.cur = nil
}

// close ends it, and gives back what was decoded and not asked for.
func (st *stream) close() {
	st.cancel()
	st.drop()
	for r := range st.runs {
		if <-r.ready; r.f != nil {
			r.f.release()
		}
	}
	st.wg.Wait()
}
