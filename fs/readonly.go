package fs

import "github.com/hanwen/go-fuse/v2/fuse"

// Everything that would change something. The kernel refuses most of it by itself on a read-only superblock and
// never asks; what gets here anyway (macOS, mounts that an administrator remounted) is refused here.

func (s *server) refuse() fuse.Status {
	s.counts.begin(opOther)
	s.counts.end(opOther)
	return fuse.EROFS
}

// SetAttr refuses chmod, chown, truncate and utimes.
func (s *server) SetAttr(<-chan struct{}, *fuse.SetAttrIn, *fuse.AttrOut) fuse.Status {
	return s.refuse()
}

// Mknod refuses.
func (s *server) Mknod(<-chan struct{}, *fuse.MknodIn, string, *fuse.EntryOut) fuse.Status {
	return s.refuse()
}

// Mkdir refuses.
func (s *server) Mkdir(<-chan struct{}, *fuse.MkdirIn, string, *fuse.EntryOut) fuse.Status {
	return s.refuse()
}

// Unlink refuses.
func (s *server) Unlink(<-chan struct{}, *fuse.InHeader, string) fuse.Status { return s.refuse() }

// Rmdir refuses.
func (s *server) Rmdir(<-chan struct{}, *fuse.InHeader, string) fuse.Status { return s.refuse() }

// Rename refuses.
func (s *server) Rename(<-chan struct{}, *fuse.RenameIn, string, string) fuse.Status {
	return s.refuse()
}

// Link refuses.
func (s *server) Link(<-chan struct{}, *fuse.LinkIn, string, *fuse.EntryOut) fuse.Status {
	return s.refuse()
}

// Symlink refuses.
func (s *server) Symlink(<-chan struct{}, *fuse.InHeader, string, string, *fuse.EntryOut) fuse.Status {
	return s.refuse()
}

// Create refuses.
func (s *server) Create(<-chan struct{}, *fuse.CreateIn, string, *fuse.CreateOut) fuse.Status {
	return s.refuse()
}

// Tmpfile refuses.
func (s *server) Tmpfile(<-chan struct{}, *fuse.CreateIn, *fuse.CreateOut) fuse.Status {
	return s.refuse()
}

// Write refuses.
func (s *server) Write(<-chan struct{}, *fuse.WriteIn, []byte) (uint32, fuse.Status) {
	return 0, s.refuse()
}

// Writev refuses.
func (s *server) Writev(<-chan struct{}, *fuse.WriteIn, [][]byte) (uint32, fuse.Status) {
	return 0, s.refuse()
}

// CopyFileRange refuses: the target would be in here.
func (s *server) CopyFileRange(<-chan struct{}, *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	return 0, s.refuse()
}

// Fallocate refuses.
func (s *server) Fallocate(<-chan struct{}, *fuse.FallocateIn) fuse.Status { return s.refuse() }

// SetXAttr refuses.
func (s *server) SetXAttr(<-chan struct{}, *fuse.SetXAttrIn, string, []byte) fuse.Status {
	return s.refuse()
}

// RemoveXAttr refuses.
func (s *server) RemoveXAttr(<-chan struct{}, *fuse.InHeader, string) fuse.Status {
	return s.refuse()
}
