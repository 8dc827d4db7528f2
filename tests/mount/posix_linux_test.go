//nolint:thelper // what takes a *testing.T here is a test of TestPosix's table, whose lines matter
package mount_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/narfs/narfs/tests/env"
)

// posixTree makes the tree that TestPosix knows.
func posixTree(t *testing.T, dir string) string {
	t.Helper()
	for i := range 3000 {
		name := filepath.Join(dir, "many", fmt.Sprintf("entry-%04d", i))
		switch i % 3 {
		case 0:
			write(t, name, name, 0o644)
		case 1:
			if err := os.Symlink(name, name); err != nil {
				t.Fatal(err)
			}
		case 2:
			mkdir(t, name)
		}
	}
	write(t, filepath.Join(dir, "file"), strings.Repeat("abcxyz\n", 1024), 0o644)
	write(t, filepath.Join(dir, "large"), strings.Repeat("a large file\n", 100_000), 0o755)
	write(t, filepath.Join(dir, "short"), "short", 0o644)
	write(t, filepath.Join(dir, "empty"), "", 0o644)
	write(t, filepath.Join(dir, strings.Repeat("n", 255)), "name", 0o644)
	for i := range 5 {
		write(t, filepath.Join(dir, "dirs", fmt.Sprintf("dir%d", i), "file"), "x", 0o644)
	}
	write(t, filepath.Join(dir, "dirs", "file"), "x", 0o644)
	for _, n := range []int{1, 255, 256, 300, 1000, 4095} {
		if err := os.Symlink(strings.Repeat("t", n), filepath.Join(dir, fmt.Sprintf("link%d", n))); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestPosix: what a read-only file system owes to programs. The names are those of go-fuse's posixtest, whose tests write
// first, and are run on an overlay by the tests of package fs.
func TestPosix(t *testing.T) {
	env.Require(t, env.Fuse())
	tree := posixTree(t, mkdir(t, env.Dir(t), "tree"))
	store := env.NewStore(t)
	path := filepath.Join(store.Mount("-o", "xattr").Dir, add(t, store, tree))
	for name, test := range map[string]func(t *testing.T, path string){
		"DirSeek":             dirSeek,
		"ReadDirBasic":        readDirBasic,
		"ReadDirConsistency":  readDirConsistency,
		"ParallelFileOpen":    parallelFileOpen,
		"FileBasic":           fileBasic,
		"FileLarge":           fileLarge,
		"DirectIO":            directIO,
		"OpenAt":              openAt,
		"LseekHoleSeeksToEOF": lseek,
		"SymlinkReadlink":     readlink,
		"FlockSet":            flock,
		"Names":               names,
		"Links":               links,
		"Blocks":              blocks,
		"MmapBeyondTheEnd":    mmapBeyond,
		"EROFS":               erofs,
	} {
		t.Run(name, func(t *testing.T) { test(t, path) })
	}
}

// dirent is what getdents64 tells of an entry.
type dirent struct {
	ino  uint64
	next int64 // where the entry behind it is
	kind uint8
	name string
}

// getdents reads entries from where the directory stands, all or as many as fit into some bytes.
func getdents(t *testing.T, fd, size int, all bool) (list []dirent) {
	t.Helper()
	buf := make([]byte, size)
	for {
		n, err := unix.Getdents(fd, buf)
		if err != nil {
			t.Fatalf("getdents = %v", err)
		}
		for b := buf[:n]; len(b) > 0; {
			length := binary.NativeEndian.Uint16(b[16:])
			name, _, _ := bytes.Cut(b[19:length], []byte{0})
			list = append(list, dirent{binary.NativeEndian.Uint64(b), int64(binary.NativeEndian.Uint64(b[8:])), b[18], string(name)})
			b = b[length:]
		}
		if n == 0 || !all {
			return list
		}
	}
}

func openDir(t *testing.T, dir string) int {
	t.Helper()
	return openFD(t, dir, unix.O_RDONLY|unix.O_DIRECTORY)
}

func openFD(t *testing.T, name string, flags int) int {
	t.Helper()
	fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open(%s) = %v", name, err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func lstat(t *testing.T, name string) (st unix.Stat_t) {
	t.Helper()
	if err := unix.Lstat(name, &st); err != nil {
		t.Fatalf("lstat(%s) = %v", name, err)
	}
	return st
}

// dirSeek: from the position that telldir gives behind any entry, seekdir leads to the next one.
func dirSeek(t *testing.T, path string) {
	fd := openDir(t, filepath.Join(path, "many"))
	all := getdents(t, fd, 4096, true)
	if len(all) != 3002 {
		t.Fatalf("getdents gave %d entries; want 3002", len(all))
	}
	for i, want := range slices.Backward(all) {
		pos := int64(0)
		if i > 0 {
			pos = all[i-1].next
		}
		if _, err := unix.Seek(fd, pos, io.SeekStart); err != nil {
			t.Fatalf("seek to %d = %v", pos, err)
		}
		if got := getdents(t, fd, 4096, false); len(got) == 0 || got[0] != want {
			t.Fatalf("at %d comes %v; want %v", pos, got[:min(1, len(got))], want)
		}
	}
}

// readDirBasic: what a directory tells of its entries is what stat tells of them.
func readDirBasic(t *testing.T, path string) {
	dir := filepath.Join(path, "many")
	for _, d := range getdents(t, openDir(t, dir), 32<<10, true) {
		st := lstat(t, dir+"/"+d.name)
		if d.ino != st.Ino || uint32(d.kind) != st.Mode>>12 {
			t.Errorf("getdents tells of %q inode %#x and type %d; stat %#x and mode %#o", d.name, d.ino, d.kind, st.Ino, st.Mode)
		}
	}
}

// readDirConsistency: everybody sees the same, however much he asks for at once.
func readDirConsistency(t *testing.T, path string) {
	dir := filepath.Join(path, "many")
	want := getdents(t, openDir(t, dir), 32<<10, true)
	var readers sync.WaitGroup
	for _, size := range []int{300, 1000, 4096, 32 << 10, 1 << 20} {
		fd := openDir(t, dir)
		readers.Go(func() {
			if got := getdents(t, fd, size, true); !reflect.DeepEqual(got, want) {
				t.Errorf("with a buffer of %d bytes there are %d other entries; want %d", size, len(got), len(want))
			}
		})
	}
	readers.Wait()
}

func parallelFileOpen(t *testing.T, path string) {
	var openers sync.WaitGroup
	for range 50 {
		openers.Go(func() {
			for range 20 {
				if b, err := os.ReadFile(filepath.Join(path, "short")); err != nil || string(b) != "short" {
					t.Errorf("ReadFile = %q, %v; want short", b, err)
				}
			}
		})
	}
	openers.Wait()
}

func fileBasic(t *testing.T, path string) {
	st := lstat(t, filepath.Join(path, "short"))
	if st.Mode != unix.S_IFREG|0o444 || st.Size != 5 || st.Nlink != 1 || st.Mtim.Sec != 1 || st.Mtim.Nsec != 0 {
		t.Errorf("lstat of a file = %+v", st)
	}
	if st = lstat(t, filepath.Join(path, "large")); st.Mode != unix.S_IFREG|0o555 {
		t.Errorf("the mode of a program is %#o; want 0555", st.Mode)
	}
	for name, mode := range map[string]uint32{"short": unix.R_OK, "large": unix.R_OK | unix.X_OK, "dirs": unix.R_OK | unix.X_OK} {
		if err := unix.Access(filepath.Join(path, name), mode); err != nil {
			t.Errorf("access(%s, %d) = %v", name, mode, err)
		}
	}
	if err := unix.Access(filepath.Join(path, "short"), unix.X_OK); !errors.Is(err, unix.EACCES) {
		t.Errorf("access(short, X_OK) = %v; want EACCES", err)
	}
}

func fileLarge(t *testing.T, path string) {
	want := strings.Repeat("a large file\n", 100_000)
	if got, err := os.ReadFile(filepath.Join(path, "large")); err != nil || string(got) != want {
		t.Errorf("ReadFile = %d bytes, %v; want %d others", len(got), err, len(want))
	}
}

// directIO goes past the page cache, also at the end and behind it.
func directIO(t *testing.T, path string) {
	want := strings.Repeat("a large file\n", 100_000)
	fd := openFD(t, filepath.Join(path, "large"), unix.O_RDONLY|unix.O_DIRECT)
	for _, off := range []int{0, 4096, 128 << 10, 1 << 20, len(want) &^ 511, (len(want) + 4096) &^ 4095} {
		got := make([]byte, 256<<10)
		n, err := unix.Pread(fd, got, int64(off))
		if rest := want[min(off, len(want)):]; err != nil || string(got[:max(n, 0)]) != rest[:min(len(rest), len(got))] {
			t.Errorf("pread at %d with O_DIRECT = %d, %v, or other bytes; want %d", off, n, err, min(len(rest), len(got)))
		}
	}
}

func openAt(t *testing.T, path string) {
	dir := openDir(t, filepath.Join(path, "dirs"))
	fd, err := unix.Openat(dir, "dir3/file", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("openat = %v", err)
	}
	_ = unix.Close(fd)
	how := &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH}
	if fd, err = unix.Openat2(dir, "../short", how); !errors.Is(err, unix.EXDEV) {
		t.Errorf("openat2 beneath a directory = %d, %v; want EXDEV", fd, err)
	}
	for name, want := range map[string]error{
		"nothing": unix.ENOENT, "file/x": unix.ENOTDIR, "nothing/x": unix.ENOENT, "": unix.ENOENT,
	} {
		if _, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0); !errors.Is(err, want) {
			t.Errorf("openat(%q) = %v; want %v", name, err, want)
		}
	}
	if _, err := unix.Open(filepath.Join(path, "link1"), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); !errors.Is(err, unix.ELOOP) {
		t.Errorf("open of a link with O_NOFOLLOW = %v; want ELOOP", err)
	}
}

