package fs

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/narfs/narfs/casefold"
)

// rootDir is the directory of all store paths. Its entries are listed in the order of their slots, and the
// position after an entry follows from its slot: a reader that goes on after a while, on a changed root, misses
// nothing that was there all the time and sees nothing twice.
type rootDir struct {
	src Source
	// changedAt is the time of the last change in Unix nanoseconds; rootDir's generation.
	changedAt  atomic.Int64
	generation atomic.Uint64

	mu   sync.Mutex   // held while listing
	last *rootListing // guarded by mu
}

// rootListing is the root at one moment.
type rootListing struct {
	generation uint64
	entries    []rootEntry // by slot

	foldOnce sync.Once
	byKey    map[string]uint32 // slots
}

type rootEntry struct {
	slot uint32
	name string
}

func newRootDir(src Source) *rootDir {
	r := &rootDir{src: src}
	r.changed()
	return r
}

// changed says that paths came or went.
func (r *rootDir) changed() {
	r.changedAt.Store(time.Now().UnixNano())
	r.generation.Add(1)
}

// list returns the entries. A reader that starts gets the present ones; one that goes on is content with those
// of a moment ago, lest a long listing be made again and again while paths are imported.
func (r *rootDir) list(start bool) (*rootListing, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	generation := r.generation.Load() // before the listing: a change during it makes it old
	if r.last != nil && (!start || r.last.generation == generation) {
		return r.last, nil
	}
	l := &rootListing{generation: generation}
	if r.last != nil {
		l.entries = make([]rootEntry, 0, len(r.last.entries)+16)
	}
	err := r.src.List(func(name string, slot uint32) bool {
		if _, _, ok := splitNode(nodeID(slot, 0)); ok {
			l.entries = append(l.entries, rootEntry{slot, name})
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("list the store: %w", err)
	}
	slices.SortFunc(l.entries, func(a, b rootEntry) int { return cmp.Compare(a.slot, b.slot) })
	r.last = l
	return l, nil
}

// from returns the entries whose slots are at least slot.
func (l *rootListing) from(slot uint64) []rootEntry {
	i, _ := slices.BinarySearchFunc(l.entries, slot, func(e rootEntry, s uint64) int { return cmp.Compare(uint64(e.slot), s) })
	return l.entries[i:]
}

// fold finds the path with the lowest slot whose name collides with name.
func (l *rootListing) fold(rule casefold.Rule, name string) (slot uint32, ok bool) {
	l.foldOnce.Do(func() {
		l.byKey = make(map[string]uint32, len(l.entries))
		for _, e := range slices.Backward(l.entries) {
			l.byKey[rule.Key(e.name)] = e.slot
		}
	})
	slot, ok = l.byKey[rule.Key(name)]
	return slot, ok
}

// isLitter says whether a name asked for in the root is one that only the habits of a desktop bring up, such as
// Finder's ".DS_Store" and "._x". No store path begins with a dot: the store need not be asked. Below a store path
// such names are as good as any other.
func isLitter(name string) bool {
	return name == "" || name[0] == '.' || name == "Backups.backupdb" || name == "mach_kernel" || name == "Icon\r"
}
