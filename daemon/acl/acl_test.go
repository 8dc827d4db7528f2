package acl_test

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/internal/nix"
)

// machine is a machine's users: alice (primary group users, in wheel), bob (staff), builder (nixbld).
type machine struct{ broken bool }

func (m machine) UserName(uid uint32) (string, error) {
	if m.broken {
		return "", errors.New("the disk is gone")
	}
	return map[uint32]string{0: "root", 1001: "alice", 1002: "bob", 1003: "builder"}[uid], nil
}

func (machine) GroupName(gid uint32) (string, error) {
	return map[uint32]string{0: "root", 100: "users", 50: "staff", 30000: "nixbld"}[gid], nil
}

func (machine) GroupsOf(user string) ([]string, error) {
	return map[string][]string{"alice": {"wheel", "nixbld"}}[user], nil
}

func (m machine) Members(group string) (gid uint32, uids []uint32, found bool, err error) {
	if m.broken {
		return 0, nil, false, errors.New("the disk is gone")
	}
	switch group {
	case "nixbld":
		return 30000, []uint32{1003, 1001}, true, nil
	case "empty":
		return 31000, nil, true, nil
	}
	return 0, nil, false, nil
}

func load(tb testing.TB, options ...string) *acl.Settings {
	tb.Helper()
	s, err := acl.Load(acl.LoadOptions{Users: machine{}, Options: options})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

var (
	root    = acl.Peer{PID: 1, UID: 0, GID: 0, HasGID: true}
	alice   = acl.Peer{PID: 2, UID: 1001, GID: 100, HasGID: true}
	bob     = acl.Peer{PID: 3, UID: 1002, GID: 50, HasGID: true}
	builder = acl.Peer{PID: 4, UID: 1003, GID: 30000, HasGID: true}
	nobody  = acl.Peer{PID: 5, UID: 12345, GID: 54321, HasGID: true}
	mac     = acl.Peer{PID: 6, UID: 1002}
)

// The rules of Nix's daemon.
func TestAccess(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name             string
		allowed, trusted string
		peer             acl.Peer
		want             acl.Level
		why              string
	}{
		{"default", "*", "root", alice, acl.Untrusted, "is in allowed-users by *, and not in trusted-users"},
		{"by name", "", "alice", alice, acl.Trusted, "is in trusted-users by alice"},
		{"by primary group", "", "@users", alice, acl.Trusted, "is in trusted-users by @users"},
		{"by membership", "", "@wheel", alice, acl.Trusted, "is in trusted-users by @wheel"},
		{"not a member", "", "@wheel", bob, acl.Refused, "is neither in allowed-users nor in trusted-users"},
		{"case matters", "Alice", "", alice, acl.Refused, "is neither in allowed-users nor in trusted-users"},
		{"group is no user", "users", "", alice, acl.Refused, "is neither in allowed-users nor in trusted-users"},
		{"number of one with a name", "1001", "", alice, acl.Refused, "is neither in allowed-users nor in trusted-users"},
		{"number of one without", "12345", "", nobody, acl.Untrusted, "is in allowed-users by 12345, and not in trusted-users"},
		{"number of a group without a name", "@54321", "", nobody, acl.Untrusted, "is in allowed-users by @54321, and not in trusted-users"},
		{"number of a group with one", "@100", "", alice, acl.Refused, "is neither in allowed-users nor in trusted-users"},
		{"trusted only", "bob", "alice", alice, acl.Trusted, "is in trusted-users by alice"},
		{"all trusted", "", "*", nobody, acl.Trusted, "is in trusted-users by *"},
		{"builder", "*", "*", builder, acl.Refused, "is a build user: has the primary group nixbld"},
		{"member of the builders' group", "*", "", alice, acl.Untrusted, "is in allowed-users by *, and not in trusted-users"},
		{"group unknown to the kernel", "@staff", "", mac, acl.Refused, "is neither in allowed-users nor in trusted-users"},
		{"nothing allowed", "", "", bob, acl.Refused, "is neither in allowed-users nor in trusted-users"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := load(t, "allowed-users="+test.allowed, "trusted-users="+test.trusted, "build-users-group=nixbld")
			got := s.Access(test.peer)
			if got.Level != test.want || got.Why != test.why {
				t.Errorf("Access(%+v) = %v, %q; want %v, %q", test.peer, got.Level, got.Why, test.want, test.why)
			}
		})
	}
}

