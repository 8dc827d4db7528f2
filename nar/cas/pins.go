package cas

import (
	"slices"
	"sync"

	"github.com/narfs/narfs/nar/chunk"
)

// pins are the frames that a running import, or what it staged, relies on: those of the
// chunks it found and those it wrote.
type pins struct {
	mu     sync.Mutex
	frames map[position]struct{}
}

func (p *pins) add(at position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frames[at] = struct{}{}
}

// follow adds the new place of something for who has the old one.
func (p *pins) follow(old, at position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.frames[old]; ok {
		p.frames[at] = struct{}{}
	}
}

func (p *pins) all() []position {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]position, 0, len(p.frames))
	for at := range p.frames {
		all = append(all, at)
	}
	return all
}

func (s *Store) pin() *pins {
	p := &pins{frames: map[position]struct{}{}}
	s.importMu.Lock()
	defer s.importMu.Unlock()
	s.imports[p] = struct{}{}
	return p
}

func (s *Store) unpin(p *pins) {
	s.importMu.Lock()
	defer s.importMu.Unlock()
	delete(s.imports, p)
}

// pinned returns all imports' pins.
func (s *Store) pinned() []*pins {
	s.importMu.Lock()
	defer s.importMu.Unlock()
	all := make([]*pins, 0, len(s.imports))
	for p := range s.imports {
		all = append(all, p)
	}
	return all
}

// keep pins a chunk that an import found. The read half of s.sweeping is held from the
// look-up on, so that no sweep takes the chunk away in between.
func (s *Store) keep(p *pins, loc location) {
	p.add(loc.frame)
	if s.marks != nil {
		s.marks.mark(loc.frame, int(loc.ord))
	}
}

// place enters chunks into the index. One that the index has in another frame was stored by
// two imports at once, was damaged, or is being moved by a sweep. It has the new place from
// then on, and so have all who rely on the old one: else a sweep would take it for dead when
// only they need it. Nobody looks up and pins a chunk in between (s.placing).
func (s *Store) moveKnown(chunks map[chunk.ID]location) error {
	if len(chunks) == 0 {
		return nil
	}
	ids := make([]chunk.ID, 0, len(chunks))
	for id := range chunks {
		ids = append(ids, id)
	}
	known := make([]location, len(ids))
	if err := s.index.lookup(ids, known); err != nil {
		return err
	}
	moved := map[chunk.ID]location{}
	for i, id := range ids {
		if known[i].size != 0 && known[i].frame != chunks[id].frame {
			moved[id] = known[i]
		}
	}
	return s.move(moved, chunks)
}

func (s *Store) move(from, to map[chunk.ID]location) error {
	if len(from) == 0 {
		return nil
	}
	s.placing.Lock()
	defer s.placing.Unlock()
	all := s.pinned()
	moved := make(map[chunk.ID]location, len(from))
	for id, old := range from {
		moved[id] = to[id]
		for _, p := range all {
			p.follow(old.frame, to[id].frame)
		}
	}
	return s.index.putChunks(moved)
}

// marks has a bit for every chunk of the frames that a sweep looks at: those that stood in
// the log when it began. Chunks elsewhere are none of its business.
type marks struct {
	packs map[uint32]*packMarks // changed under Store.sweeping only, once the sweep runs
	count uint32                // of the bits; the sweep's own

	mu    sync.Mutex // guards the bits
	bits  []uint64
	whole map[position]struct{} // frames that were marked as such, with chunks that may be dead
}

// grow makes room for count bits.
func (m *marks) grow() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bits = append(m.bits, make([]uint64, int(m.count/64)+1-len(m.bits))...)
}

// packMarks are the frames of one pack, in the order of their offsets.
type packMarks struct {
	frames []frameMarks
	disk   int64 // bytes of the frames that are not gone
	metas  int64 // bytes of meta frames
	broken bool  // something in it is no frame, or a meta frame that cannot be read
}

// count is the number of chunks.
func (p *packMarks) count() (n uint32) {
	for _, f := range p.frames {
		n += f.count
	}
	return n
}

type frameMarks struct {
	off   uint32
	size  uint32 // on disk
	raw   uint32
	first uint32 // its first chunk's bit
	count uint32
	light bool // compressed lightly, if at all
	gone  bool
}

func (m *marks) frame(at position) *frameMarks {
	p := m.packs[at.pack]
	if p == nil {
		return nil
	}
	i, ok := slices.BinarySearchFunc(p.frames, at.off, func(f frameMarks, off uint32) int {
		return int(int64(f.off) - int64(off))
	})
	if !ok {
		return nil
	}
	return &p.frames[i]
}

// mark sets the bit of one chunk, or of all chunks of the frame if ord is negative.
func (m *marks) mark(at position, ord int) {
	f := m.frame(at)
	if f == nil || ord >= int(f.count) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	lo, hi := f.first, f.first+f.count
	if ord >= 0 {
		lo = f.first + uint32(ord)
		hi = lo + 1
	} else {
		m.whole[at] = struct{}{}
	}
	for i := lo; i < hi; i++ {
		m.bits[i/64] |= 1 << (i % 64)
	}
}

// dead reports whether the sweep looks at a chunk and nothing needs it.
func (m *marks) dead(at position, ord int) bool {
	f := m.frame(at)
	return f != nil && ord < int(f.count) && !m.marked(f, ord)
}

func (m *marks) marked(f *frameMarks, ord int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := f.first + uint32(ord)
	return m.bits[i/64]&(1<<(i%64)) != 0
}

// needed reports whether something is known to need a chunk: not only its frame is pinned.
func (m *marks) needed(at position, f *frameMarks, ord int) bool {
	m.mu.Lock()
	_, whole := m.whole[at]
	m.mu.Unlock()
	return !whole && m.marked(f, ord)
}

// live returns how many chunks of a frame are marked.
func (m *marks) live(f *frameMarks) (n uint32) {
	for ord := range f.count {
		if m.marked(f, int(ord)) {
			n++
		}
	}
	return n
}
