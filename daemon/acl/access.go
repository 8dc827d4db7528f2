package acl

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Peer is the process at the other end of a connection.
type Peer struct {
	PID    int // 0 if unknown
	UID    uint32
	GID    uint32 // the primary group
	HasGID bool   // false where the kernel does not tell the group
}

// Level is how far a client may go.
type Level uint8

// The levels.
const (
	Refused   Level = iota // may not even connect
	Untrusted              // may use the store, not decide what others find in it
	Trusted                // may do everything
)

// String returns the level's name.
func (l Level) String() string {
	switch l {
	case Untrusted:
		return "untrusted"
	case Trusted:
		return "trusted"
	case Refused:
	}
	return "refused"
}

// Access is a client and how far it may go.
type Access struct {
	Peer   Peer
	User   string   // the name, or the decimal number
	Group  string   // the primary group's name or decimal number
	Groups []string // the groups that list the user as a member
	Level  Level
	Why    string // in words, as in "is in trusted-users by @wheel"
}

// Permission is something that not all may do.
type Permission uint8

// The permissions. Each row of a protocol's table of operations names one.
const (
	Query    Permission = iota + 1 // look at valid paths and their contents
	Add                            // add paths that are content-addressed or signed
	Collect                        // delete what nobody needs
	Build                          // have something built
	Repair                         // store the contents of valid paths again
	Sign                           // add signatures to valid paths
	Admin                          // see and end the sessions of others
	AddLog                         // add the logs of builds
	PermRoot                       // have the daemon make links that keep paths
	BuildAny                       // have derivations built that are addressed by their inputs, and are not in the store
	Realise                        // say which path an output is, without a signature
)

// rule is a row of the table of permissions.
type rule struct {
	permission Permission
	least      Level
	refusal    string // what who may not reads
}

// rules is the table. Nix's own words are in it where Nix has some: clients look for them.
func rules() []rule {
	return []rule{
		{Query, Untrusted, "you are not allowed to use this store"},
		{Add, Untrusted, "you are not allowed to use this store"},
		{Collect, Untrusted, "you are not allowed to use this store"},
		{Build, Untrusted, "you are not allowed to use this store"},
		{Repair, Trusted, "you are not privileged to repair paths"},
		{Sign, Trusted, "you are not privileged to add signatures"},
		{Admin, Trusted, "you are not privileged to see to the sessions of others"},
		{AddLog, Trusted, "you are not privileged to add logs"},
		{PermRoot, Trusted, "you are not privileged to create perm roots: make the link yourself and have it registered as an indirect root"},
		{BuildAny, Trusted, "you are not privileged to build input-addressed derivations"},
		{Realise, Trusted, "you are not privileged to register realisations that lack a valid signature"},
	}
}

// PermissionError says that a client may not do something.
type PermissionError struct {
	Access Access
	Need   Permission
	Text   string
}

// Error implements error.
func (e *PermissionError) Error() string { return e.Text }

// May returns nil if the client has a permission, else a *PermissionError.
func (a Access) May(p Permission) error {
	all := rules()
	i := slices.IndexFunc(all, func(r rule) bool { return r.permission == p })
	if i >= 0 && a.Level >= all[i].least {
		return nil
	}
	text := "you are not privileged to do this"
	if i >= 0 {
		text = all[i].refusal
	}
	return &PermissionError{Access: a, Need: p, Text: text}
}

// Users looks users and groups up.
type Users interface {
	// UserName and GroupName return the name of a number, and "" if it has none.
	UserName(uid uint32) (string, error)
	GroupName(gid uint32) (string, error)
	// GroupsOf returns the names of the groups that list a user of that name as a member.
	GroupsOf(name string) ([]string, error)
	// Members returns the number of a group and those of the users that it lists as members; found is false if there is no such group.
	Members(group string) (gid uint32, uids []uint32, found bool, err error)
}

