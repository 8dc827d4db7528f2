package session

import (
	"fmt"
	"sync/atomic"
)

// Budget is the memory that the sessions of a process may take for what their clients ask for. Its methods may be called
// concurrently.
type Budget struct {
	limit atomic.Int64
	taken atomic.Int64
}

// NewBudget returns a budget of so many bytes; 0 means no limit to speak of.
func NewBudget(limit int64) *Budget {
	b := &Budget{}
	b.SetLimit(limit)
	return b
}

// SetLimit changes the limit, for what is taken from now on.
func (b *Budget) SetLimit(limit int64) {
	if limit == 0 {
		limit = 1 << 62
	}
	b.limit.Store(limit)
}

// MemoryError says that a request would need more memory than there is for it.
type MemoryError struct {
	Want  int64 // bytes
	Limit int64 // of all sessions together
	Taken int64 // by all sessions, before
}

// Error implements error. Nix's daemon says "Nix daemon out of memory".
func (e *MemoryError) Error() string {
	return fmt.Sprintf("narfs daemon out of memory: the request needs %d bytes more than the %d that sessions have taken, and they may take %d together",
		e.Want, e.Taken, e.Limit)
}

// take takes n bytes.
func (b *Budget) take(n int64) error {
	limit := b.limit.Load()
	if taken := b.taken.Add(n); taken > limit || taken < 0 {
		b.taken.Add(-n)
		return &MemoryError{Want: n, Limit: limit, Taken: taken - n}
	}
	return nil
}

func (b *Budget) give(n int64) { b.taken.Add(-n) }

// Taken returns the bytes taken.
func (b *Budget) Taken() int64 { return b.taken.Load() }
