package fs

import (
	"fmt"
	"log/slog"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/narfs/narfs/nar"
)

// server answers the kernel's requests. It keeps nothing per node: see the package comment.
type server struct {
	fuse.RawFileSystem // answers ENOSYS to what is not overridden

	src    Source
	tops   TopSource // nil if src is none
	opts   Options
	owner  owner
	log    *slog.Logger
	damage damageLog

	root    *rootDir
	objects *objects
	lookups lookups
	counts  counts

	// Set by Init, before the first request.
	push              *pusher // nil if the kernel takes no pushes
	noOpen, noOpenDir bool    // the kernel understands that opens need not be asked for
}

var _ fuse.RawFileSystem = (*server)(nil)

const (
	statusStale       = fuse.Status(syscall.ESTALE)
	statusNameTooLong = fuse.Status(syscall.ENAMETOOLONG)
)

func newServer(src Source, o Options) *server {
	s := &server{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		src:           src,
		opts:          o,
		owner:         o.owner(),
		log:           o.Logger,
		damage:        damageLog{log: o.Logger},
		root:          newRootDir(src),
		objects:       newObjects(src, naming{hack: o.CaseHack, fold: o.CaseInsensitive, rule: o.Rule}, o.CacheBytes),
	}
	s.tops, _ = src.(TopSource)
	return s
}

// String is what go-fuse calls the file system in its messages.
func (*server) String() string { return "narfs" }

// Init is called once, when the kernel has said what it can do.
func (s *server) Init(conn *fuse.Server) {
	offered := conn.KernelSettings()
	s.init(conn, offered.Flags64(), canPush && offered.SupportsNotify(fuse.NOTIFY_STORE_CACHE))
}

func (s *server) init(conn kernel, flags uint64, push bool) {
	s.noOpen = flags&fuse.CAP_NO_OPEN_SUPPORT != 0
	s.noOpenDir = flags&capNoOpenDir != 0
	if push {
		s.push = newPusher(conn, &s.counts, s.log)
	}
}

// OnUnmount is called after the last request.
func (s *server) OnUnmount() {
	if s.push != nil {
		s.push.close()
	}
	s.lookups.clear()
}

// Lookup finds a name in a directory.
func (s *server) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	s.counts.begin(opLookup)
	defer s.counts.end(opLookup)
	if len(name) > nar.MaxName {
		return statusNameTooLong // the kernel itself allows more
	}
	if h.NodeId == rootNode {
		return s.lookupPath(name, out)
	}
	if name == "." {
		return s.lookupSelf(h.NodeId, out)
	}
	o, dir, st := s.node(h.NodeId, "look up")
	if st != fuse.OK {
		return st
	}
	if o.view.tree.Type(dir) != nar.TypeDirectory {
		return fuse.ENOTDIR
	}
	if name == ".." {
		if dir == 0 {
			s.rootEntry(out)
		} else {
			s.treeEntry(out, o, o.view.tree.Parent(dir))
		}
		return fuse.OK
	}
	i, ok, grown := o.view.lookup(dir, name)
	if grown > 0 {
		s.objects.charge(o, grown)
	}
	if !ok {
		absent(out, forever)
		return fuse.OK
	}
	s.treeEntry(out, o, i)
	return fuse.OK
}

// lookupSelf finds a node by its own number: a file handle that was encoded earlier is opened. The kernel need not hold
// any reference to the store path, which may be removed, and be given up in this moment.
func (s *server) lookupSelf(id uint64, out *fuse.EntryOut) fuse.Status {
	slot, _, ok := splitNode(id)
	if !ok {
		return statusStale
	}
	s.lookups.add(slot, 1) // before the question whether it is still there: see the counter law
	o, i, st := s.node(id, "look up")
	if st != fuse.OK {
		s.lookups.add(slot, -1)
		return st
	}
	s.fillEntry(out, o, i)
	return fuse.OK
}

// recheck is how long, in seconds, the kernel may believe what no notify would tell it: one tells it about a name,
// not about all the other spellings of it that it has met.
const recheck = 1

// lookupPath finds a store path in the root.
func (s *server) lookupPath(name string, out *fuse.EntryOut) fuse.Status {
	if name == "." || name == ".." {
		s.rootEntry(out)
		return fuse.OK
	}
	valid := uint64(forever)
	if s.opts.CaseInsensitive {
		valid = recheck
	}
	if isLitter(name) {
		absent(out, valid)
		return fuse.OK
	}
	slot, err := s.src.Lookup(name)
	st := status(err)
	if st == statusStale && s.opts.CaseInsensitive {
		slot, st = s.foldPath(name)
	}
	switch {
	case st == statusStale: // io/fs.ErrNotExist: here it means just absent
		absent(out, valid)
		return fuse.OK
	case st != fuse.OK:
		return s.fail("look up "+name, 0, 0, err)
	}
	s.lookups.add(slot, 1) // before the question whether it is still there: see the counter law
	top, st := s.top(slot, "look up")
	if st != fuse.OK {
		s.lookups.add(slot, -1)
		if st == statusStale {
			absent(out, 0) // removed since; the notify about that may have been before this answer
			return fuse.OK
		}
		return st
	}
	out.NodeId, out.Generation, out.EntryValid, out.AttrValid = nodeID(slot, 0), 1, valid, forever
	s.owner.attr(&out.Attr, top, out.NodeId)
	return fuse.OK
}

