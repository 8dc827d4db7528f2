package fs

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Nothing in this file has ever run on a Mac. It is written after macFUSE's documentation and what go-fuse does.

const (
	canPush      = false // macFUSE takes no notifies from go-fuse
	capNoOpenDir = 0
)

func extraCapabilities(o *Options) uint64 {
	if o.CaseInsensitive {
		// Only says so to those who ask the volume; the lookups are folded by us.
		return fuse.CAP_CASE_INSENSITIVE
	}
	return 0
}

// helperOptions are those of mount_macfuse: no ._ files, nothing for Finder and Spotlight to do. negative_vncache is
// not among them: without notifies, a path that was asked for too early would stay absent for ever.
func helperOptions(o *Options) []string {
	options := []string{"rdonly", "default_permissions", "volname=" + o.Name, "noappledouble", "noapplexattr", "nobrowse"}
	return append(options, o.Extra...)
}

// attach leaves the mounting to go-fuse, which knows macFUSE's helper.
func attach(_ context.Context, dir string, _ *Options) (target string, err error) { return dir, nil }

// detachAfter: nothing is certain to be mounted.
func detachAfter(ctx context.Context, _, dir string) error {
	if at, err := mountedAt(dir); err != nil || !at.fuse() {
		return err
	}
	return detach(ctx, dir, true)
}

// detach unmounts what is mounted at dir; by force, also if it is in use or dead.
func detach(_ context.Context, dir string, lazy bool) error {
	flags := 0
	if lazy {
		flags = unix.MNT_FORCE
	}
	return os.NewSyscallError("unmount", unix.Unmount(dir, flags))
}

func (m *Mount) settle(conn *fuse.Server, _ string) error {
	if err := conn.WaitMount(); err != nil {
		return err
	}
	at, err := mountedAt(m.dir)
	m.id = at.Device
	return err
}

// Mounts returns everything that narfs has mounted.
func Mounts() ([]Mounted, error) {
	n, err := unix.Getfsstat(nil, unix.MNT_NOWAIT)
	if err != nil {
		return nil, os.NewSyscallError("getfsstat", err)
	}
	table := make([]unix.Statfs_t, n+8)
	if n, err = unix.Getfsstat(table, unix.MNT_NOWAIT); err != nil {
		return nil, os.NewSyscallError("getfsstat", err)
	}
	var ours []Mounted
	for i := range table[:min(n, len(table))] {
		if m := fromStatfs(&table[i]); m.Narfs() {
			ours = append(ours, m)
		}
	}
	return ours, nil
}

// Narfs says whether narfs mounted it. macFUSE has no subtypes, so it goes by the name.
func (m Mounted) Narfs() bool { return m.fuse() && strings.HasPrefix(m.Source, fsType) }

func (m Mounted) fuse() bool { return m.Type == "macfuse" || m.Type == "osxfuse" }

func mountedAt(dir string) (Mounted, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); isDead(err) {
		return Mounted{Dir: dir, Device: deadDevice, Type: "macfuse"}, nil
	} else if err != nil {
		return Mounted{}, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if m := fromStatfs(&st); m.Dir == dir {
		return m, nil
	}
	return Mounted{}, nil
}

func fromStatfs(st *unix.Statfs_t) Mounted {
	return Mounted{
		Dir: unix.ByteSliceToString(st.Mntonname[:]), Device: fmt.Sprint(st.Fsid.Val),
		Type: unix.ByteSliceToString(st.Fstypename[:]), Source: unix.ByteSliceToString(st.Mntfromname[:]),
	}
}

func ask(dir string) error {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st)
}

func deadErrors() []error { return []error{syscall.ENXIO, syscall.ENOTCONN, syscall.EIO} }

// Probe says what is there for mounting.
func Probe() Host {
	const helper = "/Library/Filesystems/macfuse.fs/Contents/Resources/mount_macfuse"
	if _, err := os.Stat(helper); err != nil {
		return Host{Device: "macFUSE is not installed: " + err.Error(), UserAllowOther: true}
	}
	return Host{Helper: helper, UserAllowOther: true}
}
