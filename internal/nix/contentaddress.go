package nix

import (
	"crypto/sha256"
	"fmt"
	"strings"
)

// Method says what of a store object its content address hashes. The zero value is none.
type Method uint8

// The methods.
const (
	MethodText Method = iota + 1 // the bytes of a file without executable bit, which may have references; always SHA-256
	MethodFlat                   // the bytes of a file without executable bit
	MethodNAR                    // the NAR
	MethodGit                    // git's blob or tree object: SHA-1 or SHA-256; experimental in Nix
)

// ParseMethod returns the method of a name as JSON has it.
func ParseMethod(name string) (Method, error) {
	for m := MethodText; m <= MethodGit; m++ {
		if m.String() == name {
			return m, nil
		}
	}
	return 0, fmt.Errorf("unknown content address method %q: expect text, flat, nar or git", name)
}

// String returns the method's name as JSON has it, "" for none.
func (m Method) String() string {
	switch m {
	case MethodText:
		return "text"
	case MethodFlat:
		return "flat"
	case MethodNAR:
		return "nar"
	case MethodGit:
		return "git"
	default:
		return ""
	}
}

// fixedPrefix returns what stands for the method behind "fixed:" and in the inner hash of a path.
func (m Method) fixedPrefix() string {
	switch m {
	case MethodNAR:
		return "r:"
	case MethodGit:
		return "git:"
	default:
		return ""
	}
}

// ParseMethodAlgo parses what MethodAlgo writes.
func ParseMethodAlgo(s string) (Method, Algo, error) {
	m, name := MethodFlat, s
	if rest, ok := strings.CutPrefix(s, "text:"); ok {
		m, name = MethodText, rest
	}
	for _, prefixed := range []Method{MethodNAR, MethodGit} {
		if rest, ok := strings.CutPrefix(s, prefixed.fixedPrefix()); ok {
			m, name = prefixed, rest
		}
	}
	a, err := ParseAlgo(name)
	if err == nil {
		err = m.check(a)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("parse method and hash algorithm %q: %w", s, err)
	}
	return m, a, nil
}

// MethodAlgo writes a method and an algorithm as derivations have them: the algorithm's name behind "text:", "r:", "git:" or nothing.
func MethodAlgo(m Method, a Algo) string {
	if m == MethodText {
		return "text:" + a.String()
	}
	return m.fixedPrefix() + a.String()
}

// check says whether the method may be used with an algorithm.
func (m Method) check(a Algo) error {
	switch {
	case m == MethodText && a != SHA256:
		return fmt.Errorf("content address method text needs sha256, not %s", a)
	case m == MethodGit && a != SHA1 && a != SHA256:
		return fmt.Errorf("content address method git needs sha1 or sha256, not %s", a)
	default:
		return nil
	}
}

// ContentAddress is what a store path's name was computed from, beside its references. Content addresses are comparable
// with ==. The zero value is none.
type ContentAddress struct {
	Method Method
	Hash   Hash
}

// ParseContentAddress parses what String writes, so "" is none. Other spellings of the hash than nix32 are accepted, too.
func ParseContentAddress(s string) (ContentAddress, error) {
	if s == "" {
		return ContentAddress{}, nil
	}
	var ca ContentAddress
	var rest string
	if text, ok := strings.CutPrefix(s, "text:"); ok {
		ca.Method, rest = MethodText, text
	} else if fixed, ok := strings.CutPrefix(s, "fixed:"); ok {
		ca.Method, rest = MethodFlat, fixed
		for _, m := range []Method{MethodNAR, MethodGit} {
			if after, ok := strings.CutPrefix(fixed, m.fixedPrefix()); ok {
				ca.Method, rest = m, after
			}
		}
	} else {
		return ContentAddress{}, fmt.Errorf("parse content address %q: neither text: nor fixed: is its beginning", s)
	}
	if !strings.Contains(rest, ":") { // refuses SRI, as Nix does
		return ContentAddress{}, fmt.Errorf("parse content address %q: the hash is not in the form <algo>:<hash>", s)
	}
	var err error
	if ca.Hash, err = ParseHash(rest, 0); err != nil {
		return ContentAddress{}, fmt.Errorf("parse content address %q: %w", s, err)
	}
	if err := ca.Method.check(ca.Hash.algo); err != nil {
		return ContentAddress{}, fmt.Errorf("parse content address %q: %w", s, err)
	}
	return ca, nil
}

// IsZero reports whether ca is none.
func (ca ContentAddress) IsZero() bool { return ca.Method == 0 }

// String returns the content address as Nix writes it everywhere but in JSON; "" for none.
func (ca ContentAddress) String() string {
	switch ca.Method {
	case 0:
		return ""
	case MethodText:
		return "text:" + ca.Hash.String()
	default:
		return "fixed:" + ca.Method.fixedPrefix() + ca.Hash.String()
	}
}

// MakeStorePath computes the path that Nix calls by name in dir for an object of the given type and inner hash; the
// package comment says what these are. The name must pass CheckName.
func MakeStorePath(dir StoreDir, typ string, inner Hash, name string) (StorePath, error) {
	if err := CheckName(name); err != nil {
		return StorePath{}, fmt.Errorf("make store path: %w", err)
	}
	full := sha256.Sum256([]byte(typ + ":" + inner.algo.String() + ":" + inner.Base16() + ":" + string(dir) + ":" + name))
	var folded [20]byte
	for i, c := range full {
		folded[i%len(folded)] ^= c
	}
	return StorePath{base: EncodeNix32(folded[:]) + "-" + name}, nil
}

// MakePathFromCA computes the path in dir of the object with this name, content address and references. Self says that the
// object refers to itself; its path, which is what is looked for, is then not among refs. References are possible with
// MethodText, except to itself, and with MethodNAR and SHA-256.
func MakePathFromCA(dir StoreDir, name string, ca ContentAddress, refs []StorePath, self bool) (StorePath, error) {
	if err := ca.Method.check(ca.Hash.algo); err != nil {
		return StorePath{}, fmt.Errorf("make store path for %q: %w", name, err)
	}
	var typ string
	switch {
	case ca.IsZero() || ca.Hash.IsZero():
		return StorePath{}, fmt.Errorf("make store path for %q: no content address", name)
	case ca.Method == MethodText && self:
		return StorePath{}, fmt.Errorf("make store path for %q: a text cannot refer to itself", name)
	case ca.Method == MethodText:
		typ = "text"
	case ca.Method == MethodNAR && ca.Hash.algo == SHA256:
		typ = "source"
	case len(refs) > 0 || self:
		return StorePath{}, fmt.Errorf("make store path for %q: an object addressed by %s of %s is not allowed to refer to other store paths",
			name, ca.Hash.algo, ca.Method)
	default:
		inner := sha256.Sum256([]byte("fixed:out:" + ca.Method.fixedPrefix() + ca.Hash.algo.String() + ":" + ca.Hash.Base16() + ":"))
		return MakeStorePath(dir, "output:out", NewSHA256(inner), name)
	}

	var b strings.Builder
	b.WriteString(typ)
	for _, ref := range SortPaths(refs) {
		b.WriteByte(':')
		b.WriteString(dir.Path(ref))
	}
	if self {
		b.WriteString(":self")
	}
	return MakeStorePath(dir, b.String(), ca.Hash, name)
}
