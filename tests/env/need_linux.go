package env

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// Fuse is the need to be able to mount.
func Fuse() Need {
	return Need{"/dev/fuse", func() error {
		file, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
		if err != nil {
			return err
		}
		if err := file.Close(); err != nil {
			return err
		}
		if _, err := exec.LookPath("fusermount3"); err != nil && os.Getuid() != 0 {
			return errors.New("fusermount3 is not in PATH, and the user is not root")
		}
		return nil
	}}
}

// Builds is the need to be able to build: to mount, and to make user namespaces.
func Builds() Need {
	return Need{"user namespaces and /dev/fuse", func() error {
		cmd := exec.CommandContext(context.Background(), "/bin/true")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		}
		return errors.Join(cmd.Run(), Fuse().Err())
	}}
}
