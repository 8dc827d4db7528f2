package fs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/narfs/narfs/fs"
	"github.com/narfs/narfs/fs/fstest"
)

// mount mounts src somewhere and unmounts it when the test ends.
func mount(t *testing.T, src fs.Source, o fs.Options) *fs.Mount {
	t.Helper()
	if h := fs.Probe(); h.Device != "" {
		t.Skip("no FUSE here: " + h.Device)
	} else if os.Geteuid() != 0 && h.Helper == "" {
		t.Skip("not root, and no fusermount3 here")
	}
	m, err := fs.New(t.Context(), src, t.TempDir(), o)
	if err != nil {
		t.Fatalf("fs.New: %v", err)
	}
	t.Cleanup(func() {
		// Long, because somebody else's new mount namespace holds the mount while it lasts.
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute) //nolint:usetesting // the test's has ended
		defer cancel()
		if err := m.Unmount(ctx); err != nil {
			t.Errorf("Unmount: %v", err)
		}
	})
	return m
}

func TestMountReads(t *testing.T) {
	src := sample()
	for _, helper := range []bool{false, true} {
		t.Run(fmt.Sprintf("helper=%v", helper), func(t *testing.T) {
			if helper && fs.Probe().Helper == "" {
				t.Skip("no fusermount3 here")
			}
			dir := mount(t, src, fs.Options{Helper: helper}).Dir()
			for path, want := range map[string]string{
				hello + "/bin/hello": "#!/bin/sh\necho hello\n", hello + "/bin/hi": "#!/bin/sh\necho hello\n",
				hello + "/share/a": "a", hello + "/share/b": "", file: "just a file\n",
			} {
				if got, err := os.ReadFile(filepath.Join(dir, path)); string(got) != want || err != nil {
					t.Errorf("ReadFile(%s) = %q, %v; want %q", path, got, err, want)
				}
			}
			// By a shell: this process must not start a program that it has to serve itself.
			if out, err := exec.CommandContext(t.Context(), "sh", "-c", filepath.Join(dir, hello, "bin/hi")).CombinedOutput(); string(out) != "hello\n" {
				t.Errorf("running a program in the mount = %q, %v", out, err)
			}
			if got, err := os.Readlink(filepath.Join(dir, link)); got != "/nix/store/somewhere" || err != nil {
				t.Errorf("Readlink = %q, %v", got, err)
			}
			var st unix.Statfs_t
			if err := unix.Statfs(dir, &st); err != nil || st.Namelen != 255 || st.Flags&unix.ST_RDONLY == 0 || st.Flags&unix.ST_NOSUID == 0 {
				t.Errorf("Statfs = %+v, %v; want a read-only, nosuid file system", st, err)
			}
			on, err := fs.Mounts()
			if err != nil {
				t.Error(err)
			}
			found := false
			for _, m := range on {
				found = found || m.Dir == dir && m.Source == "narfs"
			}
			if !found {
				t.Errorf("Mounts() = %v; want %s among them", on, dir)
			}
		})
	}
}

func TestMetadata(t *testing.T) {
	m := mount(t, sample(), fs.Options{})
	var st unix.Stat_t
	for path, want := range map[string]struct {
		mode   uint32
		nlink  uint64
		size   int64
		blocks int64
	}{
		hello:                {unix.S_IFDIR | 0o555, 4, 3, 0},
		hello + "/bin/hello": {unix.S_IFREG | 0o555, 1, 21, 1},
		hello + "/bin/hi":    {unix.S_IFLNK | 0o777, 1, 5, 0},
		file:                 {unix.S_IFREG | 0o444, 1, 12, 1},
	} {
		if err := unix.Lstat(filepath.Join(m.Dir(), path), &st); err != nil {
			t.Fatal(err)
		}
		if st.Mode != want.mode || uint64(st.Nlink) != want.nlink || st.Size != want.size || st.Blocks != want.blocks {
			t.Errorf("Lstat(%s) = %o, %d links, %d bytes, %d blocks; want %+v", path, st.Mode, st.Nlink, st.Size, st.Blocks, want)
		}
		if st.Mtim.Sec != 1 || st.Mtim.Nsec != 0 || st.Ctim.Sec != 1 || st.Uid != uint32(os.Geteuid()) || st.Blksize != 4096 {
			t.Errorf("Lstat(%s) = %+v; want time 1, our user, blocks of 4096", path, st)
		}
	}
	if err := unix.Lstat(filepath.Join(m.Dir(), strings.Repeat("x", 256)), &st); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("Lstat of a name of 256 bytes = %v; want ENAMETOOLONG", err)
	}
	if err := unix.Lstat(filepath.Join(m.Dir(), hello, strings.Repeat("x", 255)), &st); !errors.Is(err, unix.ENOENT) {
		t.Errorf("Lstat of a name of 255 bytes = %v; want ENOENT", err)
	}
}

