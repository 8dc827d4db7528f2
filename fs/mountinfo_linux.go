package fs

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Mounts returns everything that narfs has mounted in this mount namespace.
func Mounts() ([]Mounted, error) {
	all, err := mountTable()
	if err != nil {
		return nil, err
	}
	var ours []Mounted
	for _, m := range all {
		if m.Narfs() {
			ours = append(ours, m)
		}
	}
	return ours, nil
}

// Narfs says whether narfs mounted it.
func (m Mounted) Narfs() bool { return m.Type == "fuse."+fsType }

func (m Mounted) fuse() bool { return m.Type == "fuse" || strings.HasPrefix(m.Type, "fuse.") }

// mountedAt returns what is on top at dir; its Device is "" if nothing is mounted there.
func mountedAt(dir string) (Mounted, error) {
	all, err := mountTable()
	if err != nil {
		return Mounted{}, err
	}
	var top Mounted
	for _, m := range all { // in the order of mounting
		if m.Dir == dir {
			top = m
		}
	}
	return top, nil
}

// mountTable reads /proc/self/mountinfo, see proc_pid_mountinfo(5). Reading it never asks a file system.
func mountTable() ([]Mounted, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	var all []Mounted
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if m, ok := parseMountinfo(lines.Text()); ok {
			all = append(all, m)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	return all, nil
}

func parseMountinfo(line string) (Mounted, bool) {
	before, after, ok := strings.Cut(line, " - ")
	if !ok {
		return Mounted{}, false
	}
	front, back := strings.Fields(before), strings.Fields(after)
	if len(front) < 6 || len(back) < 2 {
		return Mounted{}, false
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#")
	return Mounted{
		Dir: unescape.Replace(front[4]), Device: front[2],
		Type: unescape.Replace(back[0]), Source: unescape.Replace(back[1]),
	}, true
}

// ask makes a FUSE mount answer. A stat would not: the kernel answers that by itself for ever.
func ask(dir string) error {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st)
}

func deadErrors() []error { return []error{syscall.ENOTCONN, syscall.ECONNABORTED} }

// Probe says what is there for mounting.
func Probe() Host {
	var h Host
	if info, err := os.Stat(devFuse); err != nil {
		h.Device = err.Error()
	} else if info.Mode()&os.ModeCharDevice == 0 {
		h.Device = devFuse + " is not a device"
	} else if err := unix.Access(devFuse, unix.R_OK|unix.W_OK); err != nil {
		h.Device = devFuse + " is not for this user: " + err.Error()
	}
	h.Helper, _ = helperPath() // absent is an answer
	h.UserAllowOther = userAllowOther()
	return h
}

func userAllowOther() bool {
	conf, err := os.ReadFile(fuseConf)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(conf)) {
		if strings.TrimSpace(line) == "user_allow_other" {
			return true
		}
	}
	return false
}
