//go:build !linux

package env

import (
	"context"
	"os/exec"
	"strings"
)

// mounts returns the folders that something is mounted on, the oldest first.
func mounts() ([]string, error) {
	out, err := exec.CommandContext(context.Background(), "mount").Output()
	if err != nil {
		return nil, err
	}
	var dirs []string
	for line := range strings.Lines(string(out)) { // SOURCE on DIR (TYPE, OPTIONS)
		if _, rest, found := strings.Cut(line, " on "); found {
			if end := strings.LastIndex(rest, " ("); end > 0 {
				dirs = append(dirs, rest[:end])
			}
		}
	}
	return dirs, nil
}

// forceUnmount is the command that takes a mount away even if it is in use or
// its server is dead.
func forceUnmount(dir string) []string { return []string{"umount", "-f", dir} }
