package env

import (
	"os/exec"
	"syscall"
)

// PeakMemory returns the most memory that a program has had resident, in bytes. It has ended. The kernel counts this test's
// own memory, if that was more: see exec_mmap there.
func PeakMemory(cmd *exec.Cmd) int64 {
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	return usage.Maxrss << 10
}