func TestAccessOfOwner(t *testing.T) {
	t.Parallel()
	s := load(t, "allowed-users=", "trusted-users=")
	own := acl.Peer{UID: uint32(os.Geteuid())}
	if got := s.Access(own); got.Level != acl.Trusted || got.Why != "runs the daemon" {
		t.Errorf("Access of who runs the daemon = %v, %q", got.Level, got.Why)
	}
	broken, err := acl.Load(acl.LoadOptions{Users: machine{broken: true}})
	if err != nil {
		t.Fatal(err)
	}
	if got := broken.Access(bob); got.Level != acl.Refused || !strings.Contains(got.Why, "the disk is gone") {
		t.Errorf("Access of who cannot be looked up = %v, %q; want refused", got.Level, got.Why)
	}
	if os.Geteuid() != 0 {
		if got := load(t).Access(root); got.Level != acl.Trusted {
			t.Errorf("Access(root) = %v", got)
		}
	}
}

func TestBuilders(t *testing.T) {
	t.Parallel()
	tests := []struct {
		options []string
		want    acl.Builders
		err     string
	}{
		{options: []string{"auto-allocate-uids=true"}, want: acl.Builders{First: 880803840, Count: 8388608}},
		{options: []string{"auto-allocate-uids=true", "start-id=5000", "id-count=3", "build-users-group=none"}, want: acl.Builders{First: 5000, Count: 3}},
		{options: []string{"auto-allocate-uids=true", "start-id=0"}, err: "are no users that could be allocated"},
		{options: []string{"auto-allocate-uids=true", "start-id=4294967295"}, err: "are no users that could be allocated"},
		{options: []string{"auto-allocate-uids=true", "id-count=0"}, err: "are no users that could be allocated"},
		{options: []string{"auto-allocate-uids=false", "build-users-group="}},
		{options: []string{"build-users-group="}},
		{options: []string{"build-users-group=nixbld"}, want: acl.Builders{GID: 30000, UIDs: []uint32{1003, 1001}}},
		{options: []string{"auto-allocate-uids=false"}, want: acl.Builders{GID: 30000, UIDs: []uint32{1003, 1001}}},
		{options: []string{"auto-allocate-uids=false", "build-users-group=nixbld"}, want: acl.Builders{GID: 30000, UIDs: []uint32{1003, 1001}}},
		{options: []string{"auto-allocate-uids=false", "build-users-group=empty"}, err: "the build users group 'empty' has no members"},
		{options: []string{"auto-allocate-uids=false", "build-users-group=no"}, err: "the group 'no' specified in 'build-users-group' does not exist"},
	}
	for _, test := range tests {
		got, err := load(t, test.options...).Builders()
		if os.Geteuid() != 0 {
			test.want, test.err = acl.Builders{}, "" // only root can run something as somebody else
		}
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("Builders with %q = %v, %v; want an error with %q", test.options, got, err, test.err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("Builders with %q = %v, %v; want %v", test.options, got, err, test.want)
		}
	}
}

// Whoever a builder may run as is refused.
func TestAccessOfBuilders(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: others have no builders")
	}
	s := load(t, "auto-allocate-uids=true", "allowed-users=*", "trusted-users=*", "start-id=5000", "id-count=3")
	for uid := uint32(4999); uid < 5004; uid++ {
		want := acl.Trusted
		if uid >= 5000 && uid < 5003 {
			want = acl.Refused
		}
		if got := s.Access(acl.Peer{UID: uid, GID: uid, HasGID: true}); got.Level != want {
			t.Errorf("Access(%d) = %v, %q; want %v", uid, got.Level, got.Why, want)
		}
	}
}

