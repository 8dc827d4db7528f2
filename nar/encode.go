package nar

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// treeVersion is the version of a Tree's binary form, drawn in the package comment.
const treeVersion = 1

// AppendBinary appends the binary form of the tree to b. It never fails; the
// error is there for encoding.BinaryAppender.
func (t *Tree) AppendBinary(b []byte) ([]byte, error) {
	n := t.Len()
	b = append(b, 'T', treeVersion)
	b = binary.AppendUvarint(b, uint64(n))
	b = binary.AppendUvarint(b, uint64(len(t.names)))
	b = binary.AppendUvarint(b, uint64(len(t.targets)))
	for i := range t.nodes[:n] {
		b = append(b, byte(t.nodes[i].kind()))
	}
	for i := 1; i < n; i++ {
		b = append(b, byte(t.nodes[i+1].name-t.nodes[i].name))
	}
	for i := range t.nodes[:n] {
		b = binary.AppendUvarint(b, uint64(t.Size(uint32(i))))
	}
	b = append(b, t.names...)
	// TreeBuilder leaves the targets in NAR order; the binary form has one order.
	for i := range t.nodes[:n] {
		b = append(b, t.Target(uint32(i))...)
	}
	return b, nil
}

// ParseTree reads the binary form of a tree, which must fill b. It trusts
// nothing: what it returns is the tree of a possible NAR (within the format's
// limits; those of Limits do not apply). It allocates less than 10 bytes for a
// byte of b, and keeps no reference to b.
func ParseTree(b []byte) (*Tree, error) {
	t, err := parseTree(b)
	if err != nil {
		return nil, fmt.Errorf("parse tree: %w", err)
	}
	return t, nil
}

var errTreeShort = errors.New("it ends early")

func parseTree(b []byte) (*Tree, error) {
	if len(b) < 2 || b[0] != 'T' {
		return nil, errors.New("no tree begins here")
	}
	if b[1] != treeVersion {
		return nil, fmt.Errorf("version %d is unknown", b[1])
	}
	var head [3]uint64
	rest := b[2:]
	for i := range head {
		var err error
		if head[i], rest, err = uvarint(rest); err != nil {
			return nil, err
		}
	}
	n, names, targets := head[0], head[1], head[2]
	// Each node takes a byte of kind and at least one of number.
	if room := uint64(len(rest)); n > room/2 || names > room || targets > room {
		return nil, errTreeShort
	}
	if n == 0 || n > maxEntries || names > maxNameBytes || targets > maxNameBytes {
		return nil, errors.New("too few or too many nodes")
	}
	c := columns{kinds: rest[:n]}
	rest = rest[n:]
	if uint64(len(rest)) < n-1+names+targets {
		return nil, errTreeShort
	}
	c.lengths, rest = rest[:n-1], rest[n-1:]
	tail := uint64(len(rest)) - names - targets
	c.numbers, c.names, c.targets = rest[:tail], rest[tail:tail+names], rest[tail+names:]
	return c.tree()
}

// columns are the parts of a tree's binary form.
type columns struct{ kinds, lengths, numbers, names, targets []byte }

func (c *columns) tree() (*Tree, error) {
	n := uint32(len(c.kinds))
	t := &Tree{
		nodes:   make([]node, n, n+1),
		names:   append(make([]byte, 0, len(c.names)), c.names...),
		targets: append(make([]byte, 0, len(c.targets)), c.targets...),
	}
	var (
		used  = uint32(1)               // nodes that have a parent; the root needs none
		bytes int64                     // of contents
		off   = struct{ t, n uint64 }{} // in targets and names
	)
	for i, kind := range c.kinds {
		v, rest, err := uvarint(c.numbers)
		if err != nil {
			return nil, err
		}
		c.numbers = rest
		if uint32(i) >= used { // what has a parent before it is no part of a cycle
			return nil, errors.New("nodes without a directory")
		}
		nd := &t.nodes[i]
		nd.name = uint32(off.n)
		if i > 0 {
			off.n += uint64(c.lengths[i-1])
		}
		switch kind {
		case kindDir:
			if v > uint64(n-used) {
				return nil, errors.New("a directory has more entries than there are nodes")
			}
			for e := used; e < used+uint32(v); e++ {
				t.nodes[e].parent = uint32(i)
			}
			nd.data = packDir(used, uint32(v))
			used += uint32(v)
		case kindFile, kindExec:
			if v > uint64(MaxContents-bytes) {
				return nil, errTooLarge
			}
			bytes += int64(v)
			nd.data = packFile(int64(v), kind == kindExec)
		case kindLink:
			if v > MaxTarget || v > uint64(len(c.targets))-off.t {
				return nil, errors.New("a symlink target is too long")
			}
			nd.data = packLink(uint32(off.t), int(v))
			off.t += v
		default:
			return nil, fmt.Errorf("unknown kind of node %d", kind)
		}
	}
	if len(c.numbers) > 0 || off.t != uint64(len(c.targets)) || off.n != uint64(len(c.names)) {
		return nil, errors.New("its columns are not as long as their contents")
	}
	t.seal()
	return t, t.check()
}

// check is for a tree whose indexes are in bounds and which has no cycles. It
// looks at depth, names, targets and order.
func (t *Tree) check() error {
	// The nodes of one level follow those of the level above.
	end := uint32(1)
	for i, depth := uint32(0), 1; i < uint32(t.Len()); depth++ {
		if depth > MaxDepth {
			return errDepth
		}
		next := end
		for ; i < end; i++ {
			nd := &t.nodes[i]
			switch nd.kind() {
			case kindDir:
				first, n := nd.dir()
				next = first + n
				if err := t.checkEntries(first, n); err != nil {
					return err
				}
			case kindLink:
				if err := checkTarget(t.Target(i)); err != nil {
					return err
				}
			}
		}
		end = next
	}
	return nil
}

func (t *Tree) checkEntries(first, n uint32) error {
	last := ""
	for e := first; e < first+n; e++ {
		name := t.Name(e)
		if err := checkName(name); err != nil {
			return err
		}
		if name <= last {
			return notSorted(name, last)
		}
		last = name
	}
	return nil
}

// uvarint cuts a number in its shortest form off b.
func uvarint(b []byte) (uint64, []byte, error) {
	v, n := binary.Uvarint(b)
	switch {
	case n == 0:
		return 0, nil, errTreeShort
	case n < 0 || n > 1 && b[n-1] == 0:
		return 0, nil, errors.New("a number is too large or not in its shortest form")
	}
	return v, b[n:], nil
}
