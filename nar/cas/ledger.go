package cas

import (
	"fmt"
	"hash/maphash"
)

// ledger is what the log says of the records, as hashes: of each key the last value. A sweep
// compares it with the index before it destroys anything: Badger takes a damaged block for one
// without keys, and loses them for good when it merges tables. What an object names that the
// index does not have would be taken for garbage.
type ledger struct {
	seed   maphash.Seed
	values map[uint64]uint64 // key → value; deleted for one that was taken away
}

const deleted = 0

func newLedger() *ledger {
	return &ledger{maphash.MakeSeed(), map[uint64]uint64{}}
}

func (l *ledger) key(key []byte) uint64 { return maphash.Bytes(l.seed, key) }

func (l *ledger) value(value []byte) uint64 { return maphash.Bytes(l.seed, value) | 1 }

// add enters a record of the log; they come in its order.
func (l *ledger) add(r record) error {
	v := uint64(deleted)
	if r.value != nil {
		v = l.value(r.value)
	}
	l.values[l.key(r.key)] = v
	return nil
}

// compare reports whether the index says the same as the log did, but for what commits have
// changed since. It uses l up.
func (l *ledger) compare(x *index, changes *changedKeys) error {
	contradicted := map[uint64]bool{}
	for _, space := range []byte{spaceOwner, spaceObject, spaceHoles} {
		err := x.scan([]byte{space}, func(key, value []byte) error {
			k := l.key(key)
			if v, ok := l.values[k]; ok {
				contradicted[k] = v != l.value(value)
				delete(l.values, k)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for k, v := range l.values {
		contradicted[k] = v != deleted
	}
	for _, key := range changes.all() {
		delete(contradicted, l.key([]byte(key)))
	}
	n := 0
	for _, is := range contradicted {
		if is {
			n++
		}
	}
	if n > 0 {
		return fmt.Errorf("%w: it contradicts the log on %d keys", ErrIndex, n)
	}
	return nil
}

// trust reports why the index cannot be relied on to know what is needed.
func (sw *sweep) trust(log *ledger) error {
	s := sw.s
	for _, pm := range sw.m.packs {
		if pm.broken { // records are lost, of which only the index knows
			if err := s.index.db.VerifyChecksum(); err != nil {
				return fmt.Errorf("%w: %w", ErrIndex, err)
			}
			return nil
		}
	}
	return log.compare(s.index, &s.changes)
}
