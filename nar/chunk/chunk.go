// Package chunk cuts file content into chunks at boundaries that the content itself
// decides, and names each chunk by its hash.
//
// # Boundaries
//
// A [Cutter] is a normalised FastCDC (Xia et al., USENIX ATC 2016, "FastCDC: a Fast and
// Efficient Content-Defined Chunking Approach for Data Deduplication"). A gear hash
//
//	h = h<<1 + gear[b]
//
// runs over the bytes; after byte i the upper bits of h depend on the 64 bytes up to i
// and on nothing else. A chunk ends after the first byte at or beyond Min at which h is
// below a threshold: Avg*4 bytes apart on average until Avg bytes are in the chunk, Avg/4
// apart from there on. That squeezes the sizes towards Avg. A chunk is never longer than
// Max. The hash is warmed up over the 64 bytes before Min, so that a boundary is a
// function of the content around it alone.
//
// Two imports share chunks only if they cut alike, so the boundaries are part of the store
// format: gear[i] is the first eight bytes, little endian, of
// SHA-256("narfs gear table 1" followed by the byte i), and the test holds golden cut
// points.
//
// # Names
//
// An [ID] is the SHA-256 of the chunk's plain bytes.
package chunk

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
)

// ID names a chunk: the SHA-256 of its plain bytes.
type ID [sha256.Size]byte

// Sum returns the ID of a chunk.
func Sum(data []byte) ID { return sha256.Sum256(data) }

// String returns the ID in hexadecimal.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// window is the number of bytes that a 64-bit gear hash remembers.
const window = 64

// Params are the sizes in bytes that shape the chunks. They belong to a store's format.
type Params struct {
	Min int // no chunk but a file's last one is shorter; at least 64
	Avg int // where the boundaries crowd
	Max int // no chunk is longer
}

// Validate reports what is wrong with p, or nil.
func (p Params) Validate() error {
	if p.Min < window || p.Avg < p.Min || p.Max < p.Avg || p.Max > 1<<20 {
		return fmt.Errorf("chunk sizes %d/%d/%d: want %d <= min <= avg <= max <= %d", p.Min, p.Avg, p.Max, window, 1<<20)
	}
	return nil
}

// A Cutter finds chunk boundaries. It keeps no state between calls: one Cutter may be
// used by several goroutines.
type Cutter struct {
	p     Params
	early uint64 // threshold before Avg bytes
	late  uint64 // threshold from Avg bytes on
	gear  [256]uint64
}

// NewCutter returns a Cutter for valid p, and an error otherwise.
func NewCutter(p Params) (*Cutter, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	c := &Cutter{
		p:     p,
		early: math.MaxUint64 / (uint64(p.Avg) * 4), //nolint:gosec // Avg is positive
		late:  math.MaxUint64 / max(uint64(p.Avg)/4, 1),
	}
	seed := []byte("narfs gear table 1\x00")
	for i := range c.gear {
		seed[len(seed)-1] = byte(i)
		sum := sha256.Sum256(seed)
		c.gear[i] = binary.LittleEndian.Uint64(sum[:])
	}
	return c, nil
}

// Params returns the sizes that c was made with.
func (c *Cutter) Params() Params { return c.p }

// Cut returns the length of the chunk at the beginning of data, which begins where a file
// or its previous chunk ends. With final set, data is all that is left of the file, and
// the result is 0 only if data is empty. Otherwise the result is 0 if data does not reach
// to the boundary; with Max bytes or more there always is one.
func (c *Cutter) Cut(data []byte, final bool) int {
	end := min(len(data), c.p.Max)
	if end > c.p.Min {
		if n := c.scan(data[:end]); n > 0 {
			return n
		}
	}
	if final || end == c.p.Max {
		return end
	}
	return 0
}

// scan returns the first boundary in data at or after Min bytes, or 0. data is longer than Min.
func (c *Cutter) scan(data []byte) int {
	var h uint64
	for _, b := range data[c.p.Min-window : c.p.Min-1] {
		h = h<<1 + c.gear[b]
	}
	i := c.p.Min - 1 // the boundary after byte i makes a chunk of i+1 bytes
	if normal := min(c.p.Avg, len(data)); i < normal {
		n, last := c.run(data[i:normal], h, c.early)
		if n > 0 {
			return i + n
		}
		h, i = last, normal
	}
	if n, _ := c.run(data[i:], h, c.late); n > 0 {
		return i + n
	}
	return 0
}

// run rolls h over p and returns the number of bytes up to and including the first one
// after which the hash is below limit, or 0 and the last hash. Four bytes a step: the
// four sums depend on the table only, not on each other's shifts of h, which keeps the
// processor's units busy (1.7 times the simple loop).
func (c *Cutter) run(p []byte, h, limit uint64) (n int, last uint64) {
	i := 0
	for ; i+4 <= len(p); i += 4 {
		q := p[i : i+4 : i+4]
		s1 := c.gear[q[0]]
		s2 := s1<<1 + c.gear[q[1]]
		s3 := s2<<1 + c.gear[q[2]]
		s4 := s3<<1 + c.gear[q[3]]
		if h1 := h<<1 + s1; h1 < limit {
			return i + 1, h1
		}
		if h2 := h<<2 + s2; h2 < limit {
			return i + 2, h2
		}
		if h3 := h<<3 + s3; h3 < limit {
			return i + 3, h3
		}
		if h = h<<4 + s4; h < limit {
			return i + 4, h
		}
	}
	for ; i < len(p); i++ {
		if h = h<<1 + c.gear[p[i]]; h < limit {
			return i + 1, h
		}
	}
	return 0, h
}
