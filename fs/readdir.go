package fs

import (
	"math"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/narfs/narfs/nar"
)

// Positions in a directory: 0 is the beginning, 1 stands after ".", 2 after "..". After the k-th entry of a
// directory of a store path (k from 0) stands 3+k; after a store path in the root, 2+slot. Both work without any
// state of ours, for ever, and for any number of readers, which telldir, seekdir and a kernel that opens no
// directories need.
const (
	afterSelf   = 1
	afterParent = 2
)

// listing adds entries to an answer to READDIR or READDIRPLUS.
type listing struct {
	out  *fuse.DirEntryList
	plus bool
}

// add appends an entry. entry is nil when no more fit, or without plus.
func (l *listing) add(e fuse.DirEntry) (entry *fuse.EntryOut, ok bool) {
	if !l.plus {
		return nil, l.out.AddDirEntry(e)
	}
	entry = l.out.AddDirLookupEntry(e)
	return entry, entry != nil
}

// dots appends "." and "..". They never carry attributes: the kernel would not count them.
func (l *listing) dots(offset, self, parent uint64) (ok bool) {
	if offset < afterSelf {
		if _, ok := l.add(fuse.DirEntry{Name: ".", Mode: fuse.S_IFDIR, Ino: self, Off: afterSelf}); !ok {
			return false
		}
	}
	if offset < afterParent {
		if _, ok := l.add(fuse.DirEntry{Name: "..", Mode: fuse.S_IFDIR, Ino: parent, Off: afterParent}); !ok {
			return false
		}
	}
	return true
}

// ReadDir lists a directory.
func (s *server) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	s.counts.begin(opReadDir)
	defer s.counts.end(opReadDir)
	return s.readDir(in, listing{out: out})
}

// ReadDirPlus lists a directory with the attributes of the entries, each of which counts as looked up.
func (s *server) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	s.counts.begin(opReadDirPlus)
	defer s.counts.end(opReadDirPlus)
	return s.readDir(in, listing{out: out, plus: true})
}

func (s *server) readDir(in *fuse.ReadIn, l listing) fuse.Status {
	if in.NodeId == rootNode {
		return s.readRoot(in.Offset, &l)
	}
	o, dir, st := s.node(in.NodeId, "list")
	if st != fuse.OK {
		return st
	}
	t := o.view.tree
	if t.Type(dir) != nar.TypeDirectory {
		return fuse.ENOTDIR
	}
	parent := uint64(rootNode)
	if dir != 0 {
		parent = nodeID(o.slot, t.Parent(dir))
	}
	if !l.dots(in.Offset, in.NodeId, parent) {
		return fuse.OK
	}
	first, n := t.Children(dir)
	k := uint64(0)
	if in.Offset > afterParent {
		k = in.Offset - afterParent
	}
	var added int64
	hacked := o.view.hacked[dir]
	for ; k < uint64(n); k++ {
		i := first + uint32(k)
		entry, ok := l.add(fuse.DirEntry{
			Name: o.view.entry(hacked, first, i), Mode: typeBits(t.Type(i)),
			Ino: nodeID(o.slot, i), Off: afterParent + k + 1,
		})
		if !ok {
			break
		}
		if entry != nil {
			s.fillEntry(entry, o, i)
			added++
		}
	}
	if added > 0 {
		s.lookups.add(o.slot, added)
	}
	return fuse.OK
}

func (s *server) readRoot(offset uint64, l *listing) fuse.Status {
	if s.opts.HideListing {
		return fuse.EACCES
	}
	if offset > afterParent+math.MaxUint32 {
		return fuse.OK
	}
	if !l.dots(offset, rootNode, rootNode) {
		return fuse.OK
	}
	paths, err := s.root.list(offset == 0)
	if err != nil {
		return s.fail("list the root", 0, 0, err)
	}
	next := uint64(1)
	if offset > afterParent {
		next = offset - afterParent + 1
	}
	old := paths.generation != s.root.generation.Load()
	for _, path := range paths.from(next) {
		if old && !s.isValid(path) {
			// The kernel may have been told so already: an answer with its attributes would bring it back.
			continue
		}
		if !s.addPath(l, path) {
			break
		}
	}
	return fuse.OK
}

func (s *server) isValid(path rootEntry) bool {
	slot, err := s.src.Lookup(path.name)
	return err == nil && slot == path.slot
}

// addPath appends a store path to a listing of the root, and says whether it did not yet fill up.
func (s *server) addPath(l *listing, path rootEntry) bool {
	ino := nodeID(path.slot, 0)
	e := fuse.DirEntry{Name: path.name, Ino: ino, Off: afterParent + uint64(path.slot)}
	var top Top
	known := false
	if l.plus {
		s.lookups.add(path.slot, 1) // before the question whether it is still there: see the counter law
	}
	switch {
	case l.plus || s.tops != nil:
		var st fuse.Status
		top, st = s.top(path.slot, "list the root")
		known = st == fuse.OK
	default: // not worth loading a tree for: without a type, whoever needs it asks
		if o := s.objects.loaded(path.slot); o != nil {
			top, known = TopOf(o.view.tree), true
		}
	}
	if known {
		e.Mode = typeBits(top.Type)
	}
	entry, ok := l.add(e)
	if entry == nil || !known {
		if l.plus {
			s.lookups.add(path.slot, -1)
		}
		return ok // an entry without a node id is a mere name to the kernel
	}
	valid := uint64(forever)
	if s.opts.CaseInsensitive {
		valid = recheck
	}
	entry.NodeId, entry.Generation, entry.EntryValid, entry.AttrValid = ino, 1, valid, forever
	s.owner.attr(&entry.Attr, top, ino)
	return true
}

// OpenDir gives out no handles: positions in a directory need no state. ENOSYS tells a kernel that knows no-open
// never to ask again, and to cache what it lists.
func (s *server) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	s.counts.begin(opOpenDir)
	defer s.counts.end(opOpenDir)
	if s.noOpenDir {
		return fuse.ENOSYS
	}
	if s.opts.HideListing && in.NodeId == rootNode {
		return fuse.EACCES
	}
	out.OpenFlags = fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}
