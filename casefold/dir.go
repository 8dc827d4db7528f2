package casefold

import (
	"hash/maphash"
	"sort"
)

// Dir is one directory as a view shows it. It holds only what differs from the original names, and an index
// if case is folded. It never changes, so it may be used concurrently.
type Dir struct {
	rule    Rule
	n       int
	name    func(i int) string
	renamed []int          // indices of the names shown otherwise, ascending
	shown   []string       // how they are shown
	byShown map[string]int // from shown to index
	byKey   map[string]int // from the keys of shown to index, if case is folded
	seed    maphash.Seed   // for index
	index   []uint32       // original names by the hash of their keys, index+1, if case is folded
}

// DirOptions says how a view shows a directory.
type DirOptions struct {
	Hack bool // show the names of Hack; false: the original names
	Fold bool // Lookup also finds names that only collide with the wanted one; false: exact names only
}

// NewDir returns a directory of n names, which name returns for 0 … n-1, sorted by bytes; it is kept and called
// by the methods. A directory for which Needed is false and that is not folded needs no Dir.
func NewDir(rule Rule, o DirOptions, n int, name func(i int) string) *Dir {
	d := &Dir{rule: rule, n: n, name: name}
	if o.Hack && Needed(rule, n, name) {
		d.hack()
	}
	if o.Fold {
		d.fold()
	}
	return d
}

func (d *Dir) hack() {
	names := make([]string, d.n)
	for i := range names {
		names[i] = d.name(i)
	}
	d.byShown = map[string]int{}
	for i, s := range Hack(d.rule, names) {
		if s != names[i] {
			d.renamed, d.shown = append(d.renamed, i), append(d.shown, s)
			d.byShown[s] = i
		}
	}
}

func (d *Dir) fold() {
	d.byKey = make(map[string]int, len(d.shown))
	for j, s := range d.shown {
		d.byKey[d.rule.Key(s)] = d.renamed[j]
	}
	d.seed = maphash.MakeSeed()
	d.index = make([]uint32, 2*d.n)
	var buf [keyBuf]byte
	for i := range d.n {
		key := d.rule.appendKey(buf[:0], d.name(i))
		if slot, ok := d.slot(key); !ok {
			d.index[slot] = uint32(i + 1)
		}
	}
}

// slot returns where the first original name of that key stands in the index, or the free slot for it.
func (d *Dir) slot(key []byte) (slot int, ok bool) {
	var buf [keyBuf]byte
	slot = int(maphash.Bytes(d.seed, key) % uint64(len(d.index)))
	for d.index[slot] != 0 {
		if string(d.rule.appendKey(buf[:0], d.name(int(d.index[slot])-1))) == string(key) {
			return slot, true
		}
		if slot++; slot == len(d.index) {
			slot = 0
		}
	}
	return slot, false
}

// Shown returns the name that the view shows for name i.
func (d *Dir) Shown(i int) string {
	if j := sort.SearchInts(d.renamed, i); j < len(d.renamed) && d.renamed[j] == i {
		return d.shown[j]
	}
	return d.name(i)
}

// Lookup returns the index of the file that name means: the one shown so, else the one whose original name it
// is (the two are never different files), else, if case is folded, the one whose shown name collides with it,
// else the first whose original name does.
func (d *Dir) Lookup(name string) (i int, ok bool) {
	if i, ok = d.byShown[name]; ok {
		return i, true
	}
	i = sort.Search(d.n, func(i int) bool { return d.name(i) >= name })
	if i < d.n && d.name(i) == name {
		return i, true
	}
	if len(d.index) == 0 {
		return 0, false
	}
	var buf [keyBuf]byte
	key := d.rule.appendKey(buf[:0], name)
	if i, ok = d.byKey[string(key)]; ok {
		return i, true
	}
	if slot, ok := d.slot(key); ok {
		return int(d.index[slot]) - 1, true
	}
	return 0, false
}
