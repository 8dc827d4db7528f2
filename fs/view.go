package fs

import (
	"sync"

	"github.com/narfs/narfs/casefold"
	"github.com/narfs/narfs/nar"
)

// naming says under which names a mount shows and finds things.
type naming struct {
	hack bool // show Nix's case-hacked names
	fold bool // find names that only collide with the wanted one, too
	rule casefold.Rule
}

// view is one tree under the names of one mount. It is for concurrent use.
type view struct {
	tree   *nar.Tree
	naming naming
	// hacked holds the directories whose names differ from the original ones: very few.
	hacked map[uint32]*casefold.Dir

	foldMu sync.Mutex
	folded map[uint32]*casefold.Dir // guarded by foldMu; made when first needed
}

// The memory of a casefold.Dir, roughly: what a name that is shown otherwise takes, and any name when folded; and what an
// Object that was read from keeps of each node, as that of the content store does.
const (
	readNodeBytes   = 24
	hackedNameBytes = 200
	foldedNameBytes = 8
	dirBytes        = 256
)

// newView looks for names to hack in all directories at once: then the names of a tree never change while it is
// loaded, and what a request asks for needs no lock.
func newView(t *nar.Tree, how naming) (v *view, bytes int64) {
	v = &view{tree: t, naming: how}
	bytes = t.Bytes() + int64(t.Len())*readNodeBytes + dirBytes
	if !how.hack {
		return v, bytes
	}
	for i := range uint32(t.Len()) {
		first, n := t.Children(i)
		name := func(c int) string { return t.Name(first + uint32(c)) }
		if n == 0 || !casefold.Needed(how.rule, int(n), name) {
			continue
		}
		if v.hacked == nil {
			v.hacked = map[uint32]*casefold.Dir{}
		}
		v.hacked[i] = casefold.NewDir(how.rule, casefold.DirOptions{Hack: true}, int(n), name)
		bytes += dirBytes + int64(n)*hackedNameBytes
	}
	return v, bytes
}

// entry names an entry of a directory, first being the number of its first one.
func (v *view) entry(hacked *casefold.Dir, first, i uint32) string {
	if hacked != nil {
		return hacked.Shown(int(i - first))
	}
	return v.tree.Name(i)
}

// lookup finds an entry by the name that the view shows or by its original one; if the mount folds case, also by
// any other spelling. grown is the memory that finding it took for good.
func (v *view) lookup(dir uint32, name string) (i uint32, ok bool, grown int64) {
	first, n := v.tree.Children(dir)
	if d := v.hacked[dir]; d != nil {
		if c, ok := d.Lookup(name); ok {
			return first + uint32(c), true, 0
		}
	} else if i, ok = v.tree.Lookup(dir, name); ok {
		return i, true, 0
	}
	if !v.naming.fold || n == 0 {
		return 0, false, 0
	}
	d, grown := v.fold(dir, first, n)
	c, ok := d.Lookup(name)
	return first + uint32(c), ok, grown
}

// fold returns the directory with an index of its folded names.
func (v *view) fold(dir, first, n uint32) (d *casefold.Dir, grown int64) {
	v.foldMu.Lock()
	defer v.foldMu.Unlock()
	if d = v.folded[dir]; d != nil {
		return d, 0
	}
	d = casefold.NewDir(v.naming.rule, casefold.DirOptions{Hack: v.naming.hack, Fold: true}, int(n),
		func(c int) string { return v.tree.Name(first + uint32(c)) })
	if v.folded == nil {
		v.folded = map[uint32]*casefold.Dir{}
	}
	v.folded[dir] = d
	grown = dirBytes + int64(n)*foldedNameBytes
	if v.hacked[dir] != nil {
		grown += int64(n) * hackedNameBytes
	}
	return d, grown
}
