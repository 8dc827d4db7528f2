package gc

import (
	"crypto/sha1" //nolint:gosec // Nix's name for an indirect root
	"errors"
	"fmt"
	iofs "io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/narfs/narfs/internal/nix"
)

// Kind says what a root is.
type Kind string

// The kinds.
const (
	Direct   Kind = "direct"   // a link into the store below gcroots or profiles, or a file with a path's name
	Indirect Kind = "indirect" // a link elsewhere that one in gcroots/auto names
	Temp     Kind = "session"  // held by a session
	Runtime  Kind = "process"  // mentioned by a running process
)

// Root is something that keeps a path.
type Root struct {
	Path nix.StorePath
	Kind Kind
	// Name is the link or file, the session, or what of which process.
	Name string
}

// The folders of the state directory, in Nix's layout.
const (
	rootsDir    = "gcroots"
	profilesDir = "profiles"
	autoDir     = "auto"
	perUserDir  = "per-user"
	pinnedDir   = "pinned"   // our own: narfs roots add
	migratedDir = "migrated" // our own: narfs migrate
)

// MakeLayout makes the folders of a state directory in which roots are looked for, as Nix does.
func MakeLayout(stateDir string) error {
	for _, dir := range []string{
		filepath.Join(rootsDir, autoDir), filepath.Join(rootsDir, perUserDir), filepath.Join(rootsDir, pinnedDir), filepath.Join(profilesDir, perUserDir),
	} {
		if err := os.MkdirAll(filepath.Join(stateDir, dir), 0o755); err != nil {
			return fmt.Errorf("folders for roots: %w", err)
		}
	}
	// They are other users' to read, whatever the umask.
	for _, dir := range []string{rootsDir, profilesDir} {
		if err := os.Chmod(filepath.Join(stateDir, dir, perUserDir), 0o755); err != nil { //nolint:gosec // as said
			return fmt.Errorf("folders for roots: %w", err)
		}
	}
	err := os.Symlink(filepath.Join(stateDir, profilesDir), filepath.Join(stateDir, rootsDir, profilesDir))
	if err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("folders for roots: %w", err)
	}
	return nil
}

// MakeUserLayout makes the folders of a user's profiles and roots, which are his: clients make links there themselves. Only root can give
// folders away; another owner of the state directory makes none but his own.
func MakeUserLayout(stateDir, user string, uid uint32) error {
	if user == "" || user != filepath.Base(user) || strings.HasPrefix(user, ".") {
		return fmt.Errorf("user name %q cannot be that of a folder", user)
	}
	if os.Geteuid() != 0 && uint32(os.Geteuid()) != uid {
		return nil
	}
	for _, dir := range []string{rootsDir, profilesDir} {
		if err := makeUserDir(filepath.Join(stateDir, dir, perUserDir, user), uid); err != nil {
			return fmt.Errorf("folders of user %s: %w", user, err)
		}
	}
	return nil
}

// makeUserDir makes a folder, or takes one that is there. What stands in its place and is none stays as it is.
func makeUserDir(name string, uid uint32) error {
	if err := os.Mkdir(name, 0o755); err != nil && !errors.Is(err, os.ErrExist) { //nolint:gosec // others read it
		return err
	}
	d, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer d.Close() //nolint:errcheck // only for this
	info, err := d.Stat()
	if err != nil {
		return err
	}
	if info.Mode().Perm() != 0o755 {
		if err := d.Chmod(0o755); err != nil {
			return err
		}
	}
	return d.Chown(int(uid), -1)
}

// Finder looks for the roots that are files.
type Finder struct {
	StateDir string
	StoreDir nix.StoreDir
	// Shown are further folders in which the store is seen: its mounts.
	Shown []string
	// Prune removes the links in gcroots/auto whose target is gone.
	Prune bool
}

// UnreadableError says that a root cannot be read, so that what it keeps is not known.
type UnreadableError struct {
	Name string
	Err  error
}

// Error implements error.
func (e *UnreadableError) Error() string {
	return fmt.Sprintf("cannot read the potential root %s: %v", e.Name, e.Err)
}

// Unwrap gives the cause.
func (e *UnreadableError) Unwrap() error { return e.Err }

// maxDepth bounds how deep folders are searched.
const maxDepth = 64

// Find calls found with each root, which may name a path that is not valid, and unreadable with what cannot be read; if
// that returns an error, Find does.
func (f *Finder) Find(found func(Root), unreadable func(*UnreadableError) error) error {
	for _, dir := range []string{rootsDir, profilesDir} {
		if err := f.search(filepath.Join(f.StateDir, dir), 0, found, unreadable); err != nil {
			return fmt.Errorf("look for roots: %w", err)
		}
	}
	return nil
}

