package nar

import (
	"errors"
	"fmt"
	"strings"
)

// The limits of the format, as the newest Nix sets them, and of this package.
const (
	// MaxDepth is how deep nodes nest; the root is at depth 1.
	MaxDepth = 64
	// MaxName is the longest name of an entry, in bytes.
	MaxName = 255
	// MaxTarget is the longest symlink target, in bytes.
	MaxTarget = 4095
	// MaxContents bounds the size of one file and of a whole NAR. Nix has no such
	// limit; this one keeps every sum of sizes inside an int64.
	MaxContents = 1 << 60
)

const (
	defaultEntries   = 4 << 20
	defaultNameBytes = 256 << 20
	// A Tree holds indexes in 31 bits and offsets into its names in 32.
	maxEntries   = 1 << 30
	maxNameBytes = 1<<32 - 1
)

// Type is the type of a node. The zero value is none.
type Type uint8

// The three types of nodes.
const (
	TypeDirectory Type = iota + 1
	TypeRegular
	TypeSymlink
)

// String gives the word that NARs and listings use.
func (t Type) String() string {
	switch t {
	case TypeDirectory:
		return "directory"
	case TypeRegular:
		return "regular"
	case TypeSymlink:
		return "symlink"
	default:
		return fmt.Sprintf("Type(%d)", uint8(t))
	}
}

// Header describes one node of a NAR. Nodes come in NAR order; Depth says
// where a directory ends.
type Header struct {
	// Depth is 1 for the root and one more than its directory's for an entry.
	Depth int
	// Name is the entry's name, empty for the root.
	Name string
	Type Type
	// Executable and Size (of the contents, in bytes) are for regular files.
	Executable bool
	Size       int64
	// Target is for symlinks.
	Target string
}

// Limits bounds what a NAR may cost the memory of who keeps its entries.
type Limits struct {
	// Entries is the largest number of nodes, the root included. 0 means 4,194,304.
	Entries int
	// NameBytes bounds the sum of the lengths of names and targets. 0 means 256 MiB.
	NameBytes int64
	// Size is the largest number of bytes of the NAR itself: what it turns out to be longer than that is ErrSize, at the first entry
	// or contents that would go beyond. 0 means no limit.
	Size int64
}

// ErrSize says that a NAR is longer than Limits.Size.
var ErrSize = errors.New("NAR is longer than it should be")

func (l Limits) withDefaults() Limits {
	if l.Entries <= 0 {
		l.Entries = defaultEntries
	}
	if l.NameBytes <= 0 {
		l.NameBytes = defaultNameBytes
	}
	l.Entries = min(l.Entries, maxEntries)
	l.NameBytes = min(l.NameBytes, maxNameBytes)
	return l
}

// budget counts nodes, names and contents against Limits.
type budget struct {
	lim       Limits
	entries   int
	nameBytes int64
	contents  int64
}

func newBudget(lim Limits) budget { return budget{lim: lim.withDefaults()} }

func (b *budget) entry(nameLen int) error {
	b.entries++
	if b.entries > b.lim.Entries {
		return fmt.Errorf("NAR has more than %d entries", b.lim.Entries)
	}
	return b.text(nameLen)
}

func (b *budget) text(n int) error {
	b.nameBytes += int64(n)
	if b.nameBytes > b.lim.NameBytes {
		return fmt.Errorf("NAR has more than %d bytes of names and symlink targets", b.lim.NameBytes)
	}
	return nil
}

func (b *budget) file(size int64) error {
	if size < 0 || size > MaxContents-b.contents {
		return errTooLarge
	}
	b.contents += size
	return nil
}

var errTooLarge = fmt.Errorf("NAR has more than %d bytes of contents", int64(MaxContents))

// checkName says what is wrong with the name of an entry.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("empty file name")
	case len(name) > MaxName:
		return fmt.Errorf("file name of %d bytes is longer than %d", len(name), MaxName)
	case name == ".", name == "..", strings.IndexByte(name, '/') >= 0, strings.IndexByte(name, 0) >= 0:
		return fmt.Errorf("invalid file name %q", name)
	}
	return nil
}

// checkTarget says what is wrong with the target of a symlink.
func checkTarget(target string) error {
	switch {
	case target == "":
		return errors.New("empty symlink target")
	case len(target) > MaxTarget:
		return fmt.Errorf("symlink target of %d bytes is longer than %d", len(target), MaxTarget)
	case strings.IndexByte(target, 0) >= 0:
		return fmt.Errorf("invalid symlink target %q", target)
	}
	return nil
}

var errDepth = fmt.Errorf("nested deeper than %d levels", MaxDepth)

// sequence checks that headers come in NAR order and describe possible nodes.
type sequence struct {
	depth int  // of the last header, 0 before the root
	dir   bool // the last header was a directory
	// last holds, per depth, the latest entry of the directory being filled.
	last [MaxDepth + 1]string
}

func (s *sequence) next(h *Header) error {
	if err := s.place(h); err != nil {
		return err
	}
	switch h.Type {
	case TypeDirectory:
		if h.Executable || h.Size != 0 || h.Target != "" {
			return errors.New("directory with the fields of another type")
		}
	case TypeRegular:
		if h.Target != "" {
			return errors.New("regular file with a symlink target")
		}
		if h.Size < 0 || h.Size > MaxContents {
			return fmt.Errorf("invalid file size %d", h.Size)
		}
	case TypeSymlink:
		if h.Executable || h.Size != 0 {
			return errors.New("symlink with the fields of another type")
		}
		if err := checkTarget(h.Target); err != nil {
			return err
		}
	default:
		return fmt.Errorf("unknown file type %d", h.Type)
	}
	s.depth, s.dir = h.Depth, h.Type == TypeDirectory
	if s.dir && h.Depth < MaxDepth {
		s.last[h.Depth+1] = ""
	}
	s.last[h.Depth] = h.Name
	return nil
}

// place checks depth and name.
func (s *sequence) place(h *Header) error {
	if s.depth == 0 {
		if h.Depth != 1 || h.Name != "" {
			return fmt.Errorf("the first node must be the root, not %q at depth %d", h.Name, h.Depth)
		}
		return nil
	}
	deepest := s.depth
	if s.dir {
		deepest++
	}
	switch {
	case h.Depth > MaxDepth:
		return errDepth
	case h.Depth < 2 || h.Depth > deepest:
		return fmt.Errorf("entry at depth %d after a node at depth %d", h.Depth, s.depth)
	}
	if err := checkName(h.Name); err != nil {
		return err
	}
	if last := s.last[h.Depth]; h.Name <= last {
		return notSorted(h.Name, last)
	}
	return nil
}

func notSorted(name, last string) error {
	if name == last {
		return fmt.Errorf("NAR directory has two entries %q", name)
	}
	return fmt.Errorf("NAR directory is not sorted: %q after %q", name, last)
}
