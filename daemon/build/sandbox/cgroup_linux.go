package sandbox

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// cgroup is the control group of one builder, below that of this process.
type cgroup struct {
	dir string
	f   *os.File // it
}

// cgroupName is what the names of these begin with; behind it come the process that made it, and something random.
const cgroupName = "narfs-build-"

// newCgroup makes one. It takes away those of processes that are gone.
func newCgroup() (*cgroup, error) {
	own, err := ownCgroup()
	if err != nil {
		return nil, err
	}
	old, _ := filepath.Glob(filepath.Join(own, cgroupName+"*"))
	for _, dir := range old {
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(dir), cgroupName+"%d-", &pid); err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.Remove(dir)
		}
	}
	c := &cgroup{dir: filepath.Join(own, fmt.Sprintf("%s%d-%s", cgroupName, os.Getpid(), rand.Text()))}
	if err := os.Mkdir(c.dir, 0o755); err != nil { //nolint:gosec // as all are
		return nil, err
	}
	if c.f, err = os.Open(c.dir); err != nil {
		_ = os.Remove(c.dir)
		return nil, err
	}
	return c, nil
}

// ownCgroup returns the folder of the control group, of version 2, that this process is in.
func ownCgroup() (string, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	own, found := "", false
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "0::"); ok {
			own, found = strings.TrimSuffix(rest, "\n"), true
		}
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read
	for in := bufio.NewScanner(f); found && in.Scan(); {
		// See proc_pid_mountinfo(5): the root of the mount and its place are the fourth and the fifth field.
		mount, kind, _ := strings.Cut(in.Text(), " - ")
		fields := strings.Fields(mount)
		if len(fields) < 5 || !strings.HasPrefix(kind, "cgroup2 ") {
			continue
		}
		if below, err := filepath.Rel(fields[3], own); err == nil && filepath.IsLocal(below) {
			return filepath.Join(fields[4], below), nil
		}
	}
	return "", errors.New("no control groups of version 2 are mounted here")
}

// end kills what is in it, takes it away, and returns the CPU time that all took.
func (c *cgroup) end() (used CPUTime) {
	_ = c.f.Close()
	_ = os.WriteFile(filepath.Join(c.dir, "cgroup.kill"), []byte("1"), 0) // Linux 5.14; there is nothing left but those who die
	if text, err := os.ReadFile(filepath.Join(c.dir, "cpu.stat")); err == nil {
		for line := range strings.Lines(string(text)) {
			var name string
			var n int64
			if _, err := fmt.Sscan(line, &name, &n); err != nil {
				continue
			}
			switch name {
			case "user_usec":
				used.User = time.Duration(n) * time.Microsecond
			case "system_usec":
				used.System = time.Duration(n) * time.Microsecond
			}
		}
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 1000 {
		if err := os.Remove(c.dir); !errors.Is(err, syscall.EBUSY) {
			break
		}
		<-tick.C
	}
	return used
}