func (s *server) foldPath(name string) (uint32, fuse.Status) {
	l, err := s.root.list(true)
	if err != nil {
		return 0, s.fail("look up "+name, 0, 0, err)
	}
	if slot, ok := l.fold(s.opts.Rule, name); ok {
		return slot, fuse.OK
	}
	return 0, statusStale
}

// absent says that there is no such name, for that many seconds.
func absent(out *fuse.EntryOut, valid uint64) {
	*out = fuse.EntryOut{EntryValid: valid}
}

func (s *server) treeEntry(out *fuse.EntryOut, o *object, i uint32) {
	s.lookups.add(o.slot, 1)
	s.fillEntry(out, o, i)
}

// fillEntry does not count.
func (s *server) fillEntry(out *fuse.EntryOut, o *object, i uint32) {
	out.NodeId, out.Generation, out.EntryValid, out.AttrValid = nodeID(o.slot, i), 1, forever, forever
	s.owner.treeAttr(&out.Attr, o.view.tree, o.slot, i)
}

func (s *server) rootEntry(out *fuse.EntryOut) {
	out.NodeId, out.Generation, out.EntryValid = rootNode, 1, forever
	out.AttrValid = s.rootAttr(&out.Attr)
}

// rootAttr describes the root. Its times are those of its last change, which helps where the kernel cannot be told
// of changes (macOS), and anyone who watches it. It returns how many seconds the kernel may keep that.
func (s *server) rootAttr(a *fuse.Attr) (valid uint64) {
	usage := s.src.Usage()
	paths := usage.Paths
	// Some paths are files, so this is an upper bound; a lower one would stop fts(3) from descending.
	s.owner.attr(a, Top{Type: nar.TypeDirectory, Size: min(paths, manyEntries-1), Subdirs: int(min(paths, manyEntries-1))}, rootNode)
	a.Size = uint64(paths)
	if s.opts.HideListing {
		a.Mode = fuse.S_IFDIR | 0o111
	}
	at := time.Unix(0, s.root.changedAt.Load())
	a.SetTimes(&at, &at, &at)
	if usage.Guess {
		return 0
	}
	return forever
}

// top describes the top node of the object in a slot, without its tree if possible.
func (s *server) top(slot uint32, doing string) (Top, fuse.Status) {
	if s.tops != nil {
		top, err := s.tops.Top(slot)
		return top, s.fail(doing, slot, 0, err)
	}
	o, err := s.objects.get(slot)
	if err != nil {
		return Top{}, s.fail(doing, slot, 0, err)
	}
	return TopOf(o.view.tree), fuse.OK
}

// node returns the object that a node belongs to, and its number there.
func (s *server) node(id uint64, doing string) (o *object, i uint32, st fuse.Status) {
	slot, i, ok := splitNode(id)
	if !ok {
		return nil, 0, statusStale
	}
	o, err := s.objects.get(slot)
	if err != nil {
		return nil, 0, s.fail(doing, slot, i, err)
	}
	if uint64(i) >= uint64(o.view.tree.Len()) {
		return nil, 0, statusStale
	}
	return o, i, fuse.OK
}

// GetAttr describes a node.
func (s *server) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	s.counts.begin(opGetAttr)
	defer s.counts.end(opGetAttr)
	out.AttrValid = forever
	slot, i, ok := splitNode(in.NodeId)
	switch {
	case in.NodeId == rootNode:
		out.AttrValid = s.rootAttr(&out.Attr)
		return fuse.OK
	case !ok:
		return statusStale
	case i == 0:
		top, st := s.top(slot, "stat")
		if st == fuse.OK {
			s.owner.attr(&out.Attr, top, in.NodeId)
		}
		return st
	}
	o, i, st := s.node(in.NodeId, "stat")
	if st == fuse.OK {
		s.owner.treeAttr(&out.Attr, o.view.tree, slot, i)
	}
	return st
}

// Readlink returns the target of a symlink.
func (s *server) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	s.counts.begin(opReadlink)
	defer s.counts.end(opReadlink)
	o, i, st := s.node(h.NodeId, "readlink")
	if st != fuse.OK {
		return nil, st
	}
	if o.view.tree.Type(i) != nar.TypeSymlink {
		return nil, fuse.EINVAL
	}
	return []byte(o.view.tree.Target(i)), fuse.OK
}

// Forget takes back lookups.
func (s *server) Forget(id, n uint64) {
	s.counts.begin(opForget)
	defer s.counts.end(opForget)
	if slot, _, ok := splitNode(id); ok {
		s.lookups.add(slot, -int64(n))
	}
}

// StatFs reports the store's usage. Its blocks are of 4096 bytes.
func (s *server) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	s.counts.begin(opStatFs)
	defer s.counts.end(opStatFs)
	u := s.src.Usage()
	free := uint64(max(u.Free, 0)) / blockSize
	*out = fuse.StatfsOut{
		Bsize: blockSize, Frsize: blockSize, NameLen: nar.MaxName,
		Blocks: uint64(max(u.Used, 0))/blockSize + free, Bfree: free, Bavail: free,
		Files: uint64(max(u.Paths, 0)),
	}
	return fuse.OK
}

// fail logs what a person should know of and translates the error; nil is OK.
func (s *server) fail(doing string, slot, i uint32, err error) fuse.Status {
	st := status(err)
	if st != fuse.EIO {
		return st
	}
	where := "/"
	if o := s.objects.loaded(slot); o != nil && uint64(i) < uint64(o.view.tree.Len()) {
		where += o.view.tree.Path(i)
	}
	s.damage.report(fmt.Errorf("%s: %w", doing, err), slot, where)
	return st
}
