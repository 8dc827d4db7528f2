package sandbox

import "golang.org/x/sys/unix"

// architectures are arm64 and the 32-bit one that many of its machines run too.
func architectures() []architecture {
	return []architecture{
		{
			audit: unix.AUDIT_ARCH_AARCH64,
			modes: []modeCall{
				{unix.SYS_FCHMOD, 1, 0},
				{unix.SYS_FCHMODAT, 2, 0},
				{fchmodat2, 2, 0},
				{unix.SYS_OPENAT, 3, 2},
				{unix.SYS_MKNODAT, 2, 0},
			},
			setxattr: []uint32{unix.SYS_SETXATTR, unix.SYS_LSETXATTR, unix.SYS_FSETXATTR, setxattrat},
			ioUring:  ioUringSet,
			openat2:  openHow,
		},
		{
			audit: unix.AUDIT_ARCH_ARM,
			modes: []modeCall{
				{15, 1, 0},  // chmod
				{94, 1, 0},  // fchmod
				{333, 2, 0}, // fchmodat
				{fchmodat2, 2, 0},
				{8, 1, 0},   // creat
				{5, 2, 1},   // open
				{322, 3, 2}, // openat
				{14, 1, 0},  // mknod
				{324, 2, 0}, // mknodat
			},
			setxattr: []uint32{226, 227, 228, setxattrat},
			ioUring:  ioUringSet,
			openat2:  openHow,
		},
	}
}
