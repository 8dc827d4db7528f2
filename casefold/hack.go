package casefold

import (
	"crypto/sha256"
	"encoding/base32"
	"hash/maphash"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Suffix is what Nix puts between a name and its number.
const Suffix = "~nix~case~hack~"

// MaxName is the longest name that Hack makes, in bytes: NAME_MAX of every system narfs runs on.
const MaxName = 255

// literal follows a Suffix that belongs to the name itself. Nix's numbers begin at 1 and have no leading zero.
const literal = '0'

// Needed reports whether Hack would change any of the n names that name returns for 0 … n-1: whether two of
// them collide under the rule or one holds Suffix. It allocates nothing for up to 512 names, else one table.
func Needed(rule Rule, n int, name func(i int) string) bool {
	var (
		small [1024]uint64 // hash in the upper half, index+1 in the lower
		table = small[:]
		buf   [keyBuf]byte
		other [keyBuf]byte
		seed  = maphash.MakeSeed() // names come from peers: nobody may choose them to meet in one slot
	)
	if 2*n > len(small) {
		table = make([]uint64, 2*n)
	}
	for i := range n {
		s := name(i)
		if strings.Contains(s, Suffix) {
			return true
		}
		key := rule.appendKey(buf[:0], s)
		h := maphash.Bytes(seed, key)
		slot := int(h % uint64(len(table)))
		for ; table[slot] != 0; slot++ {
			if table[slot]>>32 == h>>32 && string(rule.appendKey(other[:0], name(int(uint32(table[slot]))-1))) == string(key) {
				return true
			}
			if slot == len(table)-1 {
				slot = -1
			}
		}
		table[slot] = h>>32<<32 | uint64(i+1)
	}
	return false
}

// Hack returns the names that a hacked directory shows for names, in the same order. names are the distinct
// names of one directory, sorted by bytes, as a NAR has them; other orders only number otherwise.
//
// No two results collide under the rule, none has more than MaxName bytes, Strip maps each back (except the
// shortened ones), and none is an original name of another file. Under ASCII the result is what Nix writes
// wherever Nix loses nothing; the package comment has the details. When nothing changes, the result is names itself.
func Hack(rule Rule, names []string) []string {
	if !Needed(rule, len(names), func(i int) string { return names[i] }) {
		return names
	}
	h := NewHacker(rule)
	for _, name := range names {
		h.keys[rule.Key(name)] |= original
	}
	shown := make([]string, len(names))
	for i, name := range names {
		shown[i] = h.show(name)
	}
	return shown
}

// escape marks every Suffix in name as a part of it.
func escape(name string) string {
	return strings.ReplaceAll(name, Suffix, Suffix+string(literal))
}

// digestLen is the length of a shortened name's digest: 160 bits in base 32.
const digestLen = 32

// shorten makes a name of at most MaxName bytes out of the start of name and a digest of all of it.
func shorten(name string, attempt int) string {
	sum := sha256.Sum256([]byte(name + "\x00" + strconv.Itoa(attempt)))
	digest := strings.ToLower(base32.HexEncoding.EncodeToString(sum[:20]))
	start, _, _ := strings.Cut(name, Suffix)
	if limit := MaxName - len(Suffix) - 1 - digestLen; len(start) > limit {
		for limit > 0 && !utf8.RuneStart(start[limit]) {
			limit--
		}
		start = start[:limit]
	}
	start = start[:strings.Index(start+Suffix, Suffix)] // not even a Suffix that begins in start
	return start + Suffix + "~" + digest
}
