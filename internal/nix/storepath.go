package nix

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// DefaultStoreDir is where nearly all stores of the world say that they are. Paths of stores elsewhere have other hash parts.
const DefaultStoreDir StoreDir = "/nix/store"

// StoreDir is the directory that a store's paths name, whether or not files are there. It is absolute and clean.
type StoreDir string

// ParseStoreDir returns the directory s after cleaning; it must be absolute and not the root.
func ParseStoreDir(s string) (StoreDir, error) {
	if !path.IsAbs(s) {
		return "", fmt.Errorf("store directory %q is not an absolute path", s)
	}
	s = path.Clean(s)
	if s == "/" {
		return "", errors.New("store directory is the root directory")
	}
	return StoreDir(s), nil
}

// Path returns the full path of p.
func (d StoreDir) Path(p StorePath) string { return string(d) + "/" + p.base }

const (
	hashPartLen = 32
	maxNameLen  = 211 // so that a base name with Nix's longest suffix of its own (.lock, .chroot, …) fits 255 bytes
)

// StorePath is a store path without its directory: a base name that is known to be well formed. Store paths are comparable
// with ==. The zero value is none.
type StorePath struct {
	base string
}

// ParseStorePath parses a full path in its only spelling: dir, a slash, and the base name.
func ParseStorePath(dir StoreDir, s string) (StorePath, error) {
	base, ok := strings.CutPrefix(s, string(dir)+"/")
	if !ok {
		return StorePath{}, fmt.Errorf("path %q is not in the Nix store", s)
	}
	return ParseBaseName(base)
}

// SplitStorePath splits what a person may write, a path that points into the store or below a store path, into the store path
// and the rest, which is "" or a clean relative path. It does not look at the disk, so that ".." goes up before links are followed.
func SplitStorePath(dir StoreDir, s string) (p StorePath, rest string, err error) {
	inside, ok := strings.CutPrefix(path.Clean(s), string(dir)+"/")
	if !ok {
		return StorePath{}, "", fmt.Errorf("path %q is not in the Nix store", s)
	}
	base, rest, _ := strings.Cut(inside, "/")
	p, err = ParseBaseName(base)
	return p, rest, err
}

// ParseBaseName parses a path without its directory, such as "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo", by the rules of
// Nix 2.36. Those of 2.8 also let some names pass that begin with a dot, and any character between hash part and name.
func ParseBaseName(s string) (StorePath, error) {
	if len(s) < hashPartLen+1 {
		return StorePath{}, fmt.Errorf("%q is too short to be a valid store path", s)
	}
	if s[hashPartLen] != '-' {
		return StorePath{}, fmt.Errorf("%q is not a valid store path: no '-' after the hash part", s)
	}
	for i := range hashPartLen {
		if !isNix32(s[i]) {
			return StorePath{}, fmt.Errorf("%q is not a valid store path: illegal base-32 character %q", s, s[i])
		}
	}
	if err := CheckName(s[hashPartLen+1:]); err != nil {
		return StorePath{}, fmt.Errorf("%q is not a valid store path: %w", s, err)
	}
	return StorePath{base: s}, nil
}

// CheckName says whether name can be the name of a store path: 1 to 211 ASCII letters, digits and characters of "+-._?=",
// of which neither "." nor ".." is all or what comes before the first dash.
func CheckName(name string) error {
	if name == "" {
		return errors.New("name must not be empty")
	}
	if len(name) > maxNameLen {
		return fmt.Errorf("name %q must be no longer than %d characters", name, maxNameLen)
	}
	if first, _, _ := strings.Cut(name, "-"); first == "." || first == ".." {
		return fmt.Errorf("name %q must not begin with the component %q", name, first)
	}
	for i := range len(name) {
		if !isNameByte(name[i]) {
			return fmt.Errorf("name %q contains illegal character %q", name, name[i])
		}
	}
	return nil
}

func isNix32(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' && c != 'e' && c != 'o' && c != 't' && c != 'u'
}

func isNameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '+' || c == '-' || c == '.' || c == '_' || c == '?' || c == '='
}

// IsZero reports whether p is none.
func (p StorePath) IsZero() bool { return p.base == "" }

// BaseName returns hash part and name, "" for none.
func (p StorePath) BaseName() string { return p.base }

// String returns the base name.
func (p StorePath) String() string { return p.base }

// HashPart returns the 32 characters before the name. p must not be none.
func (p StorePath) HashPart() string { return p.base[:hashPartLen] }

// Name returns what follows the hash part. p must not be none.
func (p StorePath) Name() string { return p.base[hashPartLen+1:] }

// IsDerivation reports whether the name ends in ".drv".
func (p StorePath) IsDerivation() bool { return strings.HasSuffix(p.base, ".drv") }

// Compare orders store paths as Nix orders them in sets: by the bytes of the base name.
func (p StorePath) Compare(q StorePath) int { return strings.Compare(p.base, q.base) }

// SortPaths returns the set of paths: in order, each once. It is paths itself if that is one already, else a copy.
func SortPaths(paths []StorePath) []StorePath {
	for i := 1; i < len(paths); i++ {
		if paths[i-1].base >= paths[i].base {
			sorted := slices.Clone(paths)
			slices.SortFunc(sorted, StorePath.Compare)
			return slices.Compact(sorted)
		}
	}
	return paths
}
