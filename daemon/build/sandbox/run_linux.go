package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// childName is the name under which a process knows that it is to become a builder.
const childName = "narfs-build-child"

// Descriptors of the child besides the standard ones.
const (
	orderFD  = 3 // an order
	reportFD = 4 // where readyMark comes just before the builder is executed, and a report if something fails
)

// What the child writes to reportFD besides a report.
const (
	readyMark  = '\x02' // all is set up
	signalMark = '\x03' // the builder was killed by the signal whose number follows
)

// report is why the child could not become the builder.
type report struct {
	Op, Text, Hint string
	Errno          int
	Builder        bool
}

// Run runs a builder and all that it starts, and returns when none of that lives any more. It returns an error if the
// builder was not run (a [SetupError]), and with its Exit if it was killed because ctx ended or Log failed. Run may be
// called concurrently; it keeps a thread of the operating system while it runs.
func Run(ctx context.Context, s Spec) (Exit, error) { return run(ctx, s, false) }

func run(ctx context.Context, s Spec, probe bool) (Exit, error) {
	s, err := s.withDefaults()
	if err != nil {
		return Exit{}, err
	}
	fail := func(op string, err error) (Exit, error) {
		return Exit{}, &SetupError{Op: op, Err: err, Hint: hint(err)}
	}
	logTo, cpu := s.Log, s.CPU
	s.Log, s.CPU = nil, nil
	o := order{Spec: s, DropGroups: mayDropGroups(), Bare: mayAdminister(), Probe: probe}
	what, err := sealed(o)
	if err != nil {
		return fail("describe the build", err)
	}
	defer func() { _ = what.Close() }()
	reports, reportTo, err := os.Pipe()
	if err != nil {
		return fail("make a pipe", err)
	}
	defer func() { _, _ = reports.Close(), reportTo.Close() }()
	master, slave, err := openPTY(s.UID)
	if err != nil {
		return fail("open a pseudoterminal", err)
	}
	defer func() { _ = master.Close() }()
	work := workDir(s)
	if err := os.Mkdir(work, 0o700); err != nil {
		_ = slave.Close()
		return fail("make a folder", err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	if err := os.Lchown(work, s.UID, s.GID); err != nil {
		_ = slave.Close()
		return fail("give the builder its folder", err)
	}
	outputs, err := openOutputs(s.Outputs)
	if err != nil {
		_ = slave.Close()
		return fail("open "+s.Outputs, err)
	}
	defer func() {
		outputs.tidy(s.Inputs)
		_ = outputs.f.Close()
	}()

	// The parent's death signal is sent when this thread ends, and so it has to stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cmd := again(ctx, what, reportTo, slave)
	cmd.SysProcAttr = keeperAttributes(o)
	if s.Cgroup {
		group, err := newCgroup()
		if err != nil {
			_ = slave.Close()
			return Exit{}, &SetupError{Op: "make a control group", Err: err, Hint: "use-cgroups wants control groups of version 2, delegated to the daemon"}
		}
		defer func() {
			if used := group.end(); cpu != nil {
				*cpu = used
			}
		}()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.f.Fd())
	}
	err = cmd.Start()
	_ = slave.Close()
	if err != nil {
		if ctx.Err() != nil {
			return Exit{}, context.Cause(ctx)
		}
		return fail("make the builder's namespaces", err)
	}
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		copyLog(logTo, master, cancel)
	}()
	err = cmd.Wait() // all processes of the namespace are dead when their first one is
	// Somebody outside may have been passed the terminal.
	_ = master.SetReadDeadline(time.Now().Add(2 * time.Second))
	<-logged
	_ = reportTo.Close()
	if ended := ctx.Err(); ended != nil {
		return exitOf(cmd.ProcessState), context.Cause(ctx)
	}
	if exitErr := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exitErr) {
		return fail("wait for the builder", err)
	}
	said, err := io.ReadAll(io.LimitReader(reports, 1<<16))
	if err != nil {
		return fail("hear how the builder began", err)
	}
	exit := exitOf(cmd.ProcessState)
	rest, ready := bytes.CutPrefix(said, []byte{readyMark})
	if i := bytes.IndexByte(rest, signalMark); i >= 0 && i == len(rest)-2 {
		exit = Exit{Signal: syscall.Signal(rest[i+1])}
		rest = rest[:i]
	}
	switch {
	case len(rest) > 0:
		var r report
		if err := json.Unmarshal(rest, &r); err != nil {
			return fail("hear how the builder began", err)
		}
		return Exit{}, r.err()
	case !ready:
		return fail("set up", errors.New("the process that sets up "+exit.String()))
	}
	return exit, nil
}

// mayDropGroups reports whether this is root, and one who may have his processes give up the groups that he is in: root of a user
// namespace often may not.
func mayDropGroups() bool {
	if os.Geteuid() != 0 {
		return false
	}
	text, err := os.ReadFile("/proc/self/setgroups")
	return err != nil || string(bytes.TrimSpace(text)) == "allow"
}

