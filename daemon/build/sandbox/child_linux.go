package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// init does what [Run] started this process for, and does not return then: it is a builder's keeper, or becomes the
// builder. In any other process it does nothing. By the time that the program's main function began, packages would have been initialised
// that a keeper has no need of, which takes longer than all that it does.
func init() { //nolint:gochecknoinits // see above
	if os.Args[0] != childName {
		return
	}
	// Ids, capabilities and filters are a thread's, and the thread that calls execve hands its own on.
	runtime.LockOSThread()
	if len(os.Args) == 1 {
		unix.Exit(keep())
	}
	if err := become(); err != nil {
		unix.Exit(tell(err))
	}
	unix.Exit(0)
}

// tell tells Run why there is no builder.
func tell(err error) int {
	r := report{Op: "set up", Text: err.Error()}
	if setup, ok := errors.AsType[*SetupError](err); ok {
		r = report{Op: setup.Op, Text: setup.Err.Error(), Hint: setup.Hint, Builder: errors.Is(err, ErrBuilder)}
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		r.Errno = int(errno)
	}
	if text, err := json.Marshal(r); err == nil {
		_, _ = unix.Write(reportFD, text)
	}
	return 1
}

// step names what was being done when err came.
func step(op string, err error) error {
	if err == nil {
		return nil
	}
	return &SetupError{Op: op, Err: err}
}

func become() error {
	// The runtime's own descriptors stay open until execve.
	if err := unix.CloseRange(orderFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return &SetupError{Op: "close descriptors", Err: err, Hint: "Linux 5.12 or newer is needed"}
	}
	o, err := readOrder(os.NewFile(orderFD, childName))
	if err != nil {
		return err
	}
	s := o.Spec
	if o.DropGroups {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
			return step("drop groups", errno)
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return &SetupError{Op: "make mounts private", Err: err, Hint: hint(err)}
	}
	set := &setup{spec: s}
	if err := set.open(); err != nil {
		return err
	}
	if err := takeIDs(inside(s)); err != nil {
		return step("become the builder's user", err)
	}
	// What is made from here on has the modes that are asked for.
	unix.Umask(0o022)
	if !s.Network {
		if err := loopback(); err != nil {
			return step("bring the loopback interface up", err)
		}
	}
	if s.Sandboxed {
		if err := unix.Sethostname([]byte("localhost")); err != nil {
			return step("set the host's name", err)
		}
		if err := unix.Setdomainname([]byte("(none)")); err != nil {
			return step("set the domain's name", err)
		}
	}
	if err := set.mount(); err != nil {
		return err
	}
	if err := unix.Chdir(s.Dir); err != nil {
		return step("enter "+s.Dir, err)
	}
	if err := restrict(); err != nil {
		return err
	}
	if o.Probe {
		_, err := unix.Write(reportFD, []byte{readyMark})
		return err
	}
	argv := append([]string{filepath.Base(s.Builder)}, s.Args...)
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return step("follow the parent in its death", err) // the change of ids had undone it
	}
	if _, err := unix.Write(reportFD, []byte{readyMark}); err != nil {
		return step("tell that all is ready", err) // the parent is dead already
	}
	err = syscall.Exec(s.Builder, argv, s.Env)
	return &SetupError{Op: "execute '" + s.Builder + "'", Err: fmt.Errorf("%w: %w", ErrBuilder, err)}
}

// takeIDs makes this thread one of the only user that the namespace knows, which keeps its capabilities.
func takeIDs(uid, gid int) error {
	if os.Getgid() != gid {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)); errno != 0 {
			return errno
		}
	}
	if os.Getuid() != uid {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			return errno
		}
	}
	return nil
}

func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_LOOPBACK | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}
