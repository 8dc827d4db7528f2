package session

import (
	"fmt"
	"sync/atomic"
)

// Budget is the memory that the sessions of a process may take for what their clients ask for. Its methods may be called
// concurrently.
type Budget struct {
	limit int64
	taken atomic.Int64
}

// NewBudget returns a budget of so many bytes.
func NewBudget(limit int64) *Budget { return &Budget{limit: limit} }

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
	if taken := b.taken.Add(n); taken > b.limit || taken < 0 {
		b.taken.Add(-n)
		return &MemoryError{Want: n, Limit: b.limit, Taken: taken - n}
	}
	return nil
}

func (b *Budget) give(n int64) { b.taken.Add(-n) }

// Taken returns the bytes taken.
func (b *Budget) Taken() int64 { return b.taken.Load() }
