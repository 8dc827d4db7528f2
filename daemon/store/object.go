package store

import (
	"errors"
	"fmt"
	"sync"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/nar/cas"
)

// Object is a handle of one path's contents. They can be read until Close, also when the path is deleted and the space
// swept meanwhile. Its methods may be called concurrently, apart from Close, after which there must be no others.
type Object struct {
	s    *Store
	path nix.StorePath
	slot uint32
	kept *kept
	once sync.Once
}

// kept is an object with handles.
type kept struct {
	object *cas.Object // used for reading only when the store no longer has the object
	count  int
}

// handles are the objects that sweeps must leave alone.
type handles struct {
	mu   sync.Mutex // guards the rest
	kept map[[32]byte]*kept
}

func (h *handles) init() { h.kept = map[[32]byte]*kept{} }

// Object opens the contents of a valid path, else ErrNotValid. The handle must be closed.
func (s *Store) Object(p nix.StorePath) (*Object, error) {
	r, err := s.record(p)
	for err == nil {
		hash, _ := r.Info.NarHash.SHA256()
		var k *kept
		if k, err = s.keep(hash); err == nil {
			return &Object{s: s, path: p, slot: r.Slot, kept: k}, nil
		}
		// If it is not there, either the path was deleted in this moment, and perhaps added again, or the store is damaged.
		slot := r.Slot
		if errors.Is(err, cas.ErrNotFound) {
			if again, dbErr := s.record(p); dbErr != nil || again.Slot != slot {
				r, err = again, dbErr
				continue
			}
		}
		err = fmt.Errorf("open path '%s': %w", s.print(p), err)
	}
	return nil, err
}

// ObjectBySlot opens the contents of the path in a slot, ErrNotValid if it is not valid any more.
func (s *Store) ObjectBySlot(slot uint32) (*Object, error) {
	p, _, err := s.BySlot(slot)
	if err != nil {
		return nil, err
	}
	o, err := s.Object(p)
	if err != nil {
		return nil, err
	}
	if o.slot != slot { // deleted and added again in this moment
		o.Close()
		return nil, s.notValid(p)
	}
	return o, nil
}

// keep counts a new handle. Once it has, a sweep leaves the object alone; it asks for the handles after it has listed
// the objects, and an object that was deleted before that can have none but those that were counted before.
func (s *Store) keep(hash [32]byte) (*kept, error) {
	s.handles.mu.Lock()
	defer s.handles.mu.Unlock()
	k := s.handles.kept[hash]
	if k == nil {
		object, err := s.content.Object(hash)
		if err != nil {
			return nil, err
		}
		k = &kept{object: object}
		s.handles.kept[hash] = k
	}
	k.count++
	return k, nil
}

// Path returns the path.
func (o *Object) Path() nix.StorePath { return o.path }

// Slot returns the path's slot.
func (o *Object) Slot() uint32 { return o.slot }

// Content returns the contents for reading, until Close. While the store has the object each call returns another one,
// whose tree is loaded when it is asked for, so that who keeps handles of many paths need not keep their trees.
func (o *Object) Content() (*cas.Object, error) {
	object, err := o.s.content.Object(o.kept.object.Info().NarHash)
	if errors.Is(err, cas.ErrNotFound) {
		return o.kept.object, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open path '%s': %w", o.s.print(o.path), err)
	}
	return object, nil
}

// Close gives the handle back. It may be called more than once.
func (o *Object) Close() {
	o.once.Do(func() {
		h := &o.s.handles
		h.mu.Lock()
		defer h.mu.Unlock()
		if o.kept.count--; o.kept.count == 0 {
			delete(h.kept, o.kept.object.Info().NarHash)
		}
	})
}
