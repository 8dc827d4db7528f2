package store

import (
	"errors"
	"math"
	"sync"

	"github.com/narfs/narfs/daemon/db"
	"github.com/narfs/narfs/nar/cas"
)

// slotBlock is how many slots are written down as given away at a time. A crash, or a Close, wastes what is left of them.
const slotBlock = 64

// slots gives slots away. Which ones were given away is written down in the batch of the first commit that needs more, and
// nobody else gets one of these before that commit stands: so no slot is given twice, whatever crashes when.
type slots struct {
	mu       sync.Mutex // guards the rest; held from take to its release while more are written down
	next     uint32
	reserved uint32 // slots below are written down
}

func (sl *slots) init(next uint32) { sl.next, sl.reserved = next, next }

// take returns the first of n slots in a row, adding to b what must be committed for them. Release must be called with the
// commit's result.
func (sl *slots) take(b *cas.Batch, n int) (first uint32, release func(error), err error) {
	sl.mu.Lock()
	if uint64(sl.next)+uint64(n)+slotBlock >= math.MaxUint32 {
		sl.mu.Unlock()
		return 0, nil, errors.New("all slots are used up: copy the paths to a new store")
	}
	first = sl.next
	sl.next += uint32(n)
	if sl.next <= sl.reserved {
		sl.mu.Unlock()
		return first, func(error) {}, nil
	}
	reserve := sl.next + slotBlock
	db.PutSlots(b, reserve)
	return first, func(err error) {
		if err == nil {
			sl.reserved = reserve
		}
		sl.mu.Unlock()
	}, nil
}
