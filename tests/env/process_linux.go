package env

import (
	"os/exec"
	"syscall"
)

// dieWithParent ends a program also when the test binary is killed or times
// out, which runs no cleanup: a mount would stay behind.
func dieWithParent(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
}
