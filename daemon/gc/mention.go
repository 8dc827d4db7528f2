package gc

import (
	"bytes"

	"github.com/narfs/narfs/internal/nix"
)

// hashPart is the length of the hash part of a base name.
const hashPart = 32

// longest is the length of the longest base name.
const longest = hashPart + 1 + 211

// mentions calls found with each base name of a store path that stands behind a slash in a text. It takes the longest name that it
// could be. What follows a name may look like more of it, as in an URL with a query, so that only the hash part is certain.
func mentions(text []byte, found func(nix.StorePath)) {
	for {
		i := bytes.IndexByte(text, '/')
		if i < 0 {
			return
		}
		text = text[i+1:]
		if len(text) < hashPart+2 || text[hashPart] != '-' {
			continue
		}
		n := 0
		for n < hashPart && isNix32(text[n]) {
			n++
		}
		if n < hashPart {
			continue
		}
		end := hashPart + 1
		for end < min(len(text), longest) && isName(text[end]) {
			end++
		}
		if p, err := nix.ParseBaseName(string(text[:end])); err == nil {
			found(p)
		}
	}
}

func isNix32(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' && c != 'e' && c != 'o' && c != 't' && c != 'u'
}

func isName(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || bytes.IndexByte([]byte("+-._?="), c) >= 0
}
