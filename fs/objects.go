package fs

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// objects keeps the opened objects of a Source with their views, up to a number of bytes. What was not used for
// the longest time goes first and is loaded again when somebody asks. It is for concurrent use; several requests
// for one slot load it once.
type objects struct {
	src    Source
	naming naming
	limit  int64

	// clock counts loads. An object notes the clock when it is used, so all that were used since the last load
	// are equally young; that saves a list that every request would have to change.
	clock atomic.Int64

	mu     sync.RWMutex
	bySlot map[uint32]*object // guarded by mu
	bytes  int64              // guarded by mu
}

// object is one opened object. Its fields are set when ready is closed.
type object struct {
	slot  uint32
	ready chan struct{}
	used  atomic.Int64
	bytes int64 // guarded by objects.mu; 0 while loading

	obj   Object
	view  *view
	given givenSet
	err   error
}

func newObjects(src Source, how naming, limit int64) *objects {
	return &objects{src: src, naming: how, limit: limit, bySlot: map[uint32]*object{}}
}

// get returns the object in a slot, loading it if need be. Errors are not remembered.
func (c *objects) get(slot uint32) (*object, error) {
	c.mu.RLock()
	o := c.bySlot[slot]
	c.mu.RUnlock()
	if o == nil {
		var mine bool
		if o, mine = c.claim(slot); mine {
			c.load(o)
		}
	}
	<-o.ready
	if o.err != nil {
		return nil, o.err
	}
	o.used.Store(c.clock.Load())
	return o, nil
}

// loaded returns the object in a slot if it is here already.
func (c *objects) loaded(slot uint32) *object {
	c.mu.RLock()
	o := c.bySlot[slot]
	c.mu.RUnlock()
	if o == nil {
		return nil
	}
	select {
	case <-o.ready:
		if o.err == nil {
			return o
		}
	default:
	}
	return nil
}

// claim returns the object in a slot; mine says that the caller has to load it.
func (c *objects) claim(slot uint32) (o *object, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o = c.bySlot[slot]; o != nil {
		return o, false
	}
	o = &object{slot: slot, ready: make(chan struct{})}
	c.bySlot[slot] = o
	return o, true
}

// load fills o in and lets everybody who waits for it go on, even if the Source panics.
func (c *objects) load(o *object) {
	o.err = fmt.Errorf("open slot %d: the store panicked", o.slot)
	var bytes int64
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		switch {
		case c.bySlot[o.slot] != o: // dropped meanwhile
		case o.err != nil:
			delete(c.bySlot, o.slot)
		default:
			o.used.Store(c.clock.Add(1))
			o.bytes = bytes
			c.bytes += bytes
			c.evict(o)
		}
		close(o.ready)
	}()
	obj, err := c.src.Open(o.slot)
	if err != nil {
		o.err = fmt.Errorf("open slot %d: %w", o.slot, err)
		return
	}
	tree, err := obj.Tree()
	if err != nil {
		o.err = fmt.Errorf("tree of slot %d: %w", o.slot, err)
		return
	}
	o.obj = obj
	o.view, bytes = newView(tree, c.naming)
	o.given = newGivenSet(tree.Len())
	o.err = nil
}

// drop forgets the object in a slot: who asks for it from now on asks the Source.
func (c *objects) drop(slot uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o := c.bySlot[slot]; o != nil {
		c.bytes -= o.bytes // none while it is being loaded
		delete(c.bySlot, slot)
	}
}

// charge notes that an object has grown.
func (c *objects) charge(o *object, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bySlot[o.slot] != o {
		return // evicted meanwhile
	}
	o.bytes += bytes
	c.bytes += bytes
	c.evict(o)
}

// evict drops objects until an eighth of the room is free, so that the search for the oldest is not needed for
// every load. keep stays. c.mu is held.
func (c *objects) evict(keep *object) {
	if c.bytes <= c.limit {
		return
	}
	type candidate struct {
		o    *object
		used int64
	}
	all := make([]candidate, 0, len(c.bySlot))
	for _, o := range c.bySlot {
		if o != keep && o.bytes > 0 {
			all = append(all, candidate{o, o.used.Load()})
		}
	}
	slices.SortFunc(all, func(a, b candidate) int { return int(a.used - b.used) })
	for _, e := range all {
		if c.bytes <= c.limit-c.limit/8 {
			break
		}
		c.bytes -= e.o.bytes
		delete(c.bySlot, e.o.slot)
	}
}

// size says how many objects are here and what they take.
func (c *objects) size() (n int, bytes int64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.bySlot), c.bytes
}
