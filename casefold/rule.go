package casefold

import (
	"fmt"
)

// Rule says which names are one name. The zero value is ASCII, Nix's own rule.
type Rule uint8

const (
	// ASCII is C's strcasecmp: A to Z equal a to z, every other byte only itself. Nix uses it everywhere.
	ASCII Rule = iota
	// HFS is the comparison of HFS+.
	HFS
	// APFS is the comparison of case-insensitive APFS: canonical decomposition and full case folding.
	APFS
)

// ParseRule returns the rule of that name: "ascii", "hfs" or "apfs".
func ParseRule(name string) (Rule, error) {
	for r := ASCII; r <= APFS; r++ {
		if r.String() == name {
			return r, nil
		}
	}
	return 0, fmt.Errorf("case folding rule %q: want ascii, hfs or apfs", name)
}

// String returns the name that ParseRule understands.
func (r Rule) String() string {
	switch r {
	case ASCII:
		return "ascii"
	case HFS:
		return "hfs"
	case APFS:
		return "apfs"
	}
	return fmt.Sprintf("Rule(%d)", uint8(r))
}

// Key returns a string that is the same for two names exactly if they collide under the rule. It is for
// comparing and hashing only, not for showing: it may be no valid name and no valid UTF-8.
func (r Rule) Key(name string) string {
	var buf [keyBuf]byte
	key := r.appendKey(buf[:0], name)
	if string(key) == name {
		return name
	}
	return string(key)
}

// keyBuf holds the key of nearly every name without allocation: names have at most 255 bytes.
const keyBuf = 256
