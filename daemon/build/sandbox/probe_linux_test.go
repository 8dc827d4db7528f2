package sandbox_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// probes are what a builder can try that a shell cannot. Each prints a line for each thing tried: its name and how it
// ended.
var probes = map[string]func(say func(what string, err error)){
	"modes": func(say func(string, error)) {
		f, err := os.OpenFile("file", os.O_CREATE|os.O_RDWR, 0o644)
		say("create", err)
		fd := int(f.Fd())
		path, _ := unix.BytePtrFromString("file")
		call := func(n, a, b, c, d uintptr) error {
			if _, _, errno := unix.Syscall6(n, a, b, c, d, 0, 0); errno != 0 {
				return errno
			}
			return nil
		}
		at, cwd, p := uintptr(fd), ^uintptr(99), uintptr(unsafe.Pointer(path)) // cwd is AT_FDCWD
		say("fchmod 755", call(unix.SYS_FCHMOD, at, 0o755, 0, 0))
		say("fchmod 4755", call(unix.SYS_FCHMOD, at, 0o4755, 0, 0))
		say("fchmod 2755", call(unix.SYS_FCHMOD, at, 0o2755, 0, 0))
		say("fchmodat 4755", call(unix.SYS_FCHMODAT, cwd, p, 0o4755, 0))
		say("fchmodat2 4755", call(452, cwd, p, 0o4755, 0))
		create := func(mode uint32) error {
			fd, err := unix.Open("created", unix.O_CREAT|unix.O_WRONLY, mode)
			_ = unix.Close(fd)
			return err
		}
		say("create 4755", create(0o4755))
		say("create 755", create(0o755))
		tmp, err := unix.Open(".", unix.O_TMPFILE|unix.O_WRONLY, 0o4755)
		_ = unix.Close(tmp)
		say("tmpfile 4755", err)
		say("mknod 4755", unix.Mknod("made", unix.S_IFREG|0o4755, 0))
		_, err = unix.Openat2(unix.AT_FDCWD, "two", &unix.OpenHow{Flags: unix.O_CREAT | unix.O_WRONLY, Mode: 0o4755})
		say("openat2", err)
		say("io_uring_setup", call(425, 1, 0, 0, 0))
	},
	"xattrs": func(say func(string, error)) {
		say("create", os.WriteFile("file", nil, 0o644))
		say("setxattr", unix.Setxattr("file", "user.a", []byte("b"), 0))
		say("lsetxattr", unix.Lsetxattr("file", "user.a", []byte("b"), 0))
		f, err := os.Open("file")
		say("open", err)
		say("fsetxattr", unix.Fsetxattr(int(f.Fd()), "user.a", []byte("b"), 0))
	},
	"escape": func(say func(string, error)) {
		say("mount", unix.Mount("none", "/tmp", "tmpfs", 0, ""))
		say("remount", unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND, ""))
		say("umount", unix.Unmount("/proc", unix.MNT_DETACH))
		say("pivot_root", unix.PivotRoot(".", "."))
		say("chroot", unix.Chroot("/tmp"))
		say("mknod", unix.Mknod("/tmp/disk", unix.S_IFBLK|0o600, 8<<8))
		say("setuid", unix.Setresuid(0, 0, 0))
		say("setgroups", unix.Setgroups([]int{0}))
		say("sethostname", unix.Sethostname([]byte("evil")))
		say("write /", os.WriteFile("/file", nil, 0o644))
		say("write /etc", os.WriteFile("/etc/passwd", nil, 0o644))
		say("make home", os.Mkdir("/homeless-shelter", 0o755))
		say("core_pattern", os.WriteFile("/proc/sys/kernel/core_pattern", []byte("core"), 0))
		say("sysrq", os.WriteFile("/proc/sysrq-trigger", []byte("?"), 0))
		say("chmod /dev/null", os.Chmod("/dev/null", 0o666))
		say("raw socket", func() error {
			_, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
			return err
		}())
	},
	"nested": func(say func(string, error)) { // runs with all that a new user namespace gives
		say("mount", unix.Mount("none", "/tmp", "tmpfs", 0, ""))
		say("umount", unix.Unmount("/proc", unix.MNT_DETACH))
		say("umount store", unix.Unmount(storeDir, unix.MNT_DETACH))
		say("remount store", unix.Mount("", storeDir+"/"+tools, "", unix.MS_REMOUNT|unix.MS_BIND, ""))
		say("remount /", unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NOSUID|unix.MS_NODEV, ""))
		say("core_pattern", os.WriteFile("/proc/sys/kernel/core_pattern", []byte("core"), 0))
		say("mknod", unix.Mknod("/tmp/disk", unix.S_IFBLK|0o600, 8<<8))
	},
	"abstract": func(say func(string, error)) { // its argument is the name of a socket outside
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		say("socket", err)
		say("connect", unix.Connect(fd, &unix.SockaddrUnix{Name: "@" + os.Args[1]}))
		own, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		say("socket", err)
		say("bind", unix.Bind(own, &unix.SockaddrUnix{Name: "@own-" + os.Args[1]}))
		say("listen", unix.Listen(own, 1))
		say("connect to own", unix.Connect(fd, &unix.SockaddrUnix{Name: "@own-" + os.Args[1]}))
	},
	"pass": func(say func(string, error)) { // its terminal, to who listens at its argument
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		say("socket", err)
		say("connect", unix.Connect(fd, &unix.SockaddrUnix{Name: os.Args[1]}))
		say("send", unix.Sendmsg(fd, []byte("x"), unix.UnixRights(1), nil, 0))
	},
	"crash": func(func(string, error)) {
		var none [4]uint64 // the default action, instead of the runtime's
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGSEGV), uintptr(unsafe.Pointer(&none)), 0, 8, 0, 0)
		*nowhere = 1
	},
	"orphan": func(say func(string, error)) {
		say("forget the parent", unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0))
		_ = unix.Pause()
	},
	"self": func(say func(string, error)) {
		for _, line := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"} {
			status, _ := os.ReadFile("/proc/thread-self/status")
			for l := range strings.Lines(string(status)) {
				if strings.HasPrefix(l, line+":") {
					_, _ = fmt.Fprintln(os.Stdout, strings.Join(strings.Fields(l), " "))
				}
			}
		}
		pgid, _ := unix.Getpgid(0)
		sid, _ := unix.Getsid(0)
		_, _ = fmt.Fprintln(os.Stdout, "pid", os.Getpid(), "pgid", pgid, "sid", sid)
		_, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
		say("/dev/tty", err)
		var core unix.Rlimit
		_ = unix.Getrlimit(unix.RLIMIT_CORE, &core)
		_, _ = fmt.Fprintln(os.Stdout, "core", core.Cur)
		persona, _ := os.ReadFile("/proc/self/personality")
		_, _ = fmt.Fprintln(os.Stdout, "personality", strings.TrimSpace(string(persona)))
		_, _ = fmt.Fprintf(os.Stdout, "umask %03o\n", unix.Umask(0))
		_, _ = fmt.Fprintln(os.Stdout, "argv", strings.Join(os.Args, " "))
	},
}

var nowhere *int

const asProbe = "NARFS_TEST_PROBE"

func probe(name string) {
	probes[name](func(what string, err error) {
		result := "done"
		if err != nil {
			result = err.Error()
			if errno, ok := errors.AsType[syscall.Errno](err); ok {
				result = unix.ErrnoName(errno)
			}
		}
		_, _ = fmt.Fprintf(os.Stdout, "%s: %s\n", what, result)
	})
}