// Every permission at every level.
func TestMay(t *testing.T) {
	t.Parallel()
	least := map[acl.Permission]acl.Level{
		acl.Query: acl.Untrusted, acl.Add: acl.Untrusted, acl.Collect: acl.Untrusted, acl.Build: acl.Untrusted,
		acl.Repair: acl.Trusted, acl.Sign: acl.Trusted, acl.Admin: acl.Trusted,
		acl.AddLog: acl.Trusted, acl.PermRoot: acl.Trusted, acl.BuildAny: acl.Trusted, acl.Realise: acl.Trusted, acl.Realise + 1: acl.Trusted + 1,
	}
	for p, want := range least {
		for _, level := range []acl.Level{acl.Refused, acl.Untrusted, acl.Trusted} {
			err := acl.Access{Level: level}.May(p)
			if (err == nil) != (level >= want) {
				t.Errorf("permission %d of %v: %v", p, level, err)
			}
			var refused *acl.PermissionError
			if err != nil && !errors.As(err, &refused) {
				t.Errorf("permission %d of %v: %T", p, level, err)
			}
		}
	}
	err := acl.Access{Level: acl.Untrusted}.May(acl.Repair)
	if want := "you are not privileged to repair paths"; err == nil || err.Error() != want {
		t.Errorf("May(Repair) = %v; want %q, Nix's words", err, want)
	}
}

func write(tb testing.TB, name, text string) {
	tb.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "nix.conf"), `
# a comment
allowed-users = *   # and another
trusted-users = root	alice
trusted-users = @wheel
extra-trusted-users = bob
no-such-setting = maybe
include more.conf
!include absent.conf
gc-keep-outputs = true
`)
	write(t, filepath.Join(dir, "more.conf"), "require-sigs = false\nkeep-outputs = false\n")
	write(t, filepath.Join(dir, "narfs.conf"), "memory-budget = 64M\nlock-timeout = 0\n")
	env := map[string]string{"NIX_CONF_DIR": dir, "NARFS_CONF": filepath.Join(dir, "narfs.conf"), "NIX_CONFIG": "extra-allowed-users = carol\nmax-sessions = 5"}
	s, err := acl.Load(acl.LoadOptions{
		Getenv: func(name string) string { return env[name] }, Options: []string{"max-sessions=7", "shutdown-timeout = 3"}, Users: machine{},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := []any{
		s.AllowedUsers, s.TrustedUsers, s.RequireSigs, s.KeepOutputs, s.KeepDerivations, s.MemoryBudget, s.LockTimeout, s.MaxSessions, s.ShutdownTimeout,
		len(s.TrustedPublicKeys),
	}
	want := []any{
		[]string{"*", "carol"}, []string{"@wheel", "bob"}, false, true, true, int64(64 << 20), time.Duration(0), 7, 3 * time.Second, 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Load, -want +got:\n%s", diff)
	}
	origins := map[string]string{}
	for _, v := range s.Values() {
		origins[v.Name] = v.Origin
	}
	for name, want := range map[string]string{
		"trusted-users": filepath.Join(dir, "nix.conf") + ":5, " + filepath.Join(dir, "nix.conf") + ":6", "require-sigs": filepath.Join(dir, "more.conf") + ":1",
		"keep-outputs": filepath.Join(dir, "nix.conf") + ":10", "allowed-users": filepath.Join(dir, "nix.conf") + ":3, $NIX_CONFIG:1", "max-sessions": "the command line",
		"secret-key-files": "default",
	} {
		if origins[name] != want {
			t.Errorf("origin of %s = %q; want %q", name, origins[name], want)
		}
	}
}

func TestLoadErrors(t *testing.T) {
	t.Parallel()
	tests := []struct{ text, want string }{
		{"trusted-users", ":1: the line is not NAME = VALUE"},
		{"\ntrusted-users root", ":2: the line is not NAME = VALUE"},
		{"require-sigs = perhaps", `:1: setting require-sigs: "perhaps" is neither true nor false`},
		{"include absent.conf", "absent.conf is not there"},
		{"include a b", "include wants the name of one file"},
		{"include nix.conf", "more than 16 files include each other"},
		{"trusted-public-keys = rubbish", ":1: setting trusted-public-keys:"},
		{"memory-budget = 9000000T", "is not a size"},
		{"max-sessions = -1", "is not a number"},
		{"keep-outputs = perhaps\nkeep-outputs = true", `:1: setting keep-outputs: "perhaps"`},
		{"trusted-users= root", ":1: the line is not NAME = VALUE"},
		{strings.Repeat("include leaf\n", 300), "leaf is one file too many, after 256"},
		{strings.Repeat("include heavy\n", 5), "are longer than 4194304 bytes"},
		{strings.Repeat("#", 1<<20+1), "is longer than 1048576 bytes"},
		{"!include nested", "absent.conf is not there"},
	}
	for _, test := range tests {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "nix.conf"), test.text)
		write(t, filepath.Join(dir, "leaf"), "")
		write(t, filepath.Join(dir, "heavy"), strings.Repeat("#", 1<<20))
		write(t, filepath.Join(dir, "nested"), "include absent.conf")
		_, err := acl.Load(acl.LoadOptions{Getenv: func(name string) string {
			return map[string]string{"NIX_CONF_DIR": dir, "NARFS_CONF": "/nonexistent/narfs.conf"}[name]
		}})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("Load of %q = %v; want %q", test.text, err, test.want)
		}
	}
	for _, option := range []string{"no-such-setting=true", "max-sessions"} {
		if _, err := acl.Load(acl.LoadOptions{Options: []string{option}}); err == nil {
			t.Errorf("Load with option %q = nil error", option)
		}
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "nix.conf"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := acl.Load(acl.LoadOptions{Getenv: func(string) string { return dir }}); err == nil {
		t.Error("Load of a folder = nil error")
	}
}

