package store

import (
	"sync"

	"github.com/narfs/narfs/daemon/db"
)

// totals counts the valid paths. Counting begins when somebody asks.
type totals struct {
	mu    sync.Mutex // guards the rest
	known bool
	paths int64
	bytes int64
}

func (t *totals) add(paths, bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known {
		t.paths += paths
		t.bytes += bytes
	}
}

// Totals returns the number of valid paths and the sum of their NARs' sizes. The first call reads all infos, the others
// cost nothing.
func (s *Store) Totals() (paths, narBytes int64, err error) {
	t := &s.totals
	t.mu.Lock()
	if t.known {
		defer t.mu.Unlock()
		return t.paths, t.bytes, nil
	}
	t.mu.Unlock()

	s.removal.Lock() // nothing becomes valid or ceases to be
	defer s.removal.Unlock()
	err = s.db.All(func(r db.Record, _ error) error {
		paths++
		narBytes += int64(r.Info.NarSize)
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known, t.paths, t.bytes = true, paths, narBytes
	return paths, narBytes, nil
}
