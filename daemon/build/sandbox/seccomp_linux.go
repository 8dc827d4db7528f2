package sandbox

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// architecture is one of the tables of system calls that programs can call this kernel with. A number of 0 means that
// it has no such call.
type architecture struct {
	audit uint32
	mask  uint32 // bits of a number that do not tell calls apart

	// Calls with the mode that a file is to have, and the number of that argument.
	modes []modeCall

	setxattr []uint32
	ioUring  uint32 // io_uring_setup: what is queued there passes no filter
	openat2  uint32 // its mode stands in memory, where filters do not look
}

type modeCall struct {
	number, argument uint32
	flags            uint32 // the argument with flags of open(2) that say whether there is a mode at all, or 0
}

const (
	fchmodat2  = 452 // these three have the same number everywhere
	setxattrat = 463
	ioUringSet = 425
	openHow    = 437
)

// suidBits are those that make a program run as another user or group.
const suidBits = unix.S_ISUID | unix.S_ISGID

// Offsets in struct seccomp_data; the lower half of an argument comes first on all our machines.
const (
	atNumber    = 0
	atArch      = 4
	atArguments = 16
)

// filter returns a program for the kernel: system calls that would make a file set-user-id or set-group-id fail with
// EPERM, those that set extended attributes with ENOTSUP, since neither can be in a store. As others than Nix do, it
// also takes care of files that are created with such a mode, and lets programs believe that the kernel has neither
// openat2 nor io_uring (ENOSYS: they have other ways), with which one could get around it.
func filter(archs []architecture) []unix.SockFilter {
	const (
		load    = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		anyBit  = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		and     = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
		ret     = unix.BPF_RET | unix.BPF_K
		allow   = unix.SECCOMP_RET_ALLOW
		refused = unix.SECCOMP_RET_ERRNO
	)
	var program []unix.SockFilter
	// A jump says how many instructions to leave out.
	add := func(code uint16, k uint32, yes, no uint8) {
		program = append(program, unix.SockFilter{Code: code, K: k, Jt: yes, Jf: no})
	}
	answer := func(number, errno uint32) {
		if number != 0 {
			add(equal, number, 0, 1)
			add(ret, refused|errno, 0, 0)
		}
	}
	for _, a := range archs {
		add(load, atArch, 0, 0)
		skip := len(program)
		add(equal, a.audit, 1, 0)
		add(unix.BPF_JMP|unix.BPF_JA, 0, 0, 0) // to the next architecture; filled in below
		add(load, atNumber, 0, 0)
		if a.mask != 0 {
			add(and, ^a.mask, 0, 0)
		}
		for _, n := range a.setxattr {
			answer(n, uint32(unix.ENOTSUP))
		}
		answer(a.ioUring, uint32(unix.ENOSYS))
		answer(a.openat2, uint32(unix.ENOSYS))
		for _, m := range a.modes {
			if m.flags == 0 {
				add(equal, m.number, 0, 4)
			} else {
				add(equal, m.number, 0, 6)
				add(load, atArguments+8*m.flags, 0, 0)
				add(anyBit, creates, 0, 3) // without a mode: allowed
			}
			add(load, atArguments+8*m.argument, 0, 0)
			add(anyBit, suidBits, 0, 1)
			add(ret, refused|uint32(unix.EPERM), 0, 0)
			add(ret, allow, 0, 0)
		}
		add(ret, allow, 0, 0)
		program[skip+1].K = uint32(len(program) - skip - 2)
	}
	add(ret, refused|uint32(unix.ENOSYS), 0, 0) // a table of calls that we do not know
	return program
}

// creates are the flags of open(2) that come with a mode; O_TMPFILE has a bit of O_DIRECTORY besides.
const creates = unix.O_CREAT | unix.O_TMPFILE&^unix.O_DIRECTORY

func filterCalls() error {
	program := filter(architectures())
	p := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&p)))
	runtime.KeepAlive(&p)
	if errno != 0 {
		return errno
	}
	return nil
}