// What is nearly a setting, and what nobody but narfs reads and it does not know, may be a mistake; the rest is Nix's.
func TestWarnings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "nix.conf"), "trusted-user = x\nmax-jobs = 1\nextra-substituters = x\nextra-require-sigs = x\ninclude more")
	write(t, filepath.Join(dir, "more"), "foo = 1\nextra-allowed-user = x")
	write(t, filepath.Join(dir, "narfs.conf"), "\nfoo = 1\ninclude ours")
	write(t, filepath.Join(dir, "ours"), "bar = 1")
	env := map[string]string{"NIX_CONF_DIR": dir, "NARFS_CONF": filepath.Join(dir, "narfs.conf"), "NIX_CONFIG": "lock-timout = 1\nfoo = 1"}
	s, err := acl.Load(acl.LoadOptions{Getenv: func(name string) string { return env[name] }})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		dir + `/nix.conf:1: there is no setting "trusted-user"; is it to be trusted-users?`,
		dir + `/nix.conf:4: there is no setting "extra-require-sigs"; is it to be require-sigs?`,
		dir + `/more:2: there is no setting "extra-allowed-user"; is it to be allowed-users?`,
		dir + `/narfs.conf:2: there is no setting "foo"`,
		dir + `/ours:1: there is no setting "bar"`,
		`$NIX_CONFIG:1: there is no setting "lock-timout"; is it to be lock-timeout?`,
	}
	if diff := cmp.Diff(want, s.Warnings); diff != "" {
		t.Errorf("Warnings, -want +got:\n%s", diff)
	}
	env["NIX_CONFIG"] = strings.Repeat("lock-timout = 1\n", 10_000)
	if s, err := acl.Load(acl.LoadOptions{Getenv: func(name string) string { return env[name] }}); err != nil || len(s.Warnings) != 100 {
		t.Errorf("Load of 10,000 mistakes = %v; want 100 warnings", err)
	}
}

