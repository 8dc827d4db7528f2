package cas

import "sort"

// Piece is a run of a regular file's bytes.
type Piece struct {
	Node uint32
	Off  int64 // of Data in the file
	Data []byte
}

// Frame calls yield for what the extent around a byte of a regular file holds of other files of this object, first of
// those that follow in NAR order, then of those before, backwards, until it returns false. The data is not to be
// written to, and not to be used after yield returns.
func (o *Object) Frame(node uint32, off int64, yield func(Piece) bool) error {
	fl, _, x, err := o.file(node)
	if err != nil || x == nil {
		return err
	}
	i := x.find(fl.base + off)
	f, err := o.extent(x, i, o.content)
	if err != nil {
		return err
	}
	defer f.release()
	start, end := x.bounds(i)
	here := sort.Search(len(o.order), func(k int) bool { return o.files[o.order[k]].base >= fl.base })
	for _, step := range []int{1, -1} {
		for k := here + step; k >= 0 && k < len(o.order); k += step {
			other := o.order[k]
			base, size := o.files[other].base, o.layout.Size(other)
			if base >= end || base+size <= start {
				break
			}
			lo, data := x.clip(i, f, base, size)
			if !yield(Piece{Node: other, Off: lo - base, Data: data}) {
				return nil
			}
		}
	}
	return nil
}
