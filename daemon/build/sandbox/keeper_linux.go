package sandbox

import (
	"context"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// again returns a command that is this program, as a child that knows itself.
func again(ctx context.Context, what, reportTo, output *os.File, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = append([]string{childName}, args...)
	cmd.Env = []string{"GOMAXPROCS=1", "GOGC=off"} // not the builder's
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = output, output
	cmd.ExtraFiles = []*os.File{what, reportTo} // orderFD, reportFD
	return cmd
}

// needed are the capabilities that setting up takes, in the user namespace.
func needed() []uintptr {
	return []uintptr{
		unix.CAP_SYS_ADMIN, unix.CAP_SYS_CHROOT, unix.CAP_NET_ADMIN, unix.CAP_SETUID, unix.CAP_SETGID,
		unix.CAP_SETPCAP, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER,
	}
}

// keeperAttributes says how the keeper begins. Where it can have a process namespace only within a user namespace, that begins with it.
func keeperAttributes(o order) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL, Cloneflags: unix.CLONE_NEWPID}
	if o.Bare {
		a.Cloneflags |= unix.CLONE_NEWNS // see showOwn
	} else {
		addUser(a, o)
	}
	return a
}

// builderAttributes says how the builder to be begins. Root's has root's id still, though its namespace has no name for it, and so it can
// open what only root can reach.
func builderAttributes(o order) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{
		Setsid: true, Pdeathsig: syscall.SIGKILL, AmbientCaps: needed(),
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
	}
	if o.Bare {
		addUser(a, o)
	}
	if !o.Spec.Network {
		a.Cloneflags |= unix.CLONE_NEWNET
	}
	return a
}

// addUser has a process begin the user namespace. It takes copying the memory of the process that starts it, for how that is done.
func addUser(a *syscall.SysProcAttr, o order) {
	uid, gid := inside(o.Spec)
	a.Cloneflags |= unix.CLONE_NEWUSER
	a.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: o.Spec.UID, Size: 1}}
	a.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: o.Spec.GID, Size: 1}}
	a.GidMappingsEnableSetgroups = o.DropGroups
	a.AmbientCaps = needed()
}

// showOwn has /proc show the processes of the keeper's namespace, to the keeper and the builder to be: who begins a user namespace for
// another process does it there.
func showOwn() error {
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if err == nil {
		err = unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	}
	return step("show the builder's processes", err)
}

// keep starts the process that becomes the builder, waits for it, and ends as it did. The builder's namespace ends with
// this process, whatever the builder thinks of it.
func keep() int {
	what, reportTo := os.NewFile(orderFD, childName), os.NewFile(reportFD, "report")
	unix.CloseOnExec(orderFD)
	unix.CloseOnExec(reportFD)
	o, err := readOrder(what)
	if err != nil {
		return tell(err)
	}
	if o.Bare {
		if err := showOwn(); err != nil {
			return tell(err)
		}
	}
	cmd := again(context.Background(), what, reportTo, os.Stdout, "builder")
	cmd.SysProcAttr = builderAttributes(o)
	if err := cmd.Start(); err != nil {
		return tell(&SetupError{Op: "make the builder's namespaces", Err: err, Hint: hint(err)})
	}
	_ = cmd.Wait() // its exit code is no error here
	exit := exitOf(cmd.ProcessState)
	if exit.Signal != 0 {
		_, _ = reportTo.Write([]byte{signalMark, byte(exit.Signal)})
	}
	return exit.Code
}