// What Nix makes of the same file.
func TestLoadAsNix(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("nix"); err != nil {
		t.Skip("needs nix, as in Debian's package nix-bin")
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "nix.conf"), `
experimental-features = nix-command
trusted-users = root alice # who
extra-trusted-users =  @wheel	bob
  allowed-users   =   *
require-sigs = false
include more.conf
extra-trusted-public-keys = test-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=
gc-keep-outputs = true
!include absent.conf
extra-trusted-users = carol
`)
	write(t, filepath.Join(dir, "more.conf"), "secret-key-files = /a /b\nbuild-users-group =\nrequire-sigs = true\n")
	cmd := exec.CommandContext(t.Context(), "nix", "show-config", "--json")
	cmd.Env = append(os.Environ(), "NIX_CONF_DIR="+dir, "HOME="+dir, "NIX_REMOTE="+dir)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var theirs map[string]struct{ Value any }
	if err := json.Unmarshal(out, &theirs); err != nil {
		t.Fatal(err)
	}
	s, err := acl.Load(acl.LoadOptions{Getenv: func(name string) string {
		return map[string]string{"NIX_CONF_DIR": dir, "NARFS_CONF": "/nonexistent/narfs.conf"}[name]
	}})
	if err != nil {
		t.Fatal(err)
	}
	text := func(v any) string {
		if list, ok := v.([]any); ok {
			words := make([]string, 0, len(list))
			for _, word := range list {
				words = append(words, word.(string))
			}
			slices.Sort(words)
			return strings.Join(words, " ")
		}
		b, _ := json.Marshal(v)
		return strings.Trim(string(b), `"`)
	}
	for _, v := range s.Values() {
		their, ok := theirs[v.Name]
		if !ok {
			continue // ours alone
		}
		words := strings.Fields(v.Value)
		slices.Sort(words)
		if got, want := strings.Join(words, " "), text(their.Value); got != want {
			t.Errorf("%s = %q; Nix says %q", v.Name, got, want)
		}
	}
}

