package casefold

import (
	"hash/maphash"
	"sort"
)

// Dir is one directory under the names of a view: it translates between them and the indices of its files.
// It holds only the names that differ from the original ones and, if case is folded, four to eight bytes for each
// file. It never changes, so it may be used concurrently if the name function that it was given may.
type Dir struct {
	rule Rule
	n    int
	name func(i int) string

	// Names shown otherwise, by index.
	renamed []int
	shown   []string
	byShown map[string]int

	// If case is folded: the names shown otherwise by key, and a hash table of index+1 by the original names' keys.
	// Of several with one key it has the one that is shown as it is, else the first.
	byKey map[string]int
	table []uint32
	seed  maphash.Seed
}

// DirOptions says how a view treats a directory. The zero value changes nothing.
type DirOptions struct {
	Hack bool // show the names of Hack, not the original ones
	Fold bool // let Lookup find names that collide with the wanted one
}

// NewDir returns a directory of n files with the original names that name returns for 0 … n-1, sorted by bytes.
// The Dir keeps name and calls it. Without Fold, a directory for which Needed is false needs no Dir: all its names
// are shown as they are.
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
	d.table = make([]uint32, d.n+d.n/2+1)
	next := 0
	for i := range d.n {
		if next < len(d.renamed) && d.renamed[next] == i {
			next++
			continue
		}
		d.insert(i)
	}
	for _, i := range d.renamed {
		d.insert(i)
	}
}

// insert puts file i into the table, unless one with the same key is there.
func (d *Dir) insert(i int) {
	var buf [keyBuf]byte
	if slot := d.slot(d.rule.appendKey(buf[:0], d.name(i))); d.table[slot] == 0 {
		d.table[slot] = uint32(i + 1)
	}
}

// slot returns the place in the table of the file whose original name has that key, or the free place for it.
func (d *Dir) slot(key []byte) int {
	var buf [keyBuf]byte
	slot := int(maphash.Bytes(d.seed, key) % uint64(len(d.table)))
	for d.table[slot] != 0 && string(d.rule.appendKey(buf[:0], d.name(int(d.table[slot]-1)))) != string(key) {
		if slot++; slot == len(d.table) {
			slot = 0
		}
	}
	return slot
}

// Shown returns the name that the view shows for file i.
func (d *Dir) Shown(i int) string {
	if j := sort.SearchInts(d.renamed, i); j < len(d.renamed) && d.renamed[j] == i {
		return d.shown[j]
	}
	return d.name(i)
}

// Lookup returns the index of the file that name means: the file that is shown under it, or else whose original
// name it is (for two files never at once). If there is none and case is folded, it is the file whose shown name
// collides with name, or else the first whose original name does (without Hack always this).
func (d *Dir) Lookup(name string) (i int, ok bool) {
	if i, ok = d.byShown[name]; ok {
		return i, true
	}
	i = sort.Search(d.n, func(i int) bool { return d.name(i) >= name })
	if i < d.n && d.name(i) == name {
		return i, true
	}
	if d.table == nil {
		return 0, false
	}
	var buf [keyBuf]byte
	key := d.rule.appendKey(buf[:0], name)
	if i, ok = d.byKey[string(key)]; ok {
		return i, true
	}
	if slot := d.slot(key); d.table[slot] != 0 {
		return int(d.table[slot] - 1), true
	}
	return 0, false
}
