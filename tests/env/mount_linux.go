package env

import (
	"os"
	"strings"
)

// mounts returns the folders that something is mounted on, the oldest first.
func mounts() ([]string, error) {
	info, err := os.ReadFile("/proc/self/mountinfo") // see proc_pid_mountinfo(5)
	if err != nil {
		return nil, err
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var dirs []string
	for line := range strings.Lines(string(info)) {
		if fields := strings.Fields(line); len(fields) > 4 {
			dirs = append(dirs, unescape.Replace(fields[4]))
		}
	}
	return dirs, nil
}

// forceUnmount is the command that takes a mount away even if it is in use or
// its server is dead.
func forceUnmount(dir string) []string {
	if os.Getuid() == 0 {
		return []string{"umount", "--lazy", dir}
	}
	return []string{"fusermount3", "-u", "-z", dir}
}
