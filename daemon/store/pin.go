package store

import (
	"slices"
	"sync"

	"github.com/narfs/narfs/internal/nix"
)

// pins are the paths that must not be deleted.
type pins struct {
	mu      sync.Mutex // guards the rest, and the sets' paths
	holders map[nix.StorePath][]*Pins
	// lingering are the paths that were let go of since a collection has begun; nil while there is none.
	lingering map[nix.StorePath]struct{}
}

// Pins is a set of paths that are not deleted as long as it holds them, whether they are valid or not yet: what Nix calls
// temporary roots. Its methods may be called concurrently.
type Pins struct {
	s      *Store
	holder string
	paths  map[nix.StorePath]struct{}
}

// Pin returns an empty set. The holder's text, such as "session 7", is for people.
func (s *Store) Pin(holder string) *Pins {
	return &Pins{s: s, holder: holder, paths: map[nix.StorePath]struct{}{}}
}

// Add adds paths to the set. A deletion that has begun ends before Add returns: whatever is valid then, stays.
func (p *Pins) Add(paths ...nix.StorePath) {
	p.s.removal.RLock()
	defer p.s.removal.RUnlock()
	p.add(paths)
}

func (p *Pins) add(paths []nix.StorePath) {
	all := &p.s.pins
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.holders == nil {
		all.holders = map[nix.StorePath][]*Pins{}
	}
	for _, path := range paths {
		if _, ok := p.paths[path]; !ok {
			p.paths[path] = struct{}{}
			all.holders[path] = append(all.holders[path], p)
		}
	}
}

// validAtOnce is for how many paths AddValid keeps deletions out in one go.
const validAtOnce = 1024

// AddValid adds those of paths that are valid, and returns them in their order: they stay so. After an error the set may have
// some of them.
func (p *Pins) AddValid(paths []nix.StorePath) (valid []nix.StorePath, err error) {
	for group := range slices.Chunk(paths, validAtOnce) {
		if valid, err = p.addValid(valid, group); err != nil {
			return nil, err
		}
	}
	return valid, nil
}

func (p *Pins) addValid(valid, group []nix.StorePath) ([]nix.StorePath, error) {
	p.s.removal.RLock()
	defer p.s.removal.RUnlock()
	found, err := p.s.db.Valid(group)
	if err != nil {
		return nil, err
	}
	p.add(found)
	return append(valid, found...), nil
}

// Len returns how many paths the set has.
func (p *Pins) Len() int {
	p.s.pins.mu.Lock()
	defer p.s.pins.mu.Unlock()
	return len(p.paths)
}

// Release takes all paths out of the set.
func (p *Pins) Release() {
	all := &p.s.pins
	all.mu.Lock()
	defer all.mu.Unlock()
	for path := range p.paths {
		if all.lingering != nil {
			all.lingering[path] = struct{}{}
		}
		rest := slices.DeleteFunc(all.holders[path], func(other *Pins) bool { return other == p })
		if len(rest) == 0 {
			delete(all.holders, path)
		} else {
			all.holders[path] = rest
		}
	}
	clear(p.paths)
}

// Pinned returns the pinned paths, each with the texts of its holders.
func (s *Store) Pinned() map[nix.StorePath][]string {
	s.pins.mu.Lock()
	defer s.pins.mu.Unlock()
	all := make(map[nix.StorePath][]string, len(s.pins.holders))
	for path := range s.pins.holders {
		all[path] = s.pins.of(path)
	}
	for path := range s.pins.lingering {
		all[path] = s.pins.of(path)
	}
	return all
}

// of returns who pins a path. ps.mu is held.
func (ps *pins) of(path nix.StorePath) (holders []string) {
	for _, p := range ps.holders[path] {
		holders = append(holders, p.holder)
	}
	if _, ok := ps.lingering[path]; ok && len(holders) == 0 {
		holders = append(holders, "a session that has ended since the collection began")
	}
	return holders
}

func (ps *pins) pinnedBy(path nix.StorePath) []string {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return ps.of(path)
}