// mayAdminister reports whether this process may make namespaces of all kinds without one for users, and mount what it likes there: it may
// administer the system, in its first user namespace.
func mayAdminister() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil || sets[0].Effective&(1<<unix.CAP_SYS_ADMIN) == 0 {
		return false
	}
	text, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && slices.Equal(strings.Fields(string(text)), []string{"0", "0", "4294967295"})
}

func (r report) err() error {
	var err error = syscall.Errno(r.Errno)
	switch {
	case r.Builder:
		err = fmt.Errorf("%w: %w", ErrBuilder, err)
	case r.Errno == 0:
		err = errors.New(r.Text)
	}
	return &SetupError{Op: r.Op, Err: err, Hint: r.Hint}
}

func exitOf(p *os.ProcessState) Exit {
	status, ok := p.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return Exit{Signal: status.Signal()}
	}
	return Exit{Code: p.ExitCode()}
}

// inside returns the ids that the builder has in its own eyes.
func inside(s Spec) (uid, gid int) {
	if s.Sandboxed {
		return 1000, 100
	}
	return s.UID, s.GID
}

// workDir is the folder that overlayfs wants beside the writable one.
func workDir(s Spec) string { return s.Outputs + ".work" }

// copyLog copies until nobody has the terminal's other end. It goes on reading when w fails, so that the builder can
// be killed and does not wait for a reader.
func copyLog(w io.Writer, master *os.File, cancel context.CancelCauseFunc) {
	buf := make([]byte, 32<<10)
	for {
		n, err := master.Read(buf)
		if n > 0 && w != nil {
			if _, err := w.Write(buf[:n]); err != nil {
				cancel(err)
				w = nil
			}
		}
		if err != nil { // EIO: the other end is closed
			return
		}
	}
}

// outputs is the folder for outputs as it was before the builder had it.
type outputs struct {
	f    *os.File
	mode os.FileMode
}

func openOutputs(path string) (o outputs, err error) {
	if o.f, err = os.OpenFile(path, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err != nil {
		return o, err
	}
	fi, err := o.f.Stat()
	if err != nil {
		_ = o.f.Close()
		return o, err
	}
	o.mode = fi.Mode()
	return o, nil
}

// tidy gives the folder its mode back, and takes away what was made there to show inputs at, or in place of those that the builder has
// removed.
func (o outputs) tidy(inputs []string) {
	_ = o.f.Chmod(o.mode)
	there, _ := o.f.Readdirnames(-1)
	inputs = slices.Sorted(slices.Values(inputs))
	fd := int(o.f.Fd())
	for _, name := range there {
		if _, isInput := slices.BinarySearch(inputs, name); !isInput {
			continue
		}
		if err := unix.Unlinkat(fd, name, unix.AT_REMOVEDIR); errors.Is(err, unix.ENOTDIR) {
			_ = unix.Unlinkat(fd, name, 0)
		}
	}
}

// openPTY opens a pseudoterminal that passes bytes on as they are, and is uid's.
func openPTY(uid int) (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			_ = master.Close()
		}
	}()
	conn, err := master.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	fd := -1
	var op error
	if err := conn.Control(func(m uintptr) {
		if op = unix.IoctlSetPointerInt(int(m), unix.TIOCSPTLCK, 0); op != nil {
			return
		}
		// By path it could be another one: /dev/pts need not be the file system that /dev/ptmx belongs to.
		peer, _, errno := unix.Syscall(unix.SYS_IOCTL, m, unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
		if errno != 0 {
			op = errno
			return
		}
		fd = int(peer)
	}); err != nil {
		return nil, nil, err
	}
	if op != nil {
		return nil, nil, op
	}
	slave = os.NewFile(uintptr(fd), "pty")
	defer func() {
		if err != nil {
			_ = slave.Close()
		}
	}()
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, nil, err
	}
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return nil, nil, err
	}
	if uid != os.Geteuid() {
		if err := slave.Chown(uid, -1); err != nil {
			return nil, nil, err
		}
	}
	if err := slave.Chmod(0o600); err != nil {
		return nil, nil, err
	}
	return master, slave, nil
}

func hint(err error) string {
	switch {
	case errors.Is(err, unix.ENOSPC):
		return "the limit of user namespaces is reached, or they are switched off: see /proc/sys/user/max_user_namespaces"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return "the system may forbid user namespaces: see kernel.unprivileged_userns_clone, " +
			"kernel.apparmor_restrict_unprivileged_userns, or the seccomp profile of the container"
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return "the kernel may lack user, pid or network namespaces, or be older than 5.12"
	}
	return ""
}

// Available returns nil if sandboxed builders can be run here by this process, as its own user, and otherwise what is
// missing. It tries: it takes some milliseconds.
func Available(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "narfs-probe-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	s := Spec{
		Sandboxed: true, StoreDir: "/nix/store", StoreMount: dir, Outputs: dir + "/out", BuildDir: dir + "/build",
		BuildDirInside: "/build", Builder: "/none", UID: os.Geteuid(), GID: os.Getegid(),
	}
	for _, d := range []string{s.Outputs, s.BuildDir} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	_, err = run(ctx, s, true)
	return err
}
