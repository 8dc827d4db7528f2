package acl

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/narfs/narfs/internal/nix"
)

// Settings are those in force. They are not changed once loaded.
type Settings struct {
	AllowedUsers, TrustedUsers []string
	BuildUsersGroup            string
	RequireSigs                bool
	TrustedPublicKeys          []nix.PublicKey // as configured
	SecretKeyFiles             []string
	KeepDerivations            bool
	KeepOutputs                bool
	LockTimeout                time.Duration // 0: none
	ShutdownTimeout            time.Duration
	MaxSessions                int   // 0: no limit
	MemoryBudget               int64 // bytes; 0: no limit

	// Of builds.
	AutoAllocateUIDs bool // each builder is another user, of those from StartID on
	StartID, IDCount uint32
	Machines         string // that build, as builders has them: see package build
	MachinesSubst    bool   // they get from elsewhere what they can
	Cores            int    // 0: all
	ExtraPlatforms   []string
	HashedMirrors    []string
	KeepBuildLog     bool
	KeepFailed       bool
	KeepGoing        bool
	LogLines         int
	MaxBuildLogSize  int64 // bytes; 0: no limit
	MaxJobs          int
	MaxSilentTime    time.Duration // 0: no limit
	PostBuildHook    string
	Sandbox          string // "true", "false" or "relaxed"
	SandboxPaths     []string
	System           string
	SystemFeatures   []string
	Timeout          time.Duration // 0: no limit
	UseCgroups       bool          // each builder has a control group of its own

	// TrustedKeys are those whose signatures count: TrustedPublicKeys, and the public halves of the keys in SecretKeyFiles, as
	// far as they are there and ours to read. So it is in Nix: a host takes back what it has signed.
	TrustedKeys []nix.PublicKey

	// Warnings tell of what has no effect and perhaps should have: "FILE:LINE: there is no setting …".
	Warnings []string

	users  Users
	values map[string]Value
}

// Value is a setting as it was written, and where.
type Value struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Origin string `json:"origin"` // "default", "FILE:LINE", "$NIX_CONFIG:LINE" or "the command line"; several with ", " between for a list
}

// originDefault is the origin of what nobody has set.
const originDefault = "default"

// setting is a row of the table of settings.
type setting struct {
	name, alias string
	initial     string
	list        bool
	set         func(s *Settings, value string) error
}

