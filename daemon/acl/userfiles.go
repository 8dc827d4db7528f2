package acl

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// userFiles are users and groups in the formats of /etc/passwd and /etc/group:
//
//	name:password:uid:gid:comment:home:shell
//	name:password:gid:member,member,…
//
// The first line of a name or a number counts. A missing file is an empty one. Nothing is remembered: who is put into a
// group counts at his next connection. (Package os/user does not tell a group's members, and remembers its own user.)
type userFiles struct{ passwd, groups string }

var _ Users = userFiles{}

// maxUserLine bounds a line: that of a group of 100,000 members has about 1 MiB.
const maxUserLine = 16 << 20

// UserName implements Users.
func (u userFiles) UserName(uid uint32) (string, error) { return nameIn(u.passwd, uid) }

// GroupName implements Users.
func (u userFiles) GroupName(gid uint32) (string, error) { return nameIn(u.groups, gid) }

// GroupsOf implements Users.
func (u userFiles) GroupsOf(user string) (groups []string, err error) {
	seen := map[string]bool{}
	err = eachLine(u.groups, func(fields []string) (more bool) {
		if !seen[fields[0]] && len(fields) > 3 && slices.Contains(strings.Split(fields[3], ","), user) {
			groups = append(groups, fields[0])
		}
		seen[fields[0]] = true
		return true
	})
	return groups, err
}

// Members implements Users.
func (u userFiles) Members(group string) (gid uint32, uids []uint32, found bool, err error) {
	var names []string
	err = eachLine(u.groups, func(fields []string) (more bool) {
		n, nerr := strconv.ParseUint(fields[2], 10, 32)
		if fields[0] != group || nerr != nil {
			return true
		}
		gid, found = uint32(n), true
		if len(fields) > 3 {
			names = strings.Split(fields[3], ",")
		}
		return false
	})
	if err != nil || len(names) == 0 {
		return gid, nil, found, err
	}
	seen := map[string]bool{}
	err = eachLine(u.passwd, func(fields []string) (more bool) {
		n, nerr := strconv.ParseUint(fields[2], 10, 32)
		if nerr == nil && !seen[fields[0]] && slices.Contains(names, fields[0]) {
			uids = append(uids, uint32(n))
		}
		seen[fields[0]] = true
		return true
	})
	return gid, uids, found, err
}

// nameIn returns the name of a number, which has the same place in both files.
func nameIn(file string, number uint32) (name string, err error) {
	err = eachLine(file, func(fields []string) (more bool) {
		if n, err := strconv.ParseUint(fields[2], 10, 32); err == nil && n == uint64(number) {
			name = fields[0]
		}
		return name == ""
	})
	return name, err
}

// eachLine calls fn with the fields of each line that has a name and a number, as long as it returns true.
func eachLine(file string, fn func(fields []string) (more bool)) error {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	in := bufio.NewScanner(f)
	in.Buffer(nil, maxUserLine)
	for in.Scan() {
		line := strings.TrimSpace(in.Text())
		// + and - are from the time of NIS: they name nobody.
		if line == "" || strings.IndexByte("#+-:", line[0]) >= 0 {
			continue
		}
		if fields := strings.Split(line, ":"); len(fields) > 2 && !fn(fields) {
			return nil
		}
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	return nil
}
