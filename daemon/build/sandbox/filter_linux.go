package sandbox

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// calls are the numbers of system calls on one architecture, as the kernel names it.
type calls struct {
	arch   uint32
	modes  map[uint32]uint32 // those that set modes → which argument is the mode
	xattrs []uint32          // those that set extended attributes
}

// architectures are those whose programs this machine may run. Newer calls have the same number everywhere.
func architectures() []calls {
	const fchmodat2, setxattrat = 452, 463
	x86 := []calls{
		{unix.AUDIT_ARCH_X86_64, map[uint32]uint32{90: 1, 91: 1, 268: 2, fchmodat2: 2}, []uint32{188, 189, 190, setxattrat}},
		{unix.AUDIT_ARCH_I386, map[uint32]uint32{15: 1, 94: 1, 306: 2, fchmodat2: 2}, []uint32{226, 227, 228, setxattrat}},
	}
	arm := []calls{
		{unix.AUDIT_ARCH_AARCH64, map[uint32]uint32{52: 1, 53: 2, fchmodat2: 2}, []uint32{5, 6, 7, setxattrat}},
		{unix.AUDIT_ARCH_ARM, map[uint32]uint32{15: 1, 94: 1, 333: 2, fchmodat2: 2}, []uint32{226, 227, 228, setxattrat}},
	}
	switch runtime.GOARCH {
	case "amd64":
		return x86
	case "arm64":
		return arm
	}
	return nil
}

// Offsets in what the kernel tells a filter of a call.
const (
	dataNumber = 0
	dataArch   = 4
	dataArgs   = 16 // 8 bytes each
)

// x32 marks the numbers of a second set of calls of AUDIT_ARCH_X86_64.
const x32 = 0x40000000

// program is the filter: setuid and setgid bits are refused with EPERM, extended attributes with ENOTSUP, and so are the x32 calls and
// unknown architectures, with ENOSYS.
func program() (code []unix.SockFilter) {
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	ret := func(errno uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | errno}
	}
	allow := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}
	// Skips the next n if the value is not k.
	unless := func(k uint32, n int) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jf: uint8(n)}
	}
	for _, a := range architectures() {
		block := []unix.SockFilter{load(dataNumber)}
		if a.arch == unix.AUDIT_ARCH_X86_64 {
			block = append(block, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: x32, Jf: 1}, ret(uint32(unix.ENOSYS)))
		}
		for number, arg := range a.modes {
			block = append(block, unless(number, 4), load(dataArgs+8*arg),
				unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: unix.S_ISUID | unix.S_ISGID, Jf: 1}, ret(uint32(unix.EPERM)), allow)
		}
		for _, number := range a.xattrs {
			block = append(block, unless(number, 1), ret(uint32(unix.ENOTSUP)))
		}
		block = append(block, allow)
		code = append(code, load(dataArch), unless(a.arch, len(block)))
		code = append(code, block...)
	}
	return append(code, ret(uint32(unix.ENOSYS)))
}

// filterCalls has the kernel filter the system calls of this thread, and of what it becomes.
func filterCalls() error {
	code := program()
	if len(architectures()) == 0 {
		return unix.ENOSYS
	}
	filter := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&filter)), 0, 0) //nolint:gosec // how the kernel wants it
}