// settings is the table.
func settings() []setting {
	return []setting{
		{"allowed-users", "", "*", true, func(s *Settings, v string) error { s.AllowedUsers = fields(v); return nil }},
		{"builders", "", "", false, func(s *Settings, v string) error { s.Machines = v; return nil }},
		{"builders-use-substitutes", "", "false", false, func(s *Settings, v string) (err error) { s.MachinesSubst, err = parseBool(v); return err }},
		{"cores", "build-cores", strconv.Itoa(runtime.NumCPU()), false, func(s *Settings, v string) (err error) { s.Cores, err = parseCount(v); return err }},
		{"extra-platforms", "", strings.Join(hostPlatforms(), " "), true, func(s *Settings, v string) error { s.ExtraPlatforms = fields(v); return nil }},
		{"hashed-mirrors", "", "", true, func(s *Settings, v string) error { s.HashedMirrors = fields(v); return nil }},
		{"keep-build-log", "build-keep-log", "true", false, func(s *Settings, v string) (err error) { s.KeepBuildLog, err = parseBool(v); return err }},
		{"keep-failed", "", "false", false, func(s *Settings, v string) (err error) { s.KeepFailed, err = parseBool(v); return err }},
		{"keep-going", "", "false", false, func(s *Settings, v string) (err error) { s.KeepGoing, err = parseBool(v); return err }},
		{"log-lines", "", "10", false, func(s *Settings, v string) (err error) { s.LogLines, err = parseCount(v); return err }},
		{"max-build-log-size", "build-max-log-size", "0", false, func(s *Settings, v string) (err error) { s.MaxBuildLogSize, err = ParseSize(v); return err }},
		{"max-jobs", "build-max-jobs", "1", false, func(s *Settings, v string) (err error) { s.MaxJobs, err = ParseJobs(v); return err }},
		{"max-silent-time", "build-max-silent-time", "0", false, func(s *Settings, v string) (err error) { s.MaxSilentTime, err = parseSeconds(v); return err }},
		{"post-build-hook", "", "", false, func(s *Settings, v string) error { s.PostBuildHook = v; return nil }},
		{"sandbox", "build-use-sandbox", sandboxDefault(), false, setSandbox},
		{"sandbox-paths", "build-sandbox-paths", "", true, func(s *Settings, v string) error { s.SandboxPaths = fields(v); return nil }},
		{"system", "", hostSystem(), false, func(s *Settings, v string) error { s.System = v; return nil }},
		{"system-features", "", strings.Join(hostFeatures(), " "), true, func(s *Settings, v string) error { s.SystemFeatures = fields(v); return nil }},
		{"timeout", "build-timeout", "0", false, func(s *Settings, v string) (err error) { s.Timeout, err = parseSeconds(v); return err }},
		{"auto-allocate-uids", "", strconv.FormatBool(canAllocate()), false, func(s *Settings, v string) (err error) { s.AutoAllocateUIDs, err = parseBool(v); return err }},
		{"start-id", "", strconv.Itoa(startID), false, func(s *Settings, v string) (err error) { s.StartID, err = parseID(v); return err }},
		{"id-count", "", strconv.Itoa(idCount), false, func(s *Settings, v string) (err error) { s.IDCount, err = parseID(v); return err }},
		{"use-cgroups", "", "false", false, func(s *Settings, v string) (err error) { s.UseCgroups, err = parseBool(v); return err }},
		{"build-users-group", "", buildGroup(), false, func(s *Settings, v string) error { s.BuildUsersGroup = v; return nil }},
		{"keep-derivations", "gc-keep-derivations", "true", false, func(s *Settings, v string) (err error) { s.KeepDerivations, err = parseBool(v); return err }},
		{"keep-outputs", "gc-keep-outputs", "false", false, func(s *Settings, v string) (err error) { s.KeepOutputs, err = parseBool(v); return err }},
		{"lock-timeout", "", "3600", false, func(s *Settings, v string) (err error) { s.LockTimeout, err = parseSeconds(v); return err }},
		{"max-sessions", "", "1000", false, func(s *Settings, v string) (err error) { s.MaxSessions, err = parseCount(v); return err }},
		{"memory-budget", "", "1G", false, func(s *Settings, v string) (err error) { s.MemoryBudget, err = ParseSize(v); return err }},
		{"require-sigs", "", "true", false, func(s *Settings, v string) (err error) { s.RequireSigs, err = parseBool(v); return err }},
		{"secret-key-files", "", "", true, func(s *Settings, v string) error { s.SecretKeyFiles = fields(v); return nil }},
		{"shutdown-timeout", "", "10", false, func(s *Settings, v string) (err error) { s.ShutdownTimeout, err = parseSeconds(v); return err }},
		{"trusted-public-keys", "binary-cache-public-keys", "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=", true, setPublicKeys},
		{"trusted-users", "", "root", true, func(s *Settings, v string) error { s.TrustedUsers = fields(v); return nil }},
	}
}

// sandboxDefault is as in Nix.
func sandboxDefault() string {
	if runtime.GOOS == "linux" {
		return "true"
	}
	return "false"
}

func setSandbox(s *Settings, v string) error {
	if v == "relaxed" {
		s.Sandbox = v
		return nil
	}
	on, err := parseBool(v)
	if err != nil {
		return fmt.Errorf("%q is neither true nor false nor relaxed", v)
	}
	s.Sandbox = strconv.FormatBool(on)
	return nil
}

