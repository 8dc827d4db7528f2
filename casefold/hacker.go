package casefold

import (
	"strconv"
)

// Hacker hacks one directory whose names arrive one by one, as from a NAR. It is for one goroutine.
type Hacker struct {
	rule  Rule
	keys  map[string]keyState
	count map[string]int // the last number given out in each class; made with the first

	names, given []string // what Add got and returned
	late         bool     // a name arrived that would have changed an earlier answer of Add
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

// Add returns the name under which the file of that original name is to be created. Names come sorted by bytes.
// No two answers collide.
func (h *Hacker) Add(name string) string {
	key := h.rule.Key(name)
	state := h.keys[key]
	h.keys[key] = state | original
	if state == shown {
		h.late = true
	}
	s := h.show(name)
	h.names, h.given = append(h.names, name), append(h.given, s)
	return s
}

// Finish returns what is to be renamed, in that order, once the directory is complete, so that it has exactly
// the names of [Hack]. There is something to rename only when a numbered name proved to be the original name of
// a later file. No name on the way collides with another.
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
		temp := ""
		for n := 0; temp == ""; n++ {
			if s := Suffix + "~" + strconv.Itoa(i) + "." + strconv.Itoa(n); h.take(s) {
				temp = s
			}
		}
		away = append(away, Rename{h.given[i], temp})
		back = append(back, Rename{temp, want})
	}
	return append(away, back...)
}

// show gives out the name for the next original name, whose key is in h.keys.
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

// take gives out a name that no file has had, if it collides with none.
func (h *Hacker) take(name string) bool {
	key := h.rule.Key(name)
	if h.keys[key] != 0 {
		return false
	}
	h.keys[key] = shown
	return true
}
