package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Bind is a file or folder of the host that the builder sees.
type Bind struct {
	Source   string // on the host; symbolic links are followed
	Target   string // where the builder sees it; "" means Source
	Optional bool   // it may be missing on the host
	ReadOnly bool   // a builder that runs as the owner of Source could change it otherwise
}

// Spec says what to run, and what it sees. Paths are absolute.
type Spec struct {
	// Sandboxed means that the builder sees what this Spec lists and nothing else, and is 1000:100 to itself. Otherwise it
	// sees the host's file system with only StoreDir replaced, and Binds means nothing.
	Sandboxed bool

	StoreDir   string   // where the builder sees the store
	StoreMount string   // host folder where the whole store can be read
	Inputs     []string // base names in StoreMount that a sandboxed builder sees

	// Outputs is a host folder that Run finds empty and the builder's user may write. What the builder makes at
	// StoreDir/name is Outputs/name afterwards, as the builder left it: it may be a symbolic link to anywhere.
	// On Linux, Run makes and removes Outputs + ".work".
	Outputs string

	BuildDir       string // host folder for scratch, which the builder's user may write
	BuildDirInside string // where it is seen; "" means BuildDir. If not sandboxed, a folder of the host that can be reached
	TmpDir         string // host folder seen as /tmp by a sandboxed builder; "" makes a file system in memory

	// Binds are shown in the order of their targets. They come last, and cover what else is there.
	Binds []Bind

	Builder string   // path as the builder sees it; a relative one begins in Dir
	Args    []string // without the program's name, which is the base name of Builder
	Env     []string // NAME=VALUE; all that there is
	Dir     string   // "" means BuildDirInside

	// UID and GID are the host's ids to run as. Only root may name others than its own.
	UID, GID int

	Network bool   // the host's network; otherwise there is a loopback interface alone
	KVM     bool   // a sandboxed builder sees /dev/kvm, if there is one
	ShmSize string // of /dev/shm, in tmpfs's notation; "" means half of the memory

	// Cgroup puts the builder into a control group of its own, below that of this process, which must be allowed to make one, and
	// CPU gets the time that all its processes took. On Linux; elsewhere it means nothing.
	Cgroup bool
	CPU    *CPUTime

	// Log takes what the builder writes to its standard output and error, as it comes, from one goroutine that Run waits
	// for. An error from it ends the builder, and Run returns it. nil discards.
	Log io.Writer
}

// CPUTime is time that processors have worked.
type CPUTime struct{ User, System time.Duration }

// Microseconds returns both as Nix writes them; nil if t is nil, which means that they are unknown.
func (t *CPUTime) Microseconds() (user, system *int64) {
	if t == nil {
		return nil, nil
	}
	u, s := t.User.Microseconds(), t.System.Microseconds()
	return &u, &s
}

// Exit is how a builder ended.
type Exit struct {
	Code   int            // the exit status, if Signal is 0
	Signal syscall.Signal // what killed it
}

// String says how it ended, in Nix's words: "failed with exit code 1".
func (e Exit) String() string {
	if e.Signal != 0 {
		return fmt.Sprintf("failed due to signal %d (%v)", int(e.Signal), e.Signal)
	}
	return fmt.Sprintf("failed with exit code %d", e.Code)
}

// ErrBuilder is the cause of a [SetupError] if all was ready, but the builder itself could not be executed: the
// derivation's fault and not the machine's.
var ErrBuilder = errors.New("builder cannot be executed")

// SetupError says why a builder was not run.
type SetupError struct {
	Op   string // what was being done
	Err  error  // often a syscall.Errno
	Hint string // what to do about it; may be empty
}

// Error implements error.
func (e *SetupError) Error() string {
	s := "build sandbox: " + e.Op + ": " + e.Err.Error()
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

// Unwrap returns the cause.
func (e *SetupError) Unwrap() error { return e.Err }

// withDefaults checks a Spec and returns it with its zero values filled in.
func (s Spec) withDefaults() (Spec, error) {
	if s.BuildDirInside == "" {
		s.BuildDirInside = s.BuildDir
	}
	if s.Dir == "" {
		s.Dir = s.BuildDirInside
	}
	if s.ShmSize == "" {
		s.ShmSize = "50%"
	}
	if s.Log == nil {
		s.Log = io.Discard
	}
	bad := func(format string, args ...any) (Spec, error) {
		return s, &SetupError{Op: "check what to run", Err: fmt.Errorf(format, args...)}
	}
	for _, p := range []struct{ name, path string }{
		{"StoreDir", s.StoreDir},
		{"StoreMount", s.StoreMount},
		{"Outputs", s.Outputs},
		{"BuildDir", s.BuildDir},
		{"BuildDirInside", s.BuildDirInside},
		{"Dir", s.Dir},
	} {
		if !filepath.IsAbs(p.path) || strings.ContainsRune(p.path, 0) {
			return bad("%s %q is not an absolute path", p.name, p.path)
		}
	}
	for _, name := range s.Inputs {
		if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
			return bad("input %q is not a base name", name)
		}
	}
	s.Binds = slices.Clone(s.Binds)
	for i := range s.Binds {
		b := &s.Binds[i]
		if b.Target == "" {
			b.Target = b.Source
		}
		b.Target = filepath.Clean(b.Target)
		if !filepath.IsAbs(b.Source) || !filepath.IsAbs(b.Target) || b.Target == "/" {
			return bad("cannot show %q as %q", b.Source, b.Target)
		}
	}
	// What is above comes first, and does not cover what is below.
	slices.SortStableFunc(s.Binds, func(a, b Bind) int { return strings.Compare(a.Target, b.Target) })
	if uid := os.Geteuid(); uid != 0 && (s.UID != uid || s.GID != os.Getegid()) {
		return bad("only root can run a builder as user %d, group %d", s.UID, s.GID)
	}
	return s, nil
}