func (f *Finder) search(name string, depth int, found func(Root), unreadable func(*UnreadableError) error) error {
	info, err := os.Lstat(name)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return unreadable(&UnreadableError{name, err})
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		if depth == maxDepth {
			return unreadable(&UnreadableError{name, errors.New("the folders are too deep")})
		}
		entries, err := os.ReadDir(name)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return unreadable(&UnreadableError{name, err})
		}
		for _, entry := range entries {
			if err := f.search(filepath.Join(name, entry.Name()), depth+1, found, unreadable); err != nil {
				return err
			}
		}
	case mode.Type() == iofs.ModeSymlink && strings.HasPrefix(filepath.Base(name), newPrefix):
		// It was to become a root; see replaceLink.
		if f.Prune && time.Since(info.ModTime()) > leftAfter {
			_ = os.Remove(name)
		}
	case mode.Type() == iofs.ModeSymlink:
		if err := f.link(name, found); err != nil {
			return unreadable(&UnreadableError{name, err})
		}
	case mode.IsRegular():
		if p, err := nix.ParseBaseName(filepath.Base(name)); err == nil {
			found(Root{p, Direct, name})
		}
	}
	return nil
}

// link looks at a link below the folders of roots.
func (f *Finder) link(name string, found func(Root)) error {
	target, err := os.Readlink(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if p, ok := f.inStore(target); ok {
		found(Root{p, Direct, name})
		return nil
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join(filepath.Dir(name), target)
	}
	second, err := os.Readlink(target)
	switch {
	case err == nil:
		if p, ok := f.inStore(second); ok {
			kind := Indirect
			if f.searched(target) { // as profiles/x names profiles/x-1-link
				kind = Direct
			}
			found(Root{p, kind, target})
		}
	case errors.Is(err, syscall.EINVAL): // no link: a folder of profiles, or what somebody put in a link's place
	case errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENAMETOOLONG): // no name of anything
	case isGone(err):
		if f.Prune && strings.HasPrefix(name, filepath.Join(f.StateDir, rootsDir, autoDir)+"/") {
			return f.prune(name, target)
		}
	default:
		return err
	}
	return nil
}

func isGone(err error) bool { return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) }

// prune removes a link in gcroots/auto whose target is gone, unless it is there again: see AddIndirect.
func (f *Finder) prune(name, target string) error {
	unlock, err := lockAuto(f.StateDir)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Lstat(target); !isGone(err) {
		return nil
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// lockAuto keeps others from changing gcroots/auto until unlock.
func lockAuto(stateDir string) (unlock func(), err error) {
	dir, err := os.Open(filepath.Join(stateDir, rootsDir, autoDir))
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(dir.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		_ = dir.Close()
		return nil, fmt.Errorf("lock %s: %w", dir.Name(), err)
	}
	return func() { _ = dir.Close() }, nil
}

// searched reports whether a link is found by itself.
func (f *Finder) searched(name string) bool {
	return strings.HasPrefix(name, filepath.Join(f.StateDir, rootsDir)+"/") || strings.HasPrefix(name, filepath.Join(f.StateDir, profilesDir)+"/")
}

// inStore returns the store path that a link's target is, or lies in.
func (f *Finder) inStore(target string) (nix.StorePath, bool) {
	for _, dir := range append([]string{string(f.StoreDir)}, f.Shown...) {
		rest, ok := strings.CutPrefix(target, strings.TrimSuffix(dir, "/")+"/")
		if !ok {
			continue
		}
		first, _, _ := strings.Cut(rest, "/")
		if p, err := nix.ParseBaseName(first); err == nil {
			return p, true
		}
	}
	return nix.StorePath{}, false
}

// AddIndirect makes a link anywhere, which must be absolute, a root as long as it leads to a store path: gcroots/auto gets a link to
// it, named as Nix names it. The link is there already: so a collector does not take it for gone.
func AddIndirect(stateDir, link string) error {
	if !filepath.IsAbs(link) {
		return fmt.Errorf("indirect root %q is not an absolute path", link)
	}
	unlock, err := lockAuto(stateDir)
	if err != nil {
		return fmt.Errorf("indirect root %s: %w", link, err)
	}
	defer unlock()
	sum := sha1.Sum([]byte(link)) //nolint:gosec // as above
	name := filepath.Join(stateDir, rootsDir, autoDir, nix.EncodeNix32(sum[:]))
	return replaceLink(link, name)
}

// AddPermanent makes a link to a path of a store anywhere, in place of a link that is there, and makes it an indirect root unless it is
// one below gcroots. It refuses what is not a link.
func AddPermanent(stateDir string, dir nix.StoreDir, p nix.StorePath, link string) error {
	if err := MakeLink(dir.Path(p), dir, link); err != nil {
		return err
	}
	if strings.HasPrefix(link, filepath.Join(stateDir, rootsDir)+"/") {
		return nil
	}
	return AddIndirect(stateDir, link)
}

// MakeLink makes a link to a store path, which AddIndirect may make a root then, with folders to it, in place of a link that is there. It
// refuses what is not a link, and places in the store.
func MakeLink(path string, dir nix.StoreDir, link string) error {
	if !filepath.IsAbs(link) || link != filepath.Clean(link) {
		return fmt.Errorf("permanent root %q is not a clean absolute path", link)
	}
	if strings.HasPrefix(link, string(dir)+"/") {
		return fmt.Errorf("creating a garbage collector root (%s) in the Nix store is forbidden (are you running nix-build inside the store?)", link)
	}
	if info, err := os.Lstat(link); err == nil && info.Mode().Type() != os.ModeSymlink {
		return fmt.Errorf("cannot create root %q: it is there already, and no link", link)
	}
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return fmt.Errorf("permanent root: %w", err)
	}
	return replaceLink(path, link)
}

// Pin makes a path a root, under a name without slashes that List tells and Unpin takes.
func Pin(stateDir, name, target string) error {
	if name == "" || name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		return fmt.Errorf("root name %q must not have slashes or begin with a dot", name)
	}
	return replaceLink(target, filepath.Join(stateDir, rootsDir, pinnedDir, name))
}

