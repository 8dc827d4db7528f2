package cas

import (
	"fmt"
	"sort"

	"github.com/narfs/narfs/nar"
	"github.com/narfs/narfs/nar/chunk"
)

// Piece is a run of a regular file's bytes.
type Piece struct {
	Node uint32
	Off  int64 // of Data in the file
	Data []byte
}

// neighbourRecords is how many chunk records are read at once.
const neighbourRecords = 64

// Frame calls yield for what the frame around a byte of a regular file holds of other files of this object, first of
// those that follow in NAR order, then of those before, backwards, until it returns false. The data is not to be
// written to, and not to be used after yield returns. A chunk that stands in another frame, because it was known before
// this object, ends the search in its direction.
func (o *Object) Frame(node uint32, off int64, yield func(Piece) bool) error {
	fc, size, err := o.file(node)
	if err != nil {
		return err
	}
	sp, err := o.records.find(int64(fc.first), int64(fc.n), size, off)
	if err != nil {
		return fmt.Errorf("object %x: %w", o.info.NarHash, err)
	}
	c, err := o.chunkOf(sp)
	if err != nil {
		return fmt.Errorf("object %x: %w", o.info.NarHash, err)
	}
	defer c.release()
	nodes := o.nodes()
	here := sort.Search(len(nodes), func(k int) bool { return o.files[nodes[k]].first >= fc.first })
	w := frameWalk{o: o, f: c.f, base: sp.i - int64(c.ord)}
	for _, step := range []int{1, -1} {
		for k := here + step; k >= 0 && k < len(nodes); k += step {
			p, err := w.piece(nodes[k])
			if err != nil {
				return fmt.Errorf("object %x: %w", o.info.NarHash, err)
			}
			if len(p.Data) == 0 {
				break
			}
			if !yield(p) {
				return nil
			}
		}
	}
	return nil
}

// frameWalk finds the files of an object in a frame. Record base+k is the frame's chunk k, as long as the names agree:
// to hash what is decoded costs less than to ask the index where a chunk is.
type frameWalk struct {
	o     *Object
	f     *frame
	base  int64
	recs  []byte // records read, beginning with first
	first int64
}

// piece returns what the frame has of a file that begins in it; nothing if it does not.
func (w *frameWalk) piece(node uint32) (Piece, error) {
	fc := w.o.files[node]
	ord := int64(fc.first) - w.base
	n := min(int64(fc.n), int64(len(w.f.ends))-ord)
	if ord < 0 || n <= 0 {
		return Piece{}, nil
	}
	for k := range n {
		id, err := w.id(int64(fc.first) + k)
		if err != nil {
			return Piece{}, err
		}
		if chunk.Sum(w.f.chunk(int(ord+k))) != id {
			return Piece{}, nil
		}
	}
	return Piece{Node: node, Data: w.f.data[w.f.start(int(ord)):w.f.ends[ord+n-1]]}, nil
}

func (w *frameWalk) id(i int64) (chunk.ID, error) {
	if have := int64(len(w.recs) / chunkRecordSize); i < w.first || i >= w.first+have {
		w.first = max(0, i-neighbourRecords/4)
		n := min(neighbourRecords, w.o.records.n-w.first)
		w.recs = make([]byte, n*int64(chunkRecordSize))
		if err := w.o.records.read(w.recs, w.first); err != nil {
			return chunk.ID{}, err
		}
	}
	id, _ := parseChunkRecord(w.recs[(i-w.first)*int64(chunkRecordSize):])
	return id, nil
}

// nodes returns the regular files that have content in NAR order.
func (o *Object) nodes() []uint32 {
	o.load.Lock()
	defer o.load.Unlock()
	if o.order == nil {
		o.order = make([]uint32, 0, len(o.files))
		for i := range o.layout.All() {
			if o.layout.Type(i) == nar.TypeRegular && o.files[i].n > 0 {
				o.order = append(o.order, i)
			}
		}
	}
	return o.order
}
