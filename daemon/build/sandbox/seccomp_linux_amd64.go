package sandbox

import "golang.org/x/sys/unix"

// architectures are amd64, whose table x32 uses too, with a bit set, and i386.
func architectures() []architecture {
	const x32 = 0x40000000
	return []architecture{
		{
			audit: unix.AUDIT_ARCH_X86_64,
			mask:  x32,
			modes: []modeCall{
				{unix.SYS_CHMOD, 1, 0},
				{unix.SYS_FCHMOD, 1, 0},
				{unix.SYS_FCHMODAT, 2, 0},
				{fchmodat2, 2, 0},
				{unix.SYS_CREAT, 1, 0},
				{unix.SYS_OPEN, 2, 1},
				{unix.SYS_OPENAT, 3, 2},
				{unix.SYS_MKNOD, 1, 0},
				{unix.SYS_MKNODAT, 2, 0},
			},
			setxattr: []uint32{unix.SYS_SETXATTR, unix.SYS_LSETXATTR, unix.SYS_FSETXATTR, setxattrat},
			ioUring:  ioUringSet,
			openat2:  openHow,
		},
		{
			audit: unix.AUDIT_ARCH_I386,
			modes: []modeCall{
				{15, 1, 0},  // chmod
				{94, 1, 0},  // fchmod
				{306, 2, 0}, // fchmodat
				{fchmodat2, 2, 0},
				{8, 1, 0},   // creat
				{5, 2, 1},   // open
				{295, 3, 2}, // openat
				{14, 1, 0},  // mknod
				{297, 2, 0}, // mknodat
			},
			setxattr: []uint32{226, 227, 228, setxattrat},
			ioUring:  ioUringSet,
			openat2:  openHow,
		},
	}
}