// ErrNoRoot says that there is no root of a name.
var ErrNoRoot = errors.New("no such root")

// Unpin takes a root away that Pin made, or, if name is the full name of a link below gcroots, that one.
func Unpin(stateDir, name string) error {
	file := filepath.Join(stateDir, rootsDir, pinnedDir, name)
	if filepath.IsAbs(name) {
		file = filepath.Clean(name)
		if !strings.HasPrefix(file, filepath.Join(stateDir, rootsDir)+"/") {
			return fmt.Errorf("root %s: not below %s", name, filepath.Join(stateDir, rootsDir))
		}
	} else if name != filepath.Base(name) {
		return fmt.Errorf("root %s: %w", name, ErrNoRoot)
	}
	info, err := os.Lstat(file)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("root %s: %w", name, ErrNoRoot)
	}
	if err == nil && info.IsDir() {
		err = errors.New("is a folder")
	}
	if err == nil {
		err = os.Remove(file)
	}
	if err != nil {
		return fmt.Errorf("root %s: %w", name, err)
	}
	return syncDir(filepath.Dir(file))
}

const (
	// newPrefix begins the name of a link that is to replace another one.
	newPrefix = ".narfs-new-"
	// leftAfter is the age at which one is what a crash has left.
	leftAfter = time.Hour
)

// replaceLink makes a link, in place of one that is there, and makes it durable.
func replaceLink(target, name string) error {
	err := os.Symlink(target, name)
	if errors.Is(err, os.ErrExist) {
		temp := filepath.Join(filepath.Dir(name), fmt.Sprintf("%s%016x", newPrefix, rand.Uint64()))
		if err = os.Symlink(target, temp); err == nil {
			if err = os.Rename(temp, name); err != nil {
				_ = os.Remove(temp)
			}
		}
	}
	if err == nil {
		err = syncDir(filepath.Dir(name))
	}
	if err != nil {
		return fmt.Errorf("root: %w", err)
	}
	return nil
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Keep makes a path a root by a link in gcroots/migrated, under a name that may have slashes, in place of one that is there.
// Unpin takes it away by its full name, which is the result.
func Keep(stateDir, name, target string) (link string, err error) {
	if !filepath.IsLocal(name) || filepath.Clean(name) != name || name == "." {
		return "", fmt.Errorf("root name %q is not a clean relative path", name)
	}
	link = filepath.Join(stateDir, rootsDir, migratedDir, name)
	if old, err := os.Readlink(link); err == nil && old == target {
		return link, nil
	}
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return "", fmt.Errorf("root: %w", err)
	}
	return link, replaceLink(target, link)
}
