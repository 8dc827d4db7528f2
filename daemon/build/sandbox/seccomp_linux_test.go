package sandbox_test

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/narfs/narfs/daemon/build/sandbox"
)

// call is a system call as a filter sees it.
type call struct {
	arch, number uint32
	args         [6]uint32 // their lower halves
}

// judge runs a filter, as far as ours uses the machine.
func judge(t *testing.T, program []unix.SockFilter, c call) uint32 {
	t.Helper()
	var a uint32
	for i := 0; i < len(program); i++ {
		in := program[i]
		jump := func(yes bool) {
			if yes {
				i += int(in.Jt)
			} else {
				i += int(in.Jf)
			}
		}
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			switch {
			case in.K == 0:
				a = c.number
			case in.K == 4:
				a = c.arch
			case in.K >= 16 && in.K%8 == 0:
				a = c.args[(in.K-16)/8]
			default:
				t.Fatalf("load from %d", in.K)
			}
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= in.K
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump(a == in.K)
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			jump(a&in.K != 0)
		case unix.BPF_JMP | unix.BPF_JA:
			i += int(in.K)
		case unix.BPF_RET | unix.BPF_K:
			return in.K
		default:
			t.Fatalf("instruction %#x", in.Code)
		}
	}
	t.Fatal("the filter ends without an answer")
	return 0
}

func TestFilter(t *testing.T) {
	const (
		allow = unix.SECCOMP_RET_ALLOW
		eperm = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
		enot  = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOTSUP)
		enos  = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
		amd64 = unix.AUDIT_ARCH_X86_64
		i386  = unix.AUDIT_ARCH_I386
		arm64 = unix.AUDIT_ARCH_AARCH64
		arm   = unix.AUDIT_ARCH_ARM
		x32   = 0x40000000
		suid  = 0o4755
		sgid  = 0o2755
		creat = 0o100
		tmp   = 0o20000000
	)
	all := map[string][]struct {
		name string
		call call
		want uint32
	}{
		"amd64": {
			{"read", call{amd64, 0, [6]uint32{}}, allow},
			{"chmod", call{amd64, 90, [6]uint32{0, 0o755}}, allow},
			{"chmod sticky", call{amd64, 90, [6]uint32{0, 0o1777}}, allow},
			{"chmod suid", call{amd64, 90, [6]uint32{0, suid}}, eperm},
			{"x32 chmod suid", call{amd64, 90 | x32, [6]uint32{0, suid}}, eperm},
			{"fchmod sgid", call{amd64, 91, [6]uint32{0, sgid}}, eperm},
			{"fchmodat suid", call{amd64, 268, [6]uint32{0, 0, suid}}, eperm},
			{"x32 fchmodat2 suid", call{amd64, 452 | x32, [6]uint32{0, 0, suid}}, eperm},
			{"open, no mode", call{amd64, 2, [6]uint32{0, 0, suid}}, allow},
			{"open", call{amd64, 2, [6]uint32{0, creat, suid}}, eperm},
			{"openat of an unnamed file", call{amd64, 257, [6]uint32{0, 0, tmp, suid}}, eperm},
			{"openat", call{amd64, 257, [6]uint32{0, 0, creat, 0o644}}, allow},
			{"setxattr", call{amd64, 188, [6]uint32{}}, enot},
			{"x32 fsetxattr", call{amd64, 190 | x32, [6]uint32{}}, enot},
			{"setxattrat", call{amd64, 463, [6]uint32{}}, enot},
			{"getxattr", call{amd64, 191, [6]uint32{}}, allow},
			{"io_uring_setup", call{amd64, 425, [6]uint32{}}, enos},
			{"openat2", call{amd64, 437, [6]uint32{}}, enos},
			{"i386 setxattr's number", call{amd64, 226, [6]uint32{}}, allow},
			{"i386 chmod", call{i386, 15, [6]uint32{0, suid}}, eperm},
			{"i386 fchmod", call{i386, 94, [6]uint32{0, sgid}}, eperm},
			{"i386 fchmodat", call{i386, 306, [6]uint32{0, 0, suid}}, eperm},
			{"i386 fchmodat2", call{i386, 452, [6]uint32{0, 0, suid}}, eperm},
			{"i386 open", call{i386, 5, [6]uint32{0, creat, suid}}, eperm},
			{"i386 lsetxattr", call{i386, 227, [6]uint32{}}, enot},
			{"i386 rt_sigreturn", call{i386, 173, [6]uint32{}}, allow},
			{"another architecture", call{arm, 15, [6]uint32{0, suid}}, enos},
		},
		"arm64": {
			{"read", call{arm64, 63, [6]uint32{}}, allow},
			{"fchmod suid", call{arm64, 52, [6]uint32{0, suid}}, eperm},
			{"fchmodat suid", call{arm64, 53, [6]uint32{0, 0, suid}}, eperm},
			{"fchmodat2 sgid", call{arm64, 452, [6]uint32{0, 0, sgid}}, eperm},
			{"openat", call{arm64, 56, [6]uint32{0, 0, creat, suid}}, eperm},
			{"setxattr", call{arm64, 5, [6]uint32{}}, enot},
			{"fsetxattr", call{arm64, 7, [6]uint32{}}, enot},
			{"arm chmod", call{arm, 15, [6]uint32{0, suid}}, eperm},
			{"arm fchmodat", call{arm, 333, [6]uint32{0, 0, suid}}, eperm},
			{"arm fsetxattr", call{arm, 228, [6]uint32{}}, enot},
			{"arm read", call{arm, 3, [6]uint32{}}, allow},
			{"another architecture", call{amd64, 90, [6]uint32{0, suid}}, enos},
		},
	}
	program := sandbox.Filter()
	for _, tt := range all[runtime.GOARCH] {
		if got := judge(t, program, tt.call); got != tt.want {
			t.Errorf("%s: %#x; want %#x", tt.name, got, tt.want)
		}
	}
}
