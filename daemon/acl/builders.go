package acl

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strconv"
)

// What start-id and id-count are where nothing is set: as many as Nix allocates, behind those that it does, so that the builders of both
// are never the same.
const (
	startID = 0x34000000 + idCount
	idCount = 128 << 16
)

// lowestID is the first that may be allocated: below are the system's own users.
const lowestID = 1000

// Builders says as whom builders run. The zero value means as the daemon's user.
type Builders struct {
	UIDs []uint32 // members of build-users-group
	GID  uint32   // that group

	First, Count uint32 // instead, with auto-allocate-uids: users without names, each of the group of its own number
}

// buildGroup is build-users-group where nothing is set, as in Nix: only root has builders.
func buildGroup() string {
	if os.Geteuid() == 0 {
		return "nixbld"
	}
	return ""
}

// canAllocate reports whether auto-allocate-uids is on where nothing is set: for root, unless he is in a user namespace that knows few
// users. Nix has it off.
func canAllocate() bool {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		return false
	}
	f, err := os.Open("/proc/self/uid_map")
	if err != nil {
		return false
	}
	defer f.Close() //nolint:errcheck // only read
	for in := bufio.NewScanner(f); in.Scan(); {
		var first, host, count uint64
		if _, err := fmt.Sscan(in.Text(), &first, &host, &count); err == nil && first <= startID && first+count >= startID+idCount {
			return true
		}
	}
	return false
}

func parseID(v string) (uint32, error) {
	n, err := strconv.ParseUint(v, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not the number of a user", v)
	}
	return uint32(n), nil
}

// Builders returns as whom builders run.
func (s *Settings) Builders() (Builders, error) {
	group := s.BuildUsersGroup
	switch {
	case os.Geteuid() != 0:
		return Builders{}, nil
	case s.allocating():
		if s.StartID < lowestID || s.IDCount == 0 || s.StartID+s.IDCount < s.StartID {
			return Builders{}, fmt.Errorf("start-id = %d and id-count = %d are no users that could be allocated: they begin at %d", s.StartID, s.IDCount, lowestID)
		}
		return Builders{First: s.StartID, Count: s.IDCount}, nil
	case group == "":
		return Builders{}, nil
	}
	gid, uids, found, err := s.users.Members(group)
	if err == nil && !found && s.values["build-users-group"].Origin == originDefault {
		return Builders{}, nil // root of a container, who can be nobody else
	}
	if err == nil && !found {
		err = fmt.Errorf("the group '%s' specified in 'build-users-group' does not exist", group)
	}
	if err == nil && len(uids) == 0 {
		err = fmt.Errorf("the build users group '%s' has no members", group)
	}
	return Builders{UIDs: uids, GID: gid}, err
}

// allocating reports whether auto-allocate-uids counts: it does not if only build-users-group was set by somebody, who wants that group, or
// none.
func (s *Settings) allocating() bool {
	only := s.values["build-users-group"].Origin != originDefault && s.values["auto-allocate-uids"].Origin == originDefault
	return s.AutoAllocateUIDs && !only && os.Geteuid() == 0
}

// allocates reports whether builders may run as a user by auto-allocate-uids.
func (s *Settings) allocates(uid uint32) bool {
	return s.allocating() && uid >= s.StartID && uint64(uid) < uint64(s.StartID)+uint64(s.IDCount)
}
