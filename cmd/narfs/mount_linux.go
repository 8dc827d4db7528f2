package main

import (
	"os"
	"strconv"
)

// mountName is what mount and df show as the device.
func mountName(stateDir string) string { return stateDir }

// mountNamespace names the mounts that a process sees, "" if that cannot be found out.
func mountNamespace(pid int) string {
	name, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/mnt")
	if err != nil {
		return ""
	}
	return name
}
