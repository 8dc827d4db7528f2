package fstest

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/narfs/narfs/nar"
)

// Node is a node to build an object of: exactly one of Dir, Data and Link counts, in this order; an empty Node is an
// empty file.
type Node struct {
	Dir  map[string]Node
	Data []byte
	Exec bool
	Link string
}

// Dir returns a directory of paths and nodes, "a/b/c" making the directories a and a/b.
func Dir(entries map[string]Node) Node {
	top := Node{Dir: map[string]Node{}}
	for path, n := range entries {
		top.put(path, n)
	}
	return top
}

func (n *Node) put(path string, leaf Node) {
	name, rest, deeper := strings.Cut(path, "/")
	if !deeper {
		if old, ok := n.Dir[name]; ok && old.Dir != nil && leaf.Dir != nil {
			maps.Copy(leaf.Dir, old.Dir)
		}
		n.Dir[name] = leaf
		return
	}
	child := n.Dir[name]
	if child.Dir == nil {
		child.Dir = map[string]Node{}
	}
	child.put(rest, leaf)
	n.Dir[name] = child
}

// Text is a file that holds text.
func Text(text string) Node { return Node{Data: []byte(text)} }

// Script is an executable file.
func Script(text string) Node { return Node{Data: []byte(text), Exec: true} }

// Link is a symlink.
func Link(target string) Node { return Node{Link: target} }

// Empty is an empty directory.
func Empty() Node { return Node{Dir: map[string]Node{}} }

// Bytes returns n bytes that differ from seed to seed, and at every offset.
func Bytes(n int, seed byte) []byte {
	b := make([]byte, n)
	state := uint32(seed)*2654435761 + 12345
	for i := range b {
		state = state*1664525 + 1013904223
		b[i] = byte(state >> 24)
	}
	return b
}

// New builds an object. It panics if a NAR could not hold it.
func New(top Node) *Object {
	b := builder{tree: nar.NewTreeBuilder(nar.Limits{})}
	b.add("", 1, top)
	t, err := b.tree.Finish()
	if err != nil {
		panic(fmt.Sprintf("fstest: %v", err))
	}
	o := &Object{tree: t, contents: map[uint32][]byte{}, start: map[uint32]int64{}}
	for i := range t.All() {
		if t.Type(i) == nar.TypeRegular {
			content := b.files[len(o.files)]
			o.files = append(o.files, i)
			o.contents[i], o.start[i] = content, o.total
			o.total += int64(len(content))
		}
	}
	return o
}

type builder struct {
	tree  *nar.TreeBuilder
	files [][]byte // contents in NAR order
}

func (b *builder) add(name string, depth int, n Node) {
	h := nar.Header{Depth: depth, Name: name, Type: nar.TypeRegular}
	switch {
	case n.Dir != nil:
		h.Type = nar.TypeDirectory
	case n.Link != "":
		h.Type, h.Target = nar.TypeSymlink, n.Link
	default:
		h.Size, h.Executable = int64(len(n.Data)), n.Exec
		b.files = append(b.files, bytes.Clone(n.Data))
	}
	if err := b.tree.Add(h); err != nil {
		panic(fmt.Sprintf("fstest: %v", err))
	}
	names := make([]string, 0, len(n.Dir))
	for name := range n.Dir {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		b.add(name, depth+1, n.Dir[name])
	}
}
