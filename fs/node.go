package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/narfs/narfs/nar"
)

// rootNode is the directory of all store paths.
const rootNode = fuse.FUSE_ROOT_ID

// nodeID is the node id and inode number of a node of a store path.
func nodeID(slot, index uint32) uint64 { return uint64(slot)<<32 | (uint64(index) + 1) }

// splitNode undoes nodeID; ok is false for the root and for numbers that are no node of a store path.
func splitNode(id uint64) (slot, index uint32, ok bool) {
	slot, low := uint32(id>>32), uint32(id)
	return slot, low - 1, slot != 0 && low != 0
}

// forever is how long the kernel may keep what cannot change, in seconds. A year later it just asks again.
const forever = 365 * 24 * 3600

// The modes of Nix's canonical metadata. All times are second 1 of 1970.
const (
	modeDir  = fuse.S_IFDIR | 0o555
	modeFile = fuse.S_IFREG | 0o444
	modeExec = fuse.S_IFREG | 0o555
	modeLink = fuse.S_IFLNK | 0o777
)

const (
	canonicalTime = 1
	blockSize     = 4096
	// manyEntries is where counting subdirectories stops. Like ext4, such a directory has the link count 1 for "unknown".
	manyEntries = 65000
)

func typeBits(t nar.Type) uint32 {
	switch t {
	case nar.TypeDirectory:
		return fuse.S_IFDIR
	case nar.TypeSymlink:
		return fuse.S_IFLNK
	default:
		return fuse.S_IFREG
	}
}

// treeAttr fills in the attributes of node i of the tree in slot.
func (o *owner) treeAttr(a *fuse.Attr, t *nar.Tree, slot, i uint32) {
	top := Top{Type: t.Type(i), Executable: t.Executable(i), Size: t.Size(i)}
	if top.Type == nar.TypeDirectory && top.Size < manyEntries {
		top.Subdirs = subdirs(t, i)
	}
	o.attr(a, top, nodeID(slot, i))
}

// owner owns every file of a mount.
type owner struct{ uid, gid uint32 }

// attr fills in the attributes of a node of that number like top.
func (o *owner) attr(a *fuse.Attr, top Top, ino uint64) {
	*a = fuse.Attr{
		Ino: ino, Size: uint64(top.Size), Nlink: 1, Blksize: blockSize,
		Atime: canonicalTime, Mtime: canonicalTime, Ctime: canonicalTime,
		Owner: fuse.Owner{Uid: o.uid, Gid: o.gid},
	}
	switch {
	case top.Type == nar.TypeDirectory:
		// The link count must be right: fts(3) of the BSDs takes a directory with two links for one without
		// subdirectories and does not descend.
		a.Mode = modeDir
		if top.Size < manyEntries {
			a.Nlink = uint32(2 + top.Subdirs)
		}
	case top.Type == nar.TypeSymlink:
		a.Mode = modeLink
	case top.Executable:
		a.Mode = modeExec
	default:
		a.Mode = modeFile
	}
	if top.Type == nar.TypeRegular {
		a.Blocks = (a.Size + 511) / 512 // du counts these
	}
}