// lseek: files have no holes but the one behind their end.
func lseek(t *testing.T, path string) {
	const size = 7 * 1024
	fd := openFD(t, filepath.Join(path, "file"), unix.O_RDONLY)
	for _, tc := range []struct {
		off    int64
		whence int
		want   int64
		err    error
	}{
		{0, unix.SEEK_HOLE, size, nil},
		{1000, unix.SEEK_HOLE, size, nil},
		{0, unix.SEEK_DATA, 0, nil},
		{1000, unix.SEEK_DATA, 1000, nil},
		{size, unix.SEEK_DATA, 0, unix.ENXIO},
		{size + 1, unix.SEEK_DATA, 0, unix.ENXIO},
		{size + 1, unix.SEEK_HOLE, 0, unix.ENXIO},
		{0, io.SeekEnd, size, nil},
		{-1, io.SeekStart, 0, unix.EINVAL},
	} {
		if got, err := unix.Seek(fd, tc.off, tc.whence); !errors.Is(err, tc.err) || err == nil && got != tc.want {
			t.Errorf("lseek(%d, %d) = %d, %v; want %d, %v", tc.off, tc.whence, got, err, tc.want, tc.err)
		}
	}
}

func readlink(t *testing.T, path string) {
	for _, n := range []int{1, 255, 256, 300, 1000, 4095} {
		name, want := filepath.Join(path, fmt.Sprintf("link%d", n)), strings.Repeat("t", n)
		buf := make([]byte, 5000)
		got, err := unix.Readlink(name, buf)
		if err != nil || string(buf[:max(got, 0)]) != want {
			t.Errorf("readlink of %d bytes = %d, %v, or others", n, got, err)
		}
		if st := lstat(t, name); st.Size != int64(n) || st.Mode != unix.S_IFLNK|0o777 {
			t.Errorf("lstat of a link of %d bytes = size %d, mode %#o", n, st.Size, st.Mode)
		}
	}
	if _, err := unix.Readlink(filepath.Join(path, "short"), make([]byte, 10)); !errors.Is(err, unix.EINVAL) {
		t.Errorf("readlink of a file = %v; want EINVAL", err)
	}
}