func TestEveryWriteIsRefused(t *testing.T) {
	dir := mount(t, sample(), fs.Options{XAttr: true}).Dir()
	f, d := filepath.Join(dir, hello, "share/a"), filepath.Join(dir, hello, "share")
	tmp := filepath.Join(t.TempDir(), "tmp")
	if err := os.WriteFile(tmp, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	rw := func(flags int) error {
		fd, err := unix.Open(f, flags, 0o644)
		if err == nil {
			_ = unix.Close(fd)
		}
		return err
	}
	for name, err := range map[string]error{
		"open(O_WRONLY)": rw(unix.O_WRONLY), "open(O_RDWR)": rw(unix.O_RDWR), "open(O_TRUNC)": rw(unix.O_RDONLY | unix.O_TRUNC),
		"creat":    func() error { _, err := unix.Open(d+"/new", unix.O_CREAT|unix.O_WRONLY, 0o644); return err }(),
		"tmpfile":  func() error { _, err := unix.Open(d, unix.O_TMPFILE|unix.O_RDWR, 0o644); return err }(),
		"truncate": unix.Truncate(f, 0), "chmod": unix.Chmod(f, 0o644), "chown": unix.Chown(f, 1, 1), "lchown": unix.Lchown(f, 1, 1),
		"utimes": unix.Utimes(f, make([]unix.Timeval, 2)), "unlink": unix.Unlink(f), "rmdir": unix.Rmdir(d + "/f"),
		"mkdir": unix.Mkdir(d+"/new", 0o755), "mknod": unix.Mknod(d+"/new", unix.S_IFIFO|0o644, 0), "symlink": unix.Symlink("x", d+"/new"),
		"link": unix.Link(f, d+"/new"), "rename": unix.Rename(f, d+"/new"), "setxattr": unix.Setxattr(f, "user.x", []byte("x"), 0),
		"removexattr": unix.Removexattr(f, "user.narfs.node"), "access(W_OK)": unix.Access(f, unix.W_OK),
		"mkdir in the root": unix.Mkdir(dir+"/new", 0o755), "unlink in the root": unix.Unlink(filepath.Join(dir, file)),
	} {
		if !errors.Is(err, unix.EROFS) {
			t.Errorf("%s = %v; want EROFS", name, err)
		}
	}
	if err := unix.Rename(tmp, d+"/new"); !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.EROFS) {
		t.Errorf("rename into the mount = %v; want EROFS or EXDEV", err)
	}
	fd, err := unix.Open(f, unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd) //nolint:errcheck // only read
	for name, err := range map[string]error{
		"write": func() error { _, err := unix.Write(fd, []byte("x")); return err }(), "ftruncate": unix.Ftruncate(fd, 0),
		"fallocate": unix.Fallocate(fd, 0, 0, 10),
	} {
		if err == nil {
			t.Errorf("%s on a descriptor opened for reading worked", name)
		}
	}
	if _, err := unix.Mmap(fd, 0, 4096, unix.PROT_WRITE, unix.MAP_SHARED); !errors.Is(err, unix.EACCES) {
		t.Errorf("shared writable mmap = %v; want EACCES", err)
	}
	if err := unix.Fsync(fd); err != nil {
		t.Errorf("fsync = %v", err)
	}
}

func TestXAttrsMounted(t *testing.T) {
	src := fstest.NewMemory()
	o := fstest.New(fstest.Empty())
	o.Attrs = []fs.XAttr{{Name: "hash", Value: []byte("sha256:abc")}}
	src.Add(hello, o)
	for _, on := range []bool{false, true} {
		path := filepath.Join(mount(t, src, fs.Options{XAttr: on}).Dir(), hello)
		buf := make([]byte, 100)
		n, err := unix.Getxattr(path, "user.narfs.hash", buf)
		if on && (err != nil || string(buf[:n]) != "sha256:abc") {
			t.Errorf("Getxattr = %q, %v; want sha256:abc", buf[:max(n, 0)], err)
		}
		if !on && !errors.Is(err, unix.ENOTSUP) {
			t.Errorf("Getxattr without XAttr = %v; want ENOTSUP", err)
		}
		if n, err = unix.Listxattr(path, buf); on && (err != nil || string(buf[:n]) != "user.narfs.hash\x00") {
			t.Errorf("Listxattr = %q, %v", buf[:max(n, 0)], err)
		}
		if on {
			if _, err := unix.Getxattr(path, "user.other", buf); !errors.Is(err, unix.ENODATA) {
				t.Errorf("Getxattr(user.other) = %v; want ENODATA", err)
			}
		}
	}
}