func TestPeerOf(t *testing.T) {
	t.Parallel()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s")})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close() //nolint:errcheck // only for this
	client, err := net.DialUnix("unix", nil, ln.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close() //nolint:errcheck // only for this
	server, err := ln.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close() //nolint:errcheck // only for this
	for _, conn := range []*net.UnixConn{client, server} {
		got, err := acl.PeerOf(conn)
		if err != nil || got.UID != uint32(os.Geteuid()) || got.PID != os.Getpid() || got.HasGID && got.GID != uint32(os.Getegid()) {
			t.Errorf("PeerOf = %+v, %v; want this process", got, err)
		}
	}
}

func TestSystemUsers(t *testing.T) {
	t.Parallel()
	s, err := acl.Load(acl.LoadOptions{Options: []string{"allowed-users=", "trusted-users=root"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Access(root); got.User != "root" || got.Level != acl.Trusted {
		t.Errorf("Access(root) = %+v", got)
	}
	stranger := acl.Peer{UID: 4_000_000_001, GID: 4_000_000_001, HasGID: true}
	if got := s.Access(stranger); got.User != "4000000001" || got.Group != "4000000001" || got.Level != acl.Refused {
		t.Errorf("Access of one without a name = %+v", got)
	}
}

// A host trusts what it signs itself, as far as its keys are there to be read.
func TestTrustedKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key, err := nix.GenerateSecretKey("host-1")
	if err != nil {
		t.Fatal(err)
	}
	good, bad, none := filepath.Join(dir, "good"), filepath.Join(dir, "bad"), filepath.Join(dir, "none")
	write(t, good, key.Export()+"\n")
	write(t, bad, key.Export()[:50])
	s := load(t, "secret-key-files="+strings.Join([]string{none, good, bad, dir, good}, " "))
	if len(s.TrustedPublicKeys) != 1 || !slices.Equal(s.TrustedKeys, append(slices.Clone(s.TrustedPublicKeys), key.Public())) {
		t.Errorf("TrustedKeys = %v; want Nix's and %v", s.TrustedKeys, key.Public())
	}
	if len(s.Warnings) != 2 || !strings.Contains(s.Warnings[0], bad) || !strings.HasSuffix(s.Warnings[1], dir+" is no file") ||
		strings.Contains(s.Warnings[0], key.Export()[10:30]) {
		t.Errorf("Warnings = %q; want the bad one, without its bytes, and the folder", s.Warnings)
	}
}

func TestUserFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	passwd, groups := filepath.Join(dir, "passwd"), filepath.Join(dir, "group")
	write(t, passwd, "root:x:0:0:root:/root:/bin/sh\n# 1:x:1:1\n\n+nis:x:2:2::\n-:x:3:3\n:x:4:4:nameless\nshort:x\nbad:x:six:6\n"+
		"alice:x:1000:100::\nsecond:x:1000:101::\nneg:x:-1:0\nbig:x:4294967296:0\nlast:x:4294967294:7::")
	write(t, groups, "root:x:0:\nwheel:x:10:root,alice\nwheel:x:11:bob\nother:x:10:alice,bob\nfew:x:13\n#hidden:x:14:alice\n"+
		"many:x:15:"+strings.Repeat("member,", 300_000)+"alice\nprefix:x:16:alice2,lice\n")
	users := acl.UsersIn(passwd, groups)
	for uid, want := range map[uint32]string{0: "root", 1000: "alice", 4294967294: "last", 1: "", 2: "", 3: "", 4: "", 6: "", 4294967295: ""} {
		if got, err := users.UserName(uid); got != want || err != nil {
			t.Errorf("UserName(%d) = %q, %v; want %q", uid, got, err, want)
		}
	}
	for gid, want := range map[uint32]string{0: "root", 10: "wheel", 11: "wheel", 13: "few", 14: "", 99: ""} {
		if got, err := users.GroupName(gid); got != want || err != nil {
			t.Errorf("GroupName(%d) = %q, %v; want %q", gid, got, err, want)
		}
	}
	for user, want := range map[string][]string{
		"alice": {"wheel", "other", "many"}, "bob": {"other"}, "root": {"wheel"}, "nobody": nil, "lice": {"prefix"},
	} {
		if got, err := users.GroupsOf(user); !slices.Equal(got, want) || err != nil {
			t.Errorf("GroupsOf(%s) = %v, %v; want %v", user, got, err, want)
		}
	}
	if gid, uids, found, err := users.Members("wheel"); gid != 10 || !slices.Equal(uids, []uint32{0, 1000}) || !found || err != nil {
		t.Errorf("Members(wheel) = %d, %v, %v, %v", gid, uids, found, err)
	}
	if _, _, found, err := users.Members("nothing"); found || err != nil {
		t.Errorf("Members of no group = %v, %v", found, err)
	}
	write(t, groups, "new:x:10:alice\n")
	if got, err := users.GroupsOf("alice"); !slices.Equal(got, []string{"new"}) || err != nil {
		t.Errorf("GroupsOf after a change = %v, %v; want the new one", got, err)
	}
	none := acl.UsersIn(filepath.Join(dir, "none"), filepath.Join(dir, "none"))
	if name, err := none.UserName(0); name != "" || err != nil {
		t.Errorf("UserName without a file = %q, %v; want no name", name, err)
	}
	write(t, passwd, strings.Repeat("x", 17<<20))
	if name, err := acl.UsersIn(passwd, dir).UserName(0); err == nil {
		t.Errorf("UserName from a line without end = %q; want an error", name)
	}
	if found, err := acl.UsersIn(passwd, dir).GroupsOf("root"); err == nil {
		t.Errorf("GroupsOf from a folder = %v; want an error", found)
	}
}

func TestParseSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{"0": 0, "17": 17, "1K": 1024, "2m": 2 << 20, "3G": 3 << 30, "1T": 1 << 40} {
		if got, err := acl.ParseSize(text); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "K", "-1", "1.5G", "1 G", "9223372036854775807K", "0x10"} {
		if got, err := acl.ParseSize(text); err == nil {
			t.Errorf("ParseSize(%q) = %d; want an error", text, got)
		}
	}
}

func FuzzSettings(f *testing.F) {
	f.Add("trusted-users = root # x\nextra-allowed-users = a b\n")
	f.Add("include \x00\n!include ../..\n")
	f.Add("require-sigs = true\nmemory-budget = 1G")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "include") {
			return // it would read files
		}
		s, err := acl.Load(acl.LoadOptions{Getenv: func(name string) string {
			return map[string]string{"NIX_CONF_DIR": "/nonexistent", "NARFS_CONF": "/nonexistent/narfs.conf", "NIX_CONFIG": text}[name]
		}, Users: machine{}})
		if err != nil {
			return
		}
		// What it means can be written down again.
		var options []string
		for _, v := range s.Values() {
			options = append(options, v.Name+"="+v.Value)
		}
		again, err := acl.Load(acl.LoadOptions{Options: options, Users: machine{}})
		if err != nil {
			t.Fatalf("Load of what was loaded = %v", err)
		}
		if got, want := again.Access(alice).Level, s.Access(alice).Level; got != want {
			t.Errorf("Access = %v; want %v", got, want)
		}
	})
}

