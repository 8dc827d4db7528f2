package acl

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"
)

// systemUsers are those of this machine.
func systemUsers() Users { return directory{} } //nolint:iface // elsewhere it is another type

// directory asks the system, whose /etc/passwd and /etc/group are for single-user mode. Package os/user calls the system's
// library without cgo, too.
type directory struct{}

var _ Users = directory{}

// UserName implements Users.
func (directory) UserName(uid uint32) (string, error) {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if _, unknown := errors.AsType[user.UnknownUserIdError](err); unknown {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return u.Username, nil
}

// GroupName implements Users.
func (directory) GroupName(gid uint32) (string, error) {
	return groupName(strconv.FormatUint(uint64(gid), 10))
}

func groupName(gid string) (string, error) {
	g, err := user.LookupGroupId(gid)
	if _, unknown := errors.AsType[user.UnknownGroupIdError](err); unknown {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return g.Name, nil
}

// GroupsOf implements Users. The system tells no lists of members but the groups of a user, also by other groups, and with
// the primary one of the account; that is not taken, for the one of the process counts.
func (directory) GroupsOf(name string) (groups []string, err error) {
	u, err := user.Lookup(name)
	if _, unknown := errors.AsType[user.UnknownUserError](err); unknown {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if id == u.Gid {
			continue
		}
		group, err := groupName(id)
		if err != nil {
			return nil, err
		}
		if group != "" {
			groups = append(groups, group)
		}
	}
	return groups, nil
}

// Members implements Users. Who is a member the system's library tells only with cgo.
func (directory) Members(group string) (gid uint32, uids []uint32, found bool, err error) {
	g, err := user.LookupGroup(group)
	if _, unknown := errors.AsType[user.UnknownGroupError](err); unknown {
		return 0, nil, false, nil
	}
	if err != nil {
		return 0, nil, false, err
	}
	n, err := strconv.ParseUint(g.Gid, 10, 32)
	if err != nil {
		return 0, nil, false, fmt.Errorf("group %s: %w", group, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "/usr/bin/dscl", ".", "-read", "/Groups/"+group, "GroupMembership").Output()
	if err != nil {
		return 0, nil, false, fmt.Errorf("members of group %s: %w", group, err)
	}
	names := strings.Fields(strings.TrimPrefix(string(out), "GroupMembership:"))
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		u, err := user.Lookup(name)
		if err != nil {
			return 0, nil, false, fmt.Errorf("members of group %s: %w", group, err)
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return 0, nil, false, fmt.Errorf("user %s: %w", name, err)
		}
		uids = append(uids, uint32(uid))
	}
	return uint32(n), uids, true, nil
}
