package fs

import "github.com/hanwen/go-fuse/v2/fuse"

// What the kernel need not ask. ENOSYS makes it do the thing by itself and, for all but ioctl, never ask again.

func (s *server) unneeded(o op) fuse.Status {
	s.counts.begin(o)
	s.counts.end(o)
	return fuse.ENOSYS
}

// Access is the kernel's own business: default_permissions makes it check the modes.
func (s *server) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return s.unneeded(opAccess) }

// Flush has nothing to write; it would be asked for at every close.
func (s *server) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return s.unneeded(opFlush) }

// Fsync has nothing to write.
func (s *server) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return s.unneeded(opOther) }

// FsyncDir has nothing to write.
func (s *server) FsyncDir(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return s.unneeded(opOther) }

// Lseek is for holes, of which NARs know nothing.
func (s *server) Lseek(<-chan struct{}, *fuse.LseekIn, *fuse.LseekOut) fuse.Status {
	return s.unneeded(opOther)
}

// Ioctl knows no commands; the caller gets ENOTTY.
func (s *server) Ioctl(<-chan struct{}, *fuse.IoctlIn, []byte, *fuse.IoctlOut, []byte) fuse.Status {
	return s.unneeded(opOther)
}

// Release comes from kernels that want opens answered. There is nothing to give back.
func (s *server) Release(<-chan struct{}, *fuse.ReleaseIn) { s.unneeded(opRelease) }

// ReleaseDir likewise.
func (s *server) ReleaseDir(*fuse.ReleaseIn) { s.unneeded(opRelease) }
