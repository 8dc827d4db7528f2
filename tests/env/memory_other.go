//go:build !linux

package env

import (
	"os/exec"
	"syscall"
)

// PeakMemory returns the most memory that a program has had resident, in bytes. It has ended.
func PeakMemory(cmd *exec.Cmd) int64 {
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	return usage.Maxrss
}
