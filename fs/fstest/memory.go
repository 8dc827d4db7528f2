// Package fstest has a store in memory for tests and benchmarks of mounts, and the tests that every fs.Source must
// pass.
package fstest

import (
	"bytes"
	"fmt"
	iofs "io/fs"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/narfs/narfs/fs"
	"github.com/narfs/narfs/nar"
)

// Memory is a fs.Source whose store paths are in memory. It is for concurrent use.
type Memory struct {
	// FrameSize is the size of the runs that Span returns; 0 is 128 KiB. Set it before the first use.
	FrameSize int64
	// Opens counts calls of Open.
	Opens atomic.Int64
	// Spans is how many spans are not released yet.
	Spans atomic.Int64

	mu     sync.RWMutex
	last   uint32             // guarded by mu: the last slot given out
	names  map[string]uint32  // guarded by mu
	bySlot map[uint32]*Object // guarded by mu; removed ones stay, as Source demands
}

var _ fs.Source = (*Memory)(nil)

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{names: map[string]uint32{}, bySlot: map[uint32]*Object{}}
}

// Object is one store path in memory. Its frames are runs of FrameSize bytes of its files in NAR order.
type Object struct {
	tree     *nar.Tree
	contents map[uint32][]byte
	memory   *Memory

	files []uint32         // regular files in NAR order
	start map[uint32]int64 // where each begins in all content
	total int64            // of all content

	// Attrs are the extended attributes of the top node.
	Attrs []fs.XAttr
	// Fail makes all reading fail with it.
	Fail atomic.Pointer[error]
}

var (
	_ fs.Object      = (*Object)(nil)
	_ fs.FrameObject = (*Object)(nil)
	_ fs.XAttrObject = (*Object)(nil)
)

// Add makes a path valid. It panics if there is one of that name.
func (m *Memory) Add(name string, o *Object) (slot uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, dup := m.names[name]; dup {
		panic("fstest: added twice: " + name)
	}
	m.last++
	o.memory = m
	m.names[name], m.bySlot[m.last] = m.last, o
	return m.last
}

// Remove makes a path invalid. Its object can still be opened.
func (m *Memory) Remove(name string) (slot uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	slot = m.names[name]
	delete(m.names, name)
	return slot
}

// Drop forgets the object in a slot.
func (m *Memory) Drop(slot uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.bySlot, slot)
}

// Lookup implements fs.Source.
func (m *Memory) Lookup(name string) (uint32, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if slot, ok := m.names[name]; ok {
		return slot, nil
	}
	return 0, iofs.ErrNotExist
}

// Open implements fs.Source.
func (m *Memory) Open(slot uint32) (fs.Object, error) {
	m.Opens.Add(1)
	m.mu.RLock()
	defer m.mu.RUnlock()
	if o := m.bySlot[slot]; o != nil {
		return o, nil
	}
	return nil, iofs.ErrNotExist
}

// List implements fs.Source.
func (m *Memory) List(yield func(string, uint32) bool) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for name, slot := range m.names {
		if !yield(name, slot) {
			break
		}
	}
	return nil
}

// Usage implements fs.Source.
func (m *Memory) Usage() fs.Usage {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return fs.Usage{Used: 1 << 20, Free: 1 << 30, Paths: int64(len(m.names))}
}

// Tree implements fs.Object.
func (o *Object) Tree() (*nar.Tree, error) {
	if err := o.Fail.Load(); err != nil {
		return nil, *err
	}
	return o.tree, nil
}

// ReadAt implements fs.Object.
func (o *Object) ReadAt(node uint32, p []byte, off int64) (int, error) {
	if err := o.Fail.Load(); err != nil {
		return 0, *err
	}
	return bytes.NewReader(o.contents[node]).ReadAt(p, off)
}

// Span implements fs.Object. Every span is a copy of its own that is overwritten when it is released.
func (o *Object) Span(node uint32, off int64, n int) (data []byte, start int64, release func(), err error) {
	if err := o.Fail.Load(); err != nil {
		return nil, 0, nil, *err
	}
	lo, hi := o.frame(node, off)
	p := o.piece(node, lo, hi)
	if n > 0 {
		p.Data = p.Data[:min(int64(len(p.Data)), off-p.Off+int64(n))]
	}
	o.memory.Spans.Add(1)
	return p.Data, p.Off, func() {
		clear(p.Data) // whoever still uses it will notice
		o.memory.Spans.Add(-1)
	}, nil
}

// Frame implements fs.FrameObject.
func (o *Object) Frame(node uint32, off int64, yield func(fs.Piece) bool) error {
	if err := o.Fail.Load(); err != nil {
		return *err
	}
	lo, hi := o.frame(node, off)
	here := slices.Index(o.files, node)
	for _, step := range []int{1, -1} {
		for i := here + step; i >= 0 && i < len(o.files); i += step {
			p := o.piece(o.files[i], lo, hi)
			if len(p.Data) == 0 {
				continue
			}
			more := yield(p)
			clear(p.Data) // whoever still uses it will notice
			if !more {
				return nil
			}
		}
	}
	return nil
}

// frame returns where the frame around a byte begins and ends in all content.
func (o *Object) frame(node uint32, off int64) (lo, hi int64) {
	size := o.memory.FrameSize
	if size == 0 {
		size = 128 << 10
	}
	lo = (o.start[node] + off) / size * size
	return lo, min(lo+size, o.total)
}

// piece copies what a file has between two places in all content.
func (o *Object) piece(node uint32, lo, hi int64) fs.Piece {
	content, start := o.contents[node], o.start[node]
	from := min(max(lo-start, 0), int64(len(content)))
	to := max(from, min(hi-start, int64(len(content))))
	return fs.Piece{Node: node, Off: from, Data: bytes.Clone(content[from:to])}
}

// XAttrs implements fs.XAttrObject.
func (o *Object) XAttrs(node uint32) ([]fs.XAttr, error) {
	if node == 0 {
		return o.Attrs, nil
	}
	return []fs.XAttr{{Name: "node", Value: []byte(strconv.Itoa(int(node)))}}, nil
}

// Path returns the file at a path below the top of the object.
func (o *Object) Path(path string) (content []byte, node uint32, err error) {
	node, ok := o.tree.Resolve(path)
	if !ok {
		return nil, 0, fmt.Errorf("%s: %w", path, iofs.ErrNotExist)
	}
	return o.contents[node], node, nil
}
