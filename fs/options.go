package fs

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/narfs/narfs/casefold"
)

// Options says how a store is mounted. The zero value is the exact view for the mounting user alone.
type Options struct {
	// CaseHack shows names as a Nix with use-case-hack writes them: of names that collide under Rule, all but one
	// get a suffix. The original names are found nonetheless. False shows the names as they are.
	CaseHack bool
	// Rule says which names collide. The zero value is Nix's own, ASCII.
	Rule casefold.Rule
	// CaseInsensitive finds a name also in a spelling that only collides with it under Rule.
	CaseInsensitive bool

	// AllowOther lets other users in. Who is not root needs user_allow_other in /etc/fuse.conf for it.
	AllowOther bool
	// HideListing refuses to list the root; who knows the name of a store path still gets at it.
	HideListing bool
	// XAttr answers requests for extended attributes (user.narfs.hash and so on, see [XAttrObject]). It costs a
	// request for every file that ls -l shows.
	XAttr bool
	// Owner is the owner of all files; nil is the mounting user.
	Owner *Owner

	// CacheBytes bounds the memory for trees; 0 is 64 MiB. One tree in use stays whatever its size.
	CacheBytes int64
	// ReadAhead is how far the kernel reads ahead, in bytes; 0 is 512 KiB, less than 0 is the kernel's own choice.
	// Only root can set it.
	ReadAhead int
	// Name is shown as the device by df and mount, and as the volume by a Mac; "" is "narfs".
	Name string
	// Extra are further options as mount(8) and fusermount3 take them, such as "noexec" and "noatime".
	Extra []string
	// Helper mounts through fusermount3 even as root. macOS always uses its helper.
	Helper bool

	// Logger gets what cannot be told to a caller; nil discards it.
	Logger *slog.Logger
	// Debug logs every request at level debug. It is slow.
	Debug bool
}

// Owner is a user and a group.
type Owner struct{ UID, GID uint32 }

const (
	defaultCacheBytes = 64 << 20
	defaultReadAhead  = 512 << 10
	maxRead           = 1 << 20 // the largest READ; larger ones measured no better
	maxBackground     = 64
	fsType            = "narfs"
)

func (o Options) withDefaults() Options {
	if o.CacheBytes == 0 {
		o.CacheBytes = defaultCacheBytes
	}
	if o.ReadAhead == 0 {
		o.ReadAhead = defaultReadAhead
	}
	if o.Name == "" {
		o.Name = fsType
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

func (o Options) owner() owner {
	if o.Owner != nil {
		return owner{o.Owner.UID, o.Owner.GID}
	}
	return owner{uint32(os.Geteuid()), uint32(os.Getegid())}
}

// check refuses what would not be a read-only mount, or not one mount option.
func (o Options) check() error {
	for _, e := range o.Extra {
		if e == "" || strings.ContainsAny(e, ",\x00\n") {
			return fmt.Errorf("mount option %q: want one option", e)
		}
		if slices.Contains([]string{"rw", "suid", "dev", "auto_unmount"}, e) {
			return fmt.Errorf("mount option %q: not possible with narfs", e)
		}
	}
	if strings.ContainsAny(o.Name, "\x00\n") {
		return fmt.Errorf("mount name %q: has a line feed or NUL", o.Name)
	}
	return nil
}

// realDir returns the path under which the mount table has dir. It does not look at dir itself, which may be a dead
// mount that answers nothing.
func realDir(dir string) (string, error) {
	if dir == "" {
		return "", errors.New("mount point is empty")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for range 40 { // as many symlinks as the kernel follows
		parent, err := filepath.EvalSymlinks(filepath.Dir(abs))
		if err != nil {
			return "", err
		}
		abs = filepath.Join(parent, filepath.Base(abs))
		target, err := os.Readlink(abs)
		if err != nil {
			return abs, nil //nolint:nilerr // no symlink, or nothing at all: whoever uses it will say
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(parent, target)
		}
		abs = filepath.Clean(target)
	}
	return "", fmt.Errorf("mount point %s: too many symlinks", dir)
}