// flock: who waits for others by a lock on a file can do so, as programs do that take turns.
func flock(t *testing.T, path string) {
	name := filepath.Join(path, "file")
	one, other := openFD(t, name, unix.O_RDONLY), openFD(t, name, unix.O_RDONLY)
	for _, tc := range []struct {
		fd, how int
		want    error
	}{
		{one, unix.LOCK_EX, nil},
		{other, unix.LOCK_SH, unix.EWOULDBLOCK},
		{one, unix.LOCK_UN, nil},
		{other, unix.LOCK_SH, nil},
		{one, unix.LOCK_SH, nil},
	} {
		if err := unix.Flock(tc.fd, tc.how|unix.LOCK_NB); !errors.Is(err, tc.want) {
			t.Errorf("flock(%d, %d) = %v; want %v", tc.fd, tc.how, err, tc.want)
		}
	}
}

func names(t *testing.T, path string) {
	var st unix.Stat_t
	for dir := range map[string]bool{path: true, filepath.Dir(path): true, filepath.Join(path, "many"): true} {
		if err := unix.Lstat(filepath.Join(dir, strings.Repeat("x", 256)), &st); !errors.Is(err, unix.ENAMETOOLONG) {
			t.Errorf("lstat of a name of 256 bytes in %s = %v; want ENAMETOOLONG", dir, err)
		}
		if err := unix.Lstat(filepath.Join(dir, strings.Repeat("x", 255)), &st); !errors.Is(err, unix.ENOENT) {
			t.Errorf("lstat of a name of 255 bytes in %s = %v; want ENOENT", dir, err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(path, strings.Repeat("n", 255))); string(b) != "name" {
		t.Errorf("a file with a name of 255 bytes reads %q, %v; want name", b, err)
	}
	if err := unix.Lstat(path+strings.Repeat("/many/..", 600), &st); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("lstat of a path of 4800 bytes = %v; want ENAMETOOLONG", err)
	}
}

// links: a directory has two, and one for each in it; find relies on that.
func links(t *testing.T, path string) {
	for name, want := range map[string]uint64{"dirs": 7, "dirs/dir1": 2, "many": 1002, "": 4, "file": 1, "link1": 1} {
		got := lstat(t, filepath.Join(path, name)).Nlink
		if uint64(got) != want { //nolint:unconvert // it has 32 bits on arm64
			t.Errorf("%q has %d links; want %d", name, got, want)
		}
	}
}

// blocks: du tells what the files would need on a disk.
func blocks(t *testing.T, path string) {
	for _, name := range []string{"file", "large", "short", "empty", "link4095", "dirs"} {
		st := lstat(t, filepath.Join(path, name))
		want := (st.Size + 511) / 512
		if st.Mode&unix.S_IFMT != unix.S_IFREG {
			want = 0
		}
		if st.Blocks != want || st.Blksize != 4096 {
			t.Errorf("%s of %d bytes has %d blocks, block size %d; want %d and 4096", name, st.Size, st.Blocks, st.Blksize, want)
		}
	}
}

// mmapBeyond: the rest of a file's last page is zero, and behind it there is nothing.
func mmapBeyond(t *testing.T, path string) {
	page := os.Getpagesize()
	fd := openFD(t, filepath.Join(path, "short"), unix.O_RDONLY)
	mem, err := unix.Mmap(fd, 0, 2*page, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatalf("mmap = %v", err)
	}
	defer unix.Munmap(mem) //nolint:errcheck // it is mapped
	if want := append([]byte("short"), make([]byte, page-5)...); !bytes.Equal(mem[:page], want) {
		t.Errorf("the only page of a short file is %q…; want it and zeros", mem[:10])
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // of SIGBUS
	defer func() {
		if err, ok := recover().(interface{ Addr() uintptr }); !ok || err.Addr() != uintptr(unsafe.Pointer(&mem[page])) {
			t.Errorf("reading a page behind the end = %v; want SIGBUS there", err)
		}
	}()
	t.Errorf("a page behind the end begins with %d", mem[page])
}

// erofs: everything that writes is refused for what the file system is, not for want of rights.
func erofs(t *testing.T, path string) {
	file, dir, link := filepath.Join(path, "file"), filepath.Join(path, "dirs"), filepath.Join(path, "link1")
	at := openDir(t, dir)
	open := func(name string, flags int) error {
		fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0o644)
		if err == nil {
			_ = unix.Close(fd)
		}
		return err
	}
	for name, err := range map[string]error{
		"open(O_WRONLY)":        open(file, unix.O_WRONLY),
		"open(O_RDWR)":          open(file, unix.O_RDWR),
		"open(O_APPEND)":        open(file, unix.O_WRONLY|unix.O_APPEND),
		"open(O_TRUNC)":         open(file, unix.O_RDONLY|unix.O_TRUNC),
		"open(O_CREAT)":         open(filepath.Join(dir, "new"), unix.O_RDONLY|unix.O_CREAT),
		"open(O_TMPFILE)":       open(dir, unix.O_RDWR|unix.O_TMPFILE),
		"truncate":              unix.Truncate(file, 0),
		"chmod":                 unix.Chmod(file, 0o644),
		"fchmodat":              unix.Fchmodat(at, "file", 0o644, 0),
		"chown":                 unix.Chown(file, 1, 1),
		"lchown":                unix.Lchown(link, 1, 1),
		"utimensat":             unix.UtimesNanoAt(at, "file", []unix.Timespec{{}, {}}, 0),
		"lutimes":               unix.Lutimes(link, []unix.Timeval{{}, {}}),
		"unlink":                unix.Unlink(file),
		"unlink of a link":      unix.Unlink(link),
		"rmdir":                 unix.Rmdir(filepath.Join(dir, "dir0")),
		"mkdir":                 unix.Mkdir(filepath.Join(dir, "new"), 0o755),
		"mkdirat":               unix.Mkdirat(at, "new", 0o755),
		"mknod":                 unix.Mknod(filepath.Join(dir, "new"), unix.S_IFIFO|0o644, 0),
		"symlink":               unix.Symlink("x", filepath.Join(dir, "new")),
		"link":                  unix.Link(file, filepath.Join(dir, "new")),
		"rename":                unix.Rename(file, filepath.Join(dir, "new")),
		"renameat2(EXCHANGE)":   unix.Renameat2(at, "dir0", at, "dir1", unix.RENAME_EXCHANGE),
		"setxattr":              unix.Setxattr(file, "user.x", []byte("x"), 0),
		"lsetxattr":             unix.Lsetxattr(link, "trusted.x", []byte("x"), 0),
		"removexattr":           unix.Removexattr(path, "user.narfs.hash"),
		"access(W_OK)":          unix.Access(file, unix.W_OK),
		"access(W_OK) of a dir": unix.Access(dir, unix.W_OK),
		"mkdir in the root":     unix.Mkdir(filepath.Join(filepath.Dir(path), "new"), 0o755),
		"rmdir of a path":       unix.Rmdir(path),
		"rename of a path":      unix.Rename(path, path+"2"),
		"chmod of the root":     unix.Chmod(filepath.Dir(path), 0o700),
	} {
		if !errors.Is(err, unix.EROFS) {
			t.Errorf("%s = %v; want EROFS", name, err)
		}
	}
	fd := openFD(t, file, unix.O_RDONLY)
	if _, err := unix.Mmap(fd, 0, 4096, unix.PROT_WRITE, unix.MAP_SHARED); !errors.Is(err, unix.EACCES) {
		t.Errorf("mmap for writing = %v; want EACCES", err)
	}
}
