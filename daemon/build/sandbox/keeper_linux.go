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

// keeperAttributes says how the keeper begins. Root's keeper keeps root's id, though its namespace has no name for it,
// and so the builder to be can open what only root can reach.
func keeperAttributes(s Spec, groups bool) *syscall.SysProcAttr {
	uid, gid := inside(s)
	return &syscall.SysProcAttr{
		Setsid:                     true,
		Pdeathsig:                  syscall.SIGKILL,
		Cloneflags:                 unix.CLONE_NEWUSER | unix.CLONE_NEWPID,
		UidMappings:                []syscall.SysProcIDMap{{ContainerID: uid, HostID: s.UID, Size: 1}},
		GidMappings:                []syscall.SysProcIDMap{{ContainerID: gid, HostID: s.GID, Size: 1}},
		GidMappingsEnableSetgroups: groups,
		AmbientCaps:                needed(),
	}
}

func builderAttributes(s Spec) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{
		Setsid:      true,
		Pdeathsig:   syscall.SIGKILL,
		Cloneflags:  unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		AmbientCaps: needed(),
	}
	if !s.Network {
		a.Cloneflags |= unix.CLONE_NEWNET
	}
	return a
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
	cmd := again(context.Background(), what, reportTo, os.Stdout, "builder")
	cmd.SysProcAttr = builderAttributes(o.Spec)
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
