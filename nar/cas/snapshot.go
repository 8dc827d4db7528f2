package cas

import (
	"sync"

	"github.com/dgraph-io/badger/v4"
)

// snapshots are read transactions that readers share until something has changed. Badger wakes a goroutine of its own when one begins,
// and when it ends, which costs several times as much as looking a key up.
type snapshots struct {
	db *badger.DB

	mu  sync.Mutex // guards the rest
	now *snapshot  // nil if nobody has read since the last change
}

// snapshot is a read transaction. Several goroutines may read in it.
type snapshot struct {
	txn   *badger.Txn
	users int // its readers; and one more while it is the present one
}

// view calls fn with a transaction that sees all that was changed before.
func (s *snapshots) view(fn func(txn *badger.Txn) error) error {
	if s.db.IsClosed() {
		return badger.ErrDBClosed
	}
	s.mu.Lock()
	v := s.now
	if v == nil {
		v = &snapshot{txn: s.db.NewTransaction(false), users: 1}
		s.now = v
	}
	v.users++
	s.mu.Unlock()
	defer s.leave(v)
	return fn(v.txn)
}

func (s *snapshots) leave(v *snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v.users--
	if v.users == 0 {
		v.txn.Discard()
	}
}

// changed says that there is something new to see. It follows every change, also one that has failed.
func (s *snapshots) changed() {
	s.mu.Lock()
	v := s.now
	s.now = nil
	s.mu.Unlock()
	if v != nil {
		s.leave(v)
	}
}