// Access says how far a client may go by the settings. Who cannot be looked up is refused.
func (s *Settings) Access(p Peer) Access {
	a, err := s.identify(p)
	if err != nil {
		a.Why = err.Error()
		return a
	}
	if p.UID == uint32(os.Geteuid()) {
		a.Level, a.Why = Trusted, "runs the daemon"
		return a
	}
	if group := s.BuildUsersGroup; group != "" && p.HasGID && a.Group == group {
		a.Why = "is a build user: has the primary group " + group
		return a
	}
	if s.allocates(p.UID) {
		a.Why = "is one of the users that builders run as"
		return a
	}
	if by, ok := a.among(s.TrustedUsers); ok {
		a.Level, a.Why = Trusted, "is in trusted-users by "+by
	} else if by, ok := a.among(s.AllowedUsers); ok {
		a.Level, a.Why = Untrusted, "is in allowed-users by "+by+", and not in trusted-users"
	} else {
		a.Why = "is neither in allowed-users nor in trusted-users"
	}
	return a
}

// identify looks a client up.
func (s *Settings) identify(p Peer) (a Access, err error) {
	a = Access{Peer: p, User: strconv.FormatUint(uint64(p.UID), 10)}
	name, err := s.users.UserName(p.UID)
	if err != nil {
		return a, fmt.Errorf("user %d cannot be looked up: %w", p.UID, err)
	}
	if name != "" {
		a.User = name
		if a.Groups, err = s.users.GroupsOf(name); err != nil {
			return a, fmt.Errorf("the groups of user %s cannot be looked up: %w", name, err)
		}
	}
	if !p.HasGID {
		return a, nil
	}
	group, err := s.users.GroupName(p.GID)
	if err != nil {
		return a, fmt.Errorf("group %d cannot be looked up: %w", p.GID, err)
	}
	if group == "" {
		group = strconv.FormatUint(uint64(p.GID), 10)
	}
	a.Group = group
	return a, nil
}

// among reports whether a list means the client, and by which entry.
func (a Access) among(list []string) (by string, ok bool) {
	for _, entry := range list {
		group, isGroup := strings.CutPrefix(entry, "@")
		switch {
		case entry == "*", !isGroup && entry == a.User:
			return entry, true
		case isGroup && (a.Group != "" && group == a.Group || slices.Contains(a.Groups, group)):
			return entry, true
		}
	}
	return "", false
}

// Print tells a client who it is.
func (a Access) Print(w io.Writer) error {
	_, err := fmt.Fprintf(w, "user     %s (%d)\n", a.User, a.Peer.UID)
	if a.Group != "" {
		_, gerr := fmt.Fprintf(w, "group    %s (%d)\n", a.Group, a.Peer.GID)
		err = errors.Join(err, gerr)
	}
	if len(a.Groups) > 0 {
		_, gerr := fmt.Fprintf(w, "groups   %s\n", strings.Join(a.Groups, " "))
		err = errors.Join(err, gerr)
	}
	_, lerr := fmt.Fprintf(w, "access   %s: %s %s\n", a.Level, a.User, a.Why)
	return errors.Join(err, lerr)
}

// AccessJSON is what narfs whoami --json prints.
type AccessJSON struct {
	User    string   `json:"user"`
	UID     uint32   `json:"uid"`
	Group   string   `json:"group,omitempty"`
	GID     *uint32  `json:"gid,omitempty"`
	Groups  []string `json:"groups"`
	Access  string   `json:"access"`
	Trusted bool     `json:"trusted"`
	Why     string   `json:"why"`
}

// JSON returns what there is to tell a client, for json.Marshal.
func (a Access) JSON() AccessJSON {
	j := AccessJSON{
		User: a.User, UID: a.Peer.UID, Group: a.Group, Groups: append([]string{}, a.Groups...),
		Access: a.Level.String(), Trusted: a.Level == Trusted, Why: a.Why,
	}
	if a.Peer.HasGID {
		j.GID = &a.Peer.GID
	}
	return j
}
