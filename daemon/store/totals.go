package store

import (
	"errors"
	"math"
	"sync"

	"github.com/narfs/narfs/daemon/db"
)

// totals counts the valid paths. Counting begins when somebody asks, and reads all infos once: what changes meanwhile is added to
// the result.
type totals struct {
	mu       sync.Mutex // guards the rest; taken after removal
	known    bool
	paths    int64 // of known; while they are counted, what came since the count began
	bytes    int64
	removed  bool          // something ceased to be valid since the count began
	counting chan struct{} // closed when the count that runs has ended; nil if none runs
	err      error         // of the last count
	closing  bool          // no count begins any more, and one that runs ends
	stopped  chan struct{} // closed then
}

func (t *totals) init() { t.stopped = make(chan struct{}) }

func (t *totals) add(paths, bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.paths += paths
	t.bytes += bytes
	t.removed = t.removed || paths < 0
}

// close returns when no count runs any more, nor will.
func (t *totals) close() {
	t.mu.Lock()
	counting := t.counting
	if !t.closing && t.stopped != nil {
		t.closing = true
		close(t.stopped)
	}
	t.mu.Unlock()
	if counting != nil {
		<-counting
	}
}

var errClosing = errors.New("the store is being closed")

// Totals returns the number of valid paths and the sum of their NARs' sizes. The first call waits until all infos are read, others
// cost nothing.
func (s *Store) Totals() (paths, narBytes int64, err error) {
	t := &s.totals
	t.mu.Lock()
	if !t.known {
		counting := s.startCount()
		t.mu.Unlock()
		<-counting
		t.mu.Lock()
	}
	defer t.mu.Unlock()
	if !t.known {
		return 0, 0, t.err
	}
	return t.paths, t.bytes, nil
}

// TotalsIfKnown is Totals for those who cannot wait. Where the totals are not known yet, it begins to count, and returns false and a
// number that the valid paths do not exceed.
func (s *Store) TotalsIfKnown() (paths, narBytes int64, known bool) {
	t := &s.totals
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known {
		return t.paths, t.bytes, true
	}
	s.startCount()
	most, err := s.db.Slots()
	if err != nil {
		most = math.MaxUint32
	}
	return int64(most), 0, false
}

// startCount begins to count, unless that is being done. Totals.mu is held.
func (s *Store) startCount() (counting <-chan struct{}) {
	t := &s.totals
	if t.counting != nil {
		return t.counting
	}
	done := make(chan struct{})
	if t.closing {
		t.err = errClosing
		close(done)
		return done
	}
	t.counting = done
	go func() {
		defer close(done)
		err := s.count()
		t.mu.Lock()
		defer t.mu.Unlock()
		t.counting, t.err = nil, err
	}()
	return done
}

// quickCounts is how often is counted beside deletions: a record in several parts that is deleted while they are read is lost to the
// count, so that one with a deletion beside is none. Then deletions, and imports, wait.
const quickCounts = 3

func (s *Store) count() error {
	for try := 0; ; try++ {
		done, err := s.countOnce(try == quickCounts)
		if done || err != nil {
			return err
		}
	}
}

// countOnce counts, and reports whether the result holds. With alone, nothing becomes valid meanwhile, or ceases to be.
func (s *Store) countOnce(alone bool) (done bool, err error) {
	t := &s.totals
	s.removal.Lock() // so that what changes comes either before the snapshot, or in totals since
	release := sync.OnceFunc(s.removal.Unlock)
	defer release()
	t.mu.Lock()
	t.paths, t.bytes, t.removed = 0, 0, false
	t.mu.Unlock()
	var paths, bytes int64
	err = s.db.All(func(r db.Record, _ error) error { // all from one snapshot, which is there when the first comes
		if !alone {
			release()
		}
		select {
		case <-t.stopped:
			return errClosing
		default:
		}
		paths++
		bytes += int64(r.Info.NarSize)
		return nil
	})
	if err != nil {
		return false, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.removed {
		return false, nil
	}
	t.known = true
	t.paths += paths
	t.bytes += bytes
	return true, nil
}
