package casefold

import (
	"hash/maphash"
	"strconv"
	"strings"
)

// Needed reports whether Hack would change any of the n names of a directory, which name returns for 0 … n-1:
// whether two of them collide under the rule or one holds Suffix. It allocates nothing for up to 512 names, and
// one table for more.
func Needed(rule Rule, n int, name func(i int) string) bool {
	switch {
	case n <= 32: // most directories: clearing a big table would take longer than the rest
		var table [64]uint64
		return needed(rule, n, name, table[:])
	case n <= 512:
		var table [1024]uint64
		return needed(rule, n, name, table[:])
	}
	return needed(rule, n, name, make([]uint64, 2*n))
}

// needed is Needed with an empty hash table of at least 2n slots: half of the key's hash and the index, plus one.
func needed(rule Rule, n int, name func(i int) string, table []uint64) bool {
	const low = 1<<32 - 1
	var buf, other [keyBuf]byte
	seed := maphash.MakeSeed() // names come from peers: nobody may choose them to meet in one slot
	for i := range n {
		s := name(i)
		if strings.Contains(s, Suffix) {
			return true
		}
		key := rule.appendKey(buf[:0], s)
		hash := maphash.Bytes(seed, key)
		slot := int(hash % uint64(len(table)))
		for table[slot] != 0 {
			if (table[slot]^hash)&^low == 0 {
				if string(rule.appendKey(other[:0], name(int(table[slot]&low)-1))) == string(key) {
					return true
				}
			}
			if slot++; slot == len(table) {
				slot = 0
			}
		}
		table[slot] = hash&^low | uint64(i+1)
	}
	return false
}

// Hack returns the names that a hacked directory shows for names, in the same order. names are the distinct
// names of one directory, of 1 to MaxName bytes, sorted by bytes as in a NAR; the numbers depend on that order.
//
// The result is distinct under the rule, and what Nix writes wherever Nix loses nothing; the package comment
// has the details. When nothing changes, it is names itself.
func Hack(rule Rule, names []string) []string {
	if !Needed(rule, len(names), func(i int) string { return names[i] }) {
		return names
	}
	h := NewHacker(rule)
	for _, name := range names {
		h.keys[rule.Key(name)] |= original
	}
	all := make([]string, len(names))
	for i, name := range names {
		all[i] = h.show(name)
	}
	return all
}

// Hacker hacks a directory whose names become known one by one, as from a NAR. It is for one goroutine.
type Hacker struct {
	rule  Rule
	keys  map[string]keyState
	count map[string]int // the last number given out, by the key of what is numbered; made with the first

	names, given []string // what Add got and returned
	late         bool     // a name came that would have changed an earlier answer of Add
}

// keyState says what a key belongs to.
type keyState uint8

const (
	original keyState = 1 << iota // a name of the directory
	shown                         // a name given out: at most one for each key
)

// Rename is a file to be renamed within its directory.
type Rename struct{ From, To string }

// NewHacker returns a Hacker for an empty directory.
func NewHacker(rule Rule) *Hacker {
	return &Hacker{rule: rule, keys: map[string]keyState{}}
}

// Add returns the name under which the file of that original name is to be created. Names come sorted by bytes,
// as they do to Hack. No two answers collide.
func (h *Hacker) Add(name string) string {
	key := h.rule.Key(name)
	if h.keys[key] == shown {
		h.late = true
	}
	h.keys[key] |= original
	s := h.show(name)
	h.names, h.given = append(h.names, name), append(h.given, s)
	return s
}

// Finish returns what is to be renamed, in that order, now that the directory is complete, so that it has the
// names of Hack: nothing, unless a name that Add had given out proved to collide with a later original name.
// No name on the way collides with another.
func (h *Hacker) Finish() []Rename {
	if !h.late {
		return nil
	}
	final := Hack(h.rule, h.names)
	for _, name := range final {
		h.keys[h.rule.Key(name)] |= shown
	}
	var away, back []Rename
	for i, want := range final {
		if h.given[i] == want {
			continue
		}
		aside := ""
		for n := 0; aside == ""; n++ {
			if s := Suffix + "~" + strconv.Itoa(i) + "~" + strconv.Itoa(n); h.take(s) {
				aside = s
			}
		}
		away = append(away, Rename{h.given[i], aside})
		back = append(back, Rename{aside, want})
	}
	return append(away, back...)
}

// show gives out the name for the next original name, whose key is in h.keys already.
func (h *Hacker) show(name string) string {
	base := escape(name)
	key := h.rule.Key(base)
	if base == name {
		if h.keys[key]&shown == 0 {
			h.keys[key] |= shown
			return name
		}
	} else if len(base) <= MaxName && h.take(base) {
		return base
	}
	if h.count == nil {
		h.count = map[string]int{}
	}
	for {
		h.count[key]++
		numbered := base + Suffix + strconv.Itoa(h.count[key])
		if len(numbered) > MaxName {
			break
		}
		if h.take(numbered) {
			return numbered
		}
	}
	for n := 0; ; n++ {
		if short := shorten(name, n); h.take(short) {
			return short
		}
	}
}

// take gives out a made-up name if it collides with no name given out or known to be an original one.
func (h *Hacker) take(name string) bool {
	key := h.rule.Key(name)
	if h.keys[key] != 0 {
		return false
	}
	h.keys[key] = shown
	return true
}
