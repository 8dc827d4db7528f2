package fs

import "github.com/narfs/narfs/nar"

// Source is the store as a mount sees it. All methods may be called at any time and concurrently, also after the
// mount is gone (a late request). None of them may touch a mounted narfs of this process, nor wait for one of
// [Mount.Sync], [Mount.Unmount] or the reply of another request: that is a deadlock.
//
// A Source may also be a [TopSource].
type Source interface {
	// Lookup returns the slot of a valid path by its base name, and io/fs.ErrNotExist if there is none. Any
	// other error is passed on to the caller of the file system and not remembered.
	Lookup(name string) (slot uint32, err error)
	// Open returns the object in a slot, io/fs.ErrNotExist if it is gone. It must go on working for a path that
	// is no longer valid until [Mount.Drop] says that the kernel holds no reference to it.
	Open(slot uint32) (Object, error)
	// List yields the base names of all valid paths with their slots in any order.
	List(yield func(name string, slot uint32) bool) error
	// Usage says how full the store is. It must be cheap: macOS asks all the time.
	Usage() Usage
}

// A slot is a small number that stands for one registration of a store path: allocated when the path becomes
// valid, kept in the store, never given to another path, never 0 and never 1<<32-1.

// Usage is what statfs(2) reports.
type Usage struct {
	Used  int64 // bytes that the store takes on its disk
	Free  int64 // bytes that the disk still has
	Paths int64 // valid paths
	Guess bool  // there are at most so many Paths; how many will be known soon
}

// Object is the content of one store path. It is immutable, and its methods may be called concurrently.
//
// An Object may also be a [FrameObject] and an [XAttrObject].
type Object interface {
	// Tree returns the entries; every call returns the same ones.
	Tree() (*nar.Tree, error)
	// ReadAt is io.ReaderAt for the regular file with this index in Tree. Callers read within the file only.
	ReadAt(node uint32, p []byte, off int64) (int, error)
	// Span returns a run of bytes of that file around off that is at hand once off is: what one compressed frame
	// holds of the file. data begins at offset start of the file, start <= off < start+len(data). With n above 0 these n
	// bytes from off on are enough, as far as the frame has them: what follows them may be left out. data stays as it
	// is until release is called, which happens exactly once and possibly much later on another goroutine; Span
	// must not wait for the release of other spans.
	Span(node uint32, off int64, n int) (data []byte, start int64, release func(), err error)
}

// FrameObject is an Object whose frames hold several files, and that can say which. Whoever reads one small file
// in a directory mostly reads the next one, too: with it, the mount gives the kernel all of a frame's files when one
// of them is read.
type FrameObject interface {
	// Frame calls yield for the other regular files of which the frame in which Span(node, off) stands has something:
	// first those that follow in NAR order, then those before, backwards. The data of a piece need stay as it is only
	// until yield returns. When that is false, Frame returns.
	Frame(node uint32, off int64, yield func(Piece) bool) error
}

// Piece is a run of bytes of a regular file.
type Piece struct {
	Node uint32
	Off  int64 // of Data in the file
	Data []byte
}

// Top is what there is to know of the top node of a store path without its Tree.
type Top struct {
	Type       nar.Type
	Executable bool
	Size       int64 // as nar.Tree.Size(0)
	Subdirs    int   // how many entries of a directory are directories
}

// TopSource is a Source that knows the top nodes by heart. Without it, listing the root with attributes loads
// the tree of every store path.
type TopSource interface {
	// Top describes node 0 of the object in a slot exactly as [TopOf] its tree; io/fs.ErrNotExist if it is gone.
	Top(slot uint32) (Top, error)
}

// TopOf returns what a [TopSource] answers for a path with this tree.
func TopOf(t *nar.Tree) Top {
	top := Top{Type: t.Type(0), Executable: t.Executable(0), Size: t.Size(0)}
	top.Subdirs = subdirs(t, 0)
	return top
}

func subdirs(t *nar.Tree, dir uint32) int {
	var dirs int
	first, n := t.Children(dir)
	for i := first; i < first+n; i++ {
		if t.Type(i) == nar.TypeDirectory {
			dirs++
		}
	}
	return dirs
}

// XAttrObject is an Object with extended attributes. They are asked for only in mounts with Options.XAttr.
type XAttrObject interface {
	// XAttrs returns the attributes of a node with their names after "user.narfs.", such as "hash", "size" and
	// "references" for node 0.
	XAttrs(node uint32) ([]XAttr, error)
}

// XAttr is one extended attribute.
type XAttr struct {
	Name  string
	Value []byte
}
