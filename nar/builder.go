package nar

import (
	"errors"
	"fmt"
)

// TreeBuilder makes a Tree of headers in NAR order. It is not for concurrent
// use.
//
// The nodes of one depth arrive in their breadth-first order, so one growing
// column for each depth is all it keeps.
type TreeBuilder struct {
	seq    sequence
	budget budget
	// levels[d-1] holds the nodes at depth d. Their indexes and offsets count
	// from the beginning of a level until Finish.
	levels  []level
	targets []byte
	done    bool
}

type level struct {
	nodes []node
	names []byte
}

// NewTreeBuilder returns an empty builder.
func NewTreeBuilder(lim Limits) *TreeBuilder {
	return &TreeBuilder{budget: newBudget(lim)}
}

// Add appends the next node in NAR order. It checks everything that a NAR
// requires; after an error the builder is of no further use.
func (b *TreeBuilder) Add(h Header) error {
	if b.done {
		return errors.New("add to a finished tree")
	}
	if err := b.seq.next(&h); err != nil {
		return addError(&h, err)
	}
	if err := b.budget.entry(len(h.Name)); err != nil {
		return addError(&h, err)
	}
	if h.Depth > len(b.levels) {
		b.levels = append(b.levels, level{})
	}
	lv := &b.levels[h.Depth-1]
	n := node{name: uint32(len(lv.names))}
	lv.names = append(lv.names, h.Name...)
	switch h.Type {
	case TypeDirectory:
		var first int
		if h.Depth < len(b.levels) {
			first = len(b.levels[h.Depth].nodes)
		}
		n.data = packDir(uint32(first), 0)
	case TypeRegular:
		if err := b.budget.file(h.Size); err != nil {
			return addError(&h, err)
		}
		n.data = packFile(h.Size, h.Executable)
	case TypeSymlink:
		if err := b.budget.text(len(h.Target)); err != nil {
			return addError(&h, err)
		}
		n.data = packLink(uint32(len(b.targets)), len(h.Target))
		b.targets = append(b.targets, h.Target...)
	}
	if h.Depth > 1 {
		up := b.levels[h.Depth-2].nodes
		n.parent = uint32(len(up) - 1)
		up[n.parent].data += packDir(0, 1) - packDir(0, 0)
	}
	lv.nodes = append(lv.nodes, n)
	return nil
}

func addError(h *Header, err error) error {
	return fmt.Errorf("add %q to a tree: %w", h.Name, err)
}

// Finish returns the tree of all nodes added. Any beginning of a NAR is a tree,
// so only an empty builder is an error. The builder is of no further use.
func (b *TreeBuilder) Finish() (*Tree, error) {
	if b.done {
		return nil, errors.New("tree already finished")
	}
	b.done = true
	var nodes, names int
	for _, lv := range b.levels {
		nodes += len(lv.nodes)
		names += len(lv.names)
	}
	if nodes == 0 {
		return nil, errors.New("tree without a root")
	}
	t := &Tree{
		nodes:   make([]node, 0, nodes+1),
		names:   make([]byte, 0, names),
		targets: append(make([]byte, 0, len(b.targets)), b.targets...),
	}
	var above uint32 // index of the first node of the level above
	for d := range b.levels {
		lv := &b.levels[d]
		base := uint32(len(t.nodes))
		next := base + uint32(len(lv.nodes))
		nameBase := uint32(len(t.names))
		for _, n := range lv.nodes {
			n.name += nameBase
			n.parent += above
			if n.kind() == kindDir {
				n.data += packDir(next, 0) - packDir(0, 0)
			}
			t.nodes = append(t.nodes, n)
		}
		t.names = append(t.names, lv.names...)
		above = base
		*lv = level{} // its memory is free before the next level is copied
	}
	t.seal()
	b.levels, b.targets = nil, nil
	return t, nil
}
