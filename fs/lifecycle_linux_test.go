package fs_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/narfs/narfs/fs"
)

func TestUnmountBusy(t *testing.T) {
	m := mount(t, sample(), fs.Options{})
	f, err := os.Open(filepath.Join(m.Dir(), hello, "bin/hello"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := m.Unmount(ctx); !errors.Is(err, fs.ErrBusy) {
		t.Errorf("Unmount with an open file = %v; want ErrBusy", err)
	}
	if state, err := fs.ProbeDir(t.Context(), m.Dir()); state != fs.DirPlain || err != nil {
		t.Errorf("ProbeDir = %v, %v; want plain", state, err)
	}
	buf := make([]byte, 9)
	if _, err := f.ReadAt(buf, 0); err != nil || string(buf) != "#!/bin/sh" {
		t.Errorf("reading what is still open = %q, %v", buf, err)
	}
	_ = f.Close()
	if err := m.Unmount(t.Context()); err != nil { // waits for the last user
		t.Errorf("Unmount after closing = %v", err)
	}
	select {
	case <-m.Done():
	default:
		t.Error("Done is not closed after Unmount")
	}
	if err := m.Unmount(t.Context()); err != nil {
		t.Errorf("Unmount again = %v", err)
	}
	if n := m.Refs(1); n != 0 {
		t.Errorf("%d references after unmounting", n)
	}
	m.Added("late", 9)
	if err := m.Sync(t.Context()); err != nil {
		t.Errorf("Sync after unmounting = %v", err)
	}
}

func TestUnmountedByOthers(t *testing.T) {
	m := mount(t, sample(), fs.Options{})
	if err := fs.Unmount(t.Context(), m.Dir(), false); err != nil {
		t.Fatal(err)
	}
	m.Wait()
	if err := fs.Unmount(t.Context(), m.Dir(), true); !errors.Is(err, fs.ErrNotMounted) {
		t.Errorf("Unmount of nothing = %v; want ErrNotMounted", err)
	}
	if err := fs.Unmount(t.Context(), "/proc", false); err == nil || errors.Is(err, fs.ErrNotMounted) {
		t.Errorf("Unmount of /proc = %v; want a refusal", err)
	}
}

func TestMountTwice(t *testing.T) {
	m := mount(t, sample(), fs.Options{})
	if _, err := fs.New(t.Context(), sample(), m.Dir(), fs.Options{}); !errors.Is(err, fs.ErrMounted) {
		t.Errorf("mounting over a mount = %v; want ErrMounted", err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(m.Dir(), link); err != nil {
		t.Fatal(err)
	}
	if state, err := fs.ProbeDir(t.Context(), link); state != fs.DirNarfs || err != nil {
		t.Errorf("ProbeDir through a symlink = %v, %v; want narfs", state, err)
	}
	for _, dir := range []string{"", filepath.Join(t.TempDir(), "none"), "/etc/passwd"} {
		if _, err := fs.New(t.Context(), sample(), dir, fs.Options{}); err == nil {
			t.Errorf("mounting on %q worked", dir)
		}
	}
	for _, o := range []fs.Options{{Extra: []string{"rw"}}, {Extra: []string{"auto_unmount"}}, {Extra: []string{"a,b"}}, {Name: "a\nb"}, {Extra: []string{"nonsense"}}} {
		dir := t.TempDir()
		if _, err := fs.New(t.Context(), sample(), dir, o); err == nil {
			t.Errorf("mounting with %+v worked", o)
		}
		if state, _ := fs.ProbeDir(t.Context(), dir); state != fs.DirPlain {
			t.Errorf("after mounting with %+v failed: %v", o, state)
		}
	}
}

func TestExtraOptions(t *testing.T) {
	for _, helper := range []bool{false, true} {
		dir := mount(t, sample(), fs.Options{Helper: helper, Extra: []string{"noexec", "noatime"}, Name: `my, "store"\`}).Dir()
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil || st.Flags&unix.ST_NOEXEC == 0 || st.Flags&unix.ST_NOATIME == 0 {
			t.Errorf("helper %v: Statfs = %#x, %v; want noexec and noatime", helper, st.Flags, err)
		}
		on, err := fs.Mounts()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range on {
			if m.Dir == dir && m.Source != `my, "store"\` {
				t.Errorf("helper %v: the source is %q", helper, m.Source)
			}
		}
	}
}

// Node ids mean something without the kernel remembering them: file handles outlive all caches.
func TestFileHandles(t *testing.T) {
	needRoot(t)
	m := mount(t, sample(), fs.Options{})
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, filepath.Join(m.Dir(), hello, "share/d/e"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Release(1); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Open(m.Dir(), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(at) //nolint:errcheck // only read
	fd, err := unix.OpenByHandleAt(at, handle, unix.O_RDONLY)
	if err != nil {
		t.Fatalf("OpenByHandleAt = %v", err)
	}
	defer unix.Close(fd) //nolint:errcheck // only read
	buf := make([]byte, 10)
	if n, err := unix.Read(fd, buf); string(buf[:n]) != "e" || err != nil {
		t.Errorf("reading by handle = %q, %v; want e", buf[:n], err)
	}
}

func TestRelease(t *testing.T) {
	for name, release := range map[string]func(*fs.Mount, uint32) error{
		"prune": func(m *fs.Mount, slot uint32) error { _, err := m.Release(slot); return err },
		"names": (*fs.Mount).ReleaseNames,
	} {
		t.Run(name, func(t *testing.T) {
			src := sample()
			m := mount(t, src, fs.Options{CaseHack: true})
			f, err := os.Open(filepath.Join(m.Dir(), hello, "share/d/e"))
			if err != nil {
				t.Fatal(err)
			}
			if out, err := exec.CommandContext(t.Context(), "ls", "-lR", m.Dir()).CombinedOutput(); err != nil {
				t.Fatalf("ls: %v: %s", err, out)
			}
			slot := src.Remove(hello)
			m.Removed(hello, slot)
			if err := errors.Join(m.Sync(t.Context()), release(m, slot)); err != nil {
				t.Fatal(err)
			}
			if m.Refs(slot) == 0 {
				t.Error("nothing left of what is open")
			}
			_ = f.Close()
			if err := release(m, slot); err != nil {
				t.Fatal(err)
			}
			if !soon(func() bool { return m.Refs(slot) == 0 }) { // the FORGETs are under way
				t.Errorf("%d references are left", m.Refs(slot))
			}
		})
	}
}

func TestParseMountinfo(t *testing.T) {
	for line, want := range map[string]fs.Mounted{
		`36 35 98:0 / /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`:       {Dir: "/mnt2", Device: "98:0", Type: "ext3", Source: "/dev/root"},
		`40 35 0:45 / /a\040b\134c ro - fuse.narfs my\040store ro,user_id=0`:               {Dir: `/a b\c`, Device: "0:45", Type: "fuse.narfs", Source: "my store"},
		`41 35 0:46 / /x rw shared:2 master:3 propagate_from:2 unbindable - tmpfs none rw`: {Dir: "/x", Device: "0:46", Type: "tmpfs", Source: "none"},
	} {
		got, ok := fs.ParseMountinfo(line)
		if diff := cmp.Diff(want, got); !ok || diff != "" {
			t.Errorf("parseMountinfo(%q) = %v (-want +got):\n%s", line, ok, diff)
		}
	}
	for _, line := range []string{"", "36 35 98:0 / /mnt2 rw", "36 - ext3 x y"} {
		if got, ok := fs.ParseMountinfo(line); ok {
			t.Errorf("parseMountinfo(%q) = %v; want nothing", line, got)
		}
	}
}