// Who is not trusted may say how long he waits for builds, as with Nix, and no more.
func TestForUntrusted(t *testing.T) {
	t.Parallel()
	s := acl.Default()
	got, ignored := s.For(acl.Access{Level: acl.Untrusted}, [][2]string{{"build-timeout", "5"}, {"max-silent-time", "6"}, {"sandbox", "false"}, {"timeout", "x"}})
	if got.Timeout != 5*time.Second || got.MaxSilentTime != 6*time.Second || got.Sandbox != s.Sandbox || s.Timeout != 0 {
		t.Errorf("For = timeout %v, max-silent-time %v, sandbox %s", got.Timeout, got.MaxSilentTime, got.Sandbox)
	}
	if len(ignored) != 2 || !strings.Contains(ignored[0], "'sandbox', because it is a restricted setting") || !strings.Contains(ignored[1], "'timeout': ") {
		t.Errorf("ignored = %q; want sandbox, and the bad timeout", ignored)
	}
}

// What clients want otherwise: all that is of a session, if they are trusted; of the others few, as Nix has it.
func TestFor(t *testing.T) {
	t.Parallel()
	load := func(env map[string]string) *acl.Settings {
		s, err := acl.Load(acl.LoadOptions{Getenv: func(name string) string { return env[name] }, Users: machine{}})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if got := load(map[string]string{"NIX_CONF_DIR": "/nonexistent/nix", "NARFS_CONF": "/nonexistent"}).Machines; got != "@/nonexistent/nix/machines" {
		t.Errorf("builders = %q; want the machines beside nix.conf", got)
	}
	s := load(map[string]string{"NIX_CONF_DIR": "/nonexistent", "NARFS_CONF": "/nonexistent", "NIX_CONFIG": "builders = ssh://a - - 2 ; ssh://b\nbuilders-use-substitutes = true"})
	if s.Machines != "ssh://a - - 2 ; ssh://b" || !s.MachinesSubst {
		t.Errorf("builders = %q, builders-use-substitutes = %v", s.Machines, s.MachinesSubst)
	}
	for _, test := range []struct {
		level       acl.Level
		name, value string
		taken       bool
	}{
		{acl.Trusted, "builders", "ssh://c\nssh://d", true},
		{acl.Trusted, "timeout", "5", true},
		{acl.Trusted, "sandbox", "false", true},
		{acl.Trusted, "timeout", "soon", false},
		{acl.Trusted, "allowed-users", "*", false},
		{acl.Untrusted, "builders", "ssh://c", false},
		{acl.Untrusted, "builders", "", true},
		{acl.Untrusted, "build-timeout", "5", true},
		{acl.Untrusted, "max-silent-time", "5", true},
		{acl.Untrusted, "builders-use-substitutes", "false", false},
		{acl.Untrusted, "sandbox", "false", false},
	} {
		changed, _ := s.For(acl.Access{Level: test.level}, [][2]string{{test.name, test.value}})
		if (changed != s) != test.taken {
			t.Errorf("For(%v, %s = %q) changes something: %v; want %v", test.level, test.name, test.value, changed != s, test.taken)
		}
		if test.name == "builders" && test.taken && changed.Machines != test.value {
			t.Errorf("For(%v, builders = %q) has %q", test.level, test.value, changed.Machines)
		}
	}
}
