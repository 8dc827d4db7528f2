package nar

import (
	"iter"
	"strings"
	"unsafe"
)

// Tree is the shape of one NAR: every node but no contents. It is immutable
// and may be used concurrently. Nodes are numbered breadth first: the root is 0,
// the entries of a directory have consecutive numbers in the order of their
// names. Methods panic for a number that is not below Len, as a slice does.
type Tree struct {
	// nodes ends with a sentinel that bounds the last name. Neither it nor the
	// arenas hold pointers: the garbage collector never looks inside.
	nodes   []node
	names   []byte // of all nodes, in their order
	targets []byte
}

// node is one node: data packs its kind (2 bits) and what the kind needs.
type node struct {
	data   uint64
	parent uint32
	name   uint32 // offset in names; the name ends where the next node's begins
}

// The kinds of nodes, as data and the binary form have them.
const (
	kindDir = iota
	kindFile
	kindExec
	kindLink
)

const (
	kindBits   = 2
	indexBits  = 31
	targetBits = 12 // MaxTarget fits
)

func packDir(first, n uint32) uint64 {
	return (uint64(first)<<indexBits|uint64(n))<<kindBits + kindDir
}

func packFile(size int64, executable bool) uint64 {
	if executable {
		return uint64(size)<<kindBits | kindExec
	}
	return uint64(size)<<kindBits | kindFile
}

func packLink(off uint32, n int) uint64 {
	return (uint64(off)<<targetBits|uint64(n))<<kindBits | kindLink
}

func (n *node) kind() uint64 { return n.data & (1<<kindBits - 1) }

func (n *node) dir() (first, count uint32) {
	v := n.data >> kindBits
	return uint32(v >> indexBits), uint32(v & (1<<indexBits - 1))
}

func (n *node) link() (off, count uint32) {
	v := n.data >> kindBits
	return uint32(v >> targetBits), uint32(v & (1<<targetBits - 1))
}

// seal appends the sentinel.
func (t *Tree) seal() { t.nodes = append(t.nodes, node{name: uint32(len(t.names))}) }

// Len is the number of nodes, at least 1.
func (t *Tree) Len() int { return len(t.nodes) - 1 }

// Type is the type of node i.
func (t *Tree) Type(i uint32) Type {
	switch t.at(i).kind() {
	case kindDir:
		return TypeDirectory
	case kindLink:
		return TypeSymlink
	default:
		return TypeRegular
	}
}

// Executable says whether node i is an executable regular file.
func (t *Tree) Executable(i uint32) bool { return t.at(i).kind() == kindExec }

// Size is the size of a regular file's contents in bytes, the length of a
// symlink's target, the number of a directory's entries.
func (t *Tree) Size(i uint32) int64 {
	n := t.at(i)
	switch n.kind() {
	case kindDir:
		_, count := n.dir()
		return int64(count)
	case kindLink:
		_, count := n.link()
		return int64(count)
	default:
		return int64(n.data >> kindBits)
	}
}

// Target is the target of a symlink and "" for other nodes. Like every string
// of a Tree it shares the Tree's memory: nothing is allocated, and the string
// keeps that memory alive.
func (t *Tree) Target(i uint32) string {
	n := t.at(i)
	if n.kind() != kindLink {
		return ""
	}
	off, count := n.link()
	return view(t.targets[off : off+count])
}

// Name is the name of node i in its directory, "" for the root. See Target for
// its memory.
func (t *Tree) Name(i uint32) string {
	return view(t.names[t.at(i).name:t.nodes[i+1].name])
}

// Parent is the directory of node i; the root's is the root.
func (t *Tree) Parent(i uint32) uint32 { return t.at(i).parent }

// Children gives the entries of directory i: the n nodes from first on. n is 0
// for other nodes.
func (t *Tree) Children(i uint32) (first, n uint32) {
	if nd := t.at(i); nd.kind() == kindDir {
		return nd.dir()
	}
	return 0, 0
}

// Lookup finds the entry of directory dir with exactly this name.
func (t *Tree) Lookup(dir uint32, name string) (uint32, bool) {
	lo, n := t.Children(dir)
	end := lo + n
	for hi := end; lo < hi; {
		mid := lo + (hi-lo)/2
		if t.Name(mid) < name {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < end && t.Name(lo) == name
}

// Resolve finds the node at a path of names joined by single slashes, relative
// to the root; "" is the root itself. It follows no symlinks, and knows neither
// "." nor "..", since no entry has such a name.
func (t *Tree) Resolve(path string) (uint32, bool) {
	var i uint32
	if path == "" {
		return i, true
	}
	for more := true; more; {
		var name string
		name, path, more = strings.Cut(path, "/")
		next, ok := t.Lookup(i, name)
		if !ok {
			return 0, false
		}
		i = next
	}
	return i, true
}

// Path is the path of node i relative to the root, as Resolve takes it.
func (t *Tree) Path(i uint32) string {
	var length int
	for n := i; n != 0; n = t.Parent(n) {
		length += len(t.Name(n)) + 1
	}
	if length == 0 {
		return ""
	}
	buf := make([]byte, length)
	for n := i; n != 0; n = t.Parent(n) {
		name := t.Name(n)
		length -= len(name) + 1
		buf[length] = '/'
		copy(buf[length+1:], name)
	}
	return view(buf[1:])
}

// Header describes node i as a NAR does. The caller knows the depth, from All.
func (t *Tree) Header(i uint32, depth int) Header {
	h := Header{Depth: depth, Name: t.Name(i), Type: t.Type(i), Executable: t.Executable(i)}
	switch h.Type {
	case TypeRegular:
		h.Size = t.Size(i)
	case TypeSymlink:
		h.Target = t.Target(i)
	case TypeDirectory: // the number of its entries follows from what comes
	}
	return h
}

// All yields every node with its depth (the root's is 1) in NAR order.
func (t *Tree) All() iter.Seq2[uint32, int] {
	return func(yield func(uint32, int) bool) {
		// The entries still to come of each directory on the way down.
		var stack [MaxDepth + 1]struct{ next, end uint32 }
		depth := 1
		stack[depth].end = 1
		for depth > 0 {
			top := &stack[depth]
			if top.next == top.end {
				depth--
				continue
			}
			i := top.next
			top.next++
			if !yield(i, depth) {
				return
			}
			if first, n := t.Children(i); n > 0 {
				depth++
				stack[depth].next, stack[depth].end = first, first+n
			}
		}
	}
}

// Bytes is the memory that the Tree holds, for caches that count it.
func (t *Tree) Bytes() int64 {
	return int64(unsafe.Sizeof(*t)) + int64(cap(t.nodes))*int64(unsafe.Sizeof(node{})) +
		int64(cap(t.names)) + int64(cap(t.targets))
}

// at bounds i by Len, which the sentinel exceeds by one.
func (t *Tree) at(i uint32) *node { return &t.nodes[:len(t.nodes)-1][i] }

// view makes a string of bytes that nobody changes any more.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