// ParseJobs reads a number, or auto for the number of processors.
func ParseJobs(v string) (int, error) {
	if v == "auto" {
		return runtime.NumCPU(), nil
	}
	return parseCount(v)
}

func setPublicKeys(s *Settings, v string) error {
	s.TrustedPublicKeys = nil
	for _, word := range fields(v) {
		key, err := nix.ParsePublicKey(word)
		if err != nil {
			return err
		}
		s.TrustedPublicKeys = append(s.TrustedPublicKeys, key)
	}
	return nil
}

func parseBool(v string) (bool, error) {
	switch v {
	case "true", "yes", "1":
		return true, nil
	case "false", "no", "0":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither true nor false", v)
}

func parseCount(v string) (int, error) {
	n, err := strconv.ParseUint(v, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number", v)
	}
	return int(n), nil
}

func parseSeconds(v string) (time.Duration, error) {
	n, err := parseCount(v)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number of seconds", v)
	}
	return time.Duration(n) * time.Second, nil
}

// ParseSize reads a number of bytes, with K, M, G or T for powers of 1,024 behind it.
func ParseSize(v string) (int64, error) {
	digits, shift := v, 0
	if n := len(v); n > 0 {
		if i := strings.IndexByte("KMGT", v[n-1]&^0x20); i >= 0 {
			digits, shift = v[:n-1], 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > 1<<62>>shift {
		return 0, fmt.Errorf("%q is not a size, such as 512M", v)
	}
	return n << shift, nil
}

// LoadOptions say where settings come from. The zero value reads nothing and gives the defaults.
type LoadOptions struct {
	// Getenv gives the variables that name files: see Files.
	Getenv func(string) string
	// Options are "name=value" from the command line.
	Options []string
	// Users looks users up; nil means those of this machine.
	Users Users
}

// Default returns the settings of a machine without any files.
func Default() *Settings {
	s, err := Load(LoadOptions{})
	if err != nil {
		panic(err) // a test would have told
	}
	return s
}

// files returns the names of the files to read, in order.
func files(getenv func(string) string) []string {
	first := "/etc/nix/nix.conf"
	if dir := getenv("NIX_CONF_DIR"); dir != "" {
		first = filepath.Join(dir, "nix.conf")
	}
	second := "/etc/narfs/narfs.conf"
	if name := getenv("NARFS_CONF"); name != "" {
		second = name
	}
	return []string{first, second}
}

// Load reads the settings.
func Load(o LoadOptions) (*Settings, error) {
	s := &Settings{users: o.Users, values: map[string]Value{}}
	if s.users == nil {
		s.users = systemUsers()
	}
	for _, row := range settings() {
		s.values[row.name] = Value{row.name, row.initial, originDefault}
	}
	p := &parser{values: s.values}
	if o.Getenv != nil {
		names := files(o.Getenv)
		s.values["builders"] = Value{"builders", "@" + filepath.Join(filepath.Dir(names[0]), "machines"), "default"}
		for i, name := range names {
			if err := p.file(name, i > 0, 0); err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, err
			}
		}
		if err := p.text("$NIX_CONFIG", "", o.Getenv("NIX_CONFIG"), false, 0); err != nil {
			return nil, err
		}
	}
	for _, option := range o.Options {
		name, value, ok := strings.Cut(option, "=")
		if !ok {
			return nil, fmt.Errorf("option %q is not NAME=VALUE", option)
		}
		known, err := p.set(strings.TrimSpace(name), strings.TrimSpace(value), "the command line")
		if err != nil {
			return nil, err
		}
		if !known {
			return nil, fmt.Errorf("option %q: there is no such setting", strings.TrimSpace(name))
		}
	}
	for _, row := range settings() {
		v := s.values[row.name]
		if err := row.set(s, v.Value); err != nil {
			return nil, fmt.Errorf("%s: setting %s: %w", v.Origin, row.name, err)
		}
	}
	s.Warnings = p.warnings
	s.trustOwnKeys()
	return s, nil
}

// For returns the settings for a client that wants to have some otherwise, as name and value, and says what of that it ignores, for
// logs. Who is not trusted may only change how long he waits for builds, and have nobody else build; of those that narfs does not know
// nothing is said.
func (s *Settings) For(a Access, overrides [][2]string) (changed *Settings, ignored []string) {
	changed = s
	for _, pair := range overrides {
		name, value := pair[0], pair[1]
		row, known := find(name)
		if !known || forDaemon(name) {
			continue
		}
		if a.Level != Trusted && !forAll(row.name, value) {
			ignored = append(ignored, fmt.Sprintf("ignoring the client-specified setting '%s', because it is a restricted setting and you are not a trusted user", name))
			continue
		}
		if row.list {
			value = strings.Join(fields(value), " ")
		}
		next := *changed // what cannot be set leaves a setting as if it were empty
		if err := row.set(&next, value); err != nil {
			ignored = append(ignored, fmt.Sprintf("ignoring the client-specified setting '%s': %v", name, err))
			continue
		}
		if changed == s {
			next.values = maps.Clone(s.values)
		}
		changed = &next
		changed.values[row.name] = Value{row.name, value, "the client"}
	}
	if changed != s {
		changed.trustOwnKeys()
	}
	return changed, ignored
}

// Known reports whether there is a setting of a name.
func Known(name string) bool {
	_, known := find(name)
	return known
}

// forDaemon reports whether a setting is one of all sessions together.
func forDaemon(name string) bool {
	switch name {
	case "allowed-users", "trusted-users", "build-users-group", "auto-allocate-uids", "start-id", "id-count", "use-cgroups", "max-sessions", "memory-budget", "shutdown-timeout":
		return true
	}
	return false
}

// forAll reports whether a setting is one that everybody may have otherwise, as in Nix.
func forAll(name, value string) bool {
	switch name {
	case "timeout", "max-silent-time":
		return true
	case "builders":
		return value == ""
	}
	return false
}

// SecretKeys reads the keys to sign with what is built.
func (s *Settings) SecretKeys() (keys []nix.SecretKey, err error) {
	for _, name := range s.SecretKeyFiles {
		key, err := readKey(name)
		if err != nil {
			return nil, fmt.Errorf("secret key: %w", err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// trustOwnKeys fills TrustedKeys in.
func (s *Settings) trustOwnKeys() {
	s.TrustedKeys = slices.Clone(s.TrustedPublicKeys)
	for _, name := range s.SecretKeyFiles {
		key, err := readKey(name)
		switch {
		case errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission):
		case err != nil:
			s.Warnings = append(s.Warnings, fmt.Sprintf("%s: secret key: %v", s.values["secret-key-files"].Origin, err))
		case !slices.Contains(s.TrustedKeys, key.Public()):
			s.TrustedKeys = append(s.TrustedKeys, key.Public())
		}
	}
}

// maxKey bounds a file with a key, which has some 100 bytes.
const maxKey = 4096

func readKey(name string) (nix.SecretKey, error) {
	// What is no file might never end, or never begin.
	if info, err := os.Stat(name); err != nil {
		return nix.SecretKey{}, err
	} else if !info.Mode().IsRegular() {
		return nix.SecretKey{}, fmt.Errorf("%s is no file", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nix.SecretKey{}, err
	}
	defer f.Close() //nolint:errcheck // only read
	text, err := io.ReadAll(io.LimitReader(f, maxKey))
	if err != nil {
		return nix.SecretKey{}, err
	}
	key, err := nix.ParseSecretKey(string(text))
	if err != nil {
		return key, fmt.Errorf("%s: %w", name, err)
	}
	return key, nil
}

// Values returns all settings, in the order of their names.
func (s *Settings) Values() []Value {
	var all []Value
	for _, row := range settings() {
		all = append(all, s.values[row.name])
	}
	slices.SortFunc(all, func(a, b Value) int { return strings.Compare(a.Name, b.Name) })
	return all
}
