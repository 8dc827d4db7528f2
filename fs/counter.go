package fs

import "sync"

const counterShards = 64

// lookups counts for every slot the references that the kernel holds to its nodes: the counter law of the package
// comment. A slot takes memory only while its count is not zero. Slots are spread over shards so that parallel
// scans of different store paths do not wait for each other.
type lookups struct {
	shards [counterShards]lookupShard
}

type lookupShard struct {
	mu    sync.Mutex
	count map[uint32]int64 // guarded by mu
	_     [48]byte         // a cache line each
}

// add changes the count of a slot by n.
func (l *lookups) add(slot uint32, n int64) {
	s := &l.shards[slot%counterShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count == nil {
		s.count = map[uint32]int64{}
	}
	if c := s.count[slot] + n; c != 0 {
		s.count[slot] = c
	} else {
		delete(s.count, slot)
	}
}

// get returns the count of a slot.
func (l *lookups) get(slot uint32) int64 {
	s := &l.shards[slot%counterShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count[slot]
}

// total returns the sum of all counts and how many slots have one.
func (l *lookups) total() (refs int64, slots int) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for _, c := range s.count {
			refs += c
		}
		slots += len(s.count)
		s.mu.Unlock()
	}
	return refs, slots
}

// clear forgets everything: the kernel sends no FORGET when a file system is unmounted.
func (l *lookups) clear() {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		clear(s.count)
		s.mu.Unlock()
	}
}
