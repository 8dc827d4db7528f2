package casefold

import "fmt"

// Rule says which names are one name. The zero value is ASCII, Nix's own rule.
type Rule uint8

// The rules. The package comment defines them.
const (
	ASCII Rule = iota // C's strcasecmp, as Nix
	HFS               // HFS+
	APFS              // case-insensitive APFS
)

// ParseRule returns the rule that is called "ascii", "hfs" or "apfs".
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

// keyBuf is the size of buffers on the stack for keys: nearly all are no longer than their names.
const keyBuf = MaxName + 1

// Key returns a string that is the same for two names exactly if they collide. It serves comparing and hashing,
// not showing: it may be no valid file name and no valid UTF-8. It is name itself, without allocation, for most names.
func (r Rule) Key(name string) string {
	var buf [keyBuf]byte
	key := r.appendKey(buf[:0], name)
	if string(key) == name {
		return name
	}
	return string(key)
}
