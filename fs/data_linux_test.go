package fs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/narfs/narfs/fs"
	"github.com/narfs/narfs/fs/fstest"
)

// manyEntries is a directory of n entries of all types.
func manyEntries(n int) fstest.Node {
	d := fstest.Dir(nil)
	for i := range n {
		name := fmt.Sprintf("entry-%04d", i)
		switch i % 3 {
		case 0:
			d.Dir[name] = fstest.Text(name)
		case 1:
			d.Dir[name] = fstest.Link(name)
		case 2:
			d.Dir[name] = fstest.Empty()
		}
	}
	return d
}

// getdents lists an open directory from its present position.
type dirent struct {
	name string
	ino  uint64
	off  int64
	typ  byte
}

func getdents(t *testing.T, fd, size int) []dirent {
	t.Helper()
	buf := make([]byte, size)
	n, err := unix.Getdents(fd, buf)
	if err != nil {
		t.Fatalf("getdents: %v", err)
	}
	var all []dirent
	for b := buf[:n]; len(b) > 0; {
		reclen := int(b[16]) | int(b[17])<<8
		name, _, _ := bytes.Cut(b[19:reclen], []byte{0})
		var d dirent
		for i := range 8 {
			d.ino |= uint64(b[i]) << (8 * i)
			d.off |= int64(b[8+i]) << (8 * i)
		}
		d.name, d.typ = string(name), b[18]
		all = append(all, d)
		b = b[reclen:]
	}
	return all
}

func TestBigDirectory(t *testing.T) {
	src := fstest.NewMemory()
	src.Add(hello, fstest.New(manyEntries(3000)))
	dir := filepath.Join(mount(t, src, fs.Options{}).Dir(), hello)
	for round := range 3 { // uncached, cached, and mixed with stats
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		var all []dirent
		for {
			part := getdents(t, fd, 5000)
			if len(part) == 0 {
				break
			}
			all = append(all, part...)
			if round == 2 {
				var st unix.Stat_t
				_ = unix.Lstat(filepath.Join(dir, part[0].name), &st)
			}
		}
		if len(all) != 3002 || all[0].name != "." || all[1].name != ".." || all[2].name != "entry-0000" || all[3001].name != "entry-2999" {
			t.Fatalf("round %d: %d entries; want 3002 in order", round, len(all))
		}
		// telldir and seekdir: from the position after any entry, the next one comes.
		for _, k := range []int{3000, 17, 0, 1, 1500, 2, 2999} {
			if _, err := unix.Seek(fd, all[k].off, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			part := getdents(t, fd, 5000)
			if len(part) == 0 || part[0].name != all[k+1].name {
				t.Errorf("round %d: after seeking past %s comes %v; want %s", round, all[k].name, part, all[k+1].name)
			}
		}
		_ = unix.Close(fd)
		for i, d := range all {
			if i%100 > 2 {
				continue
			}
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(dir, d.name), &st); err != nil {
				t.Fatal(err)
			}
			if d.name != ".." && st.Ino != d.ino || byte(st.Mode>>12) != d.typ {
				t.Errorf("%s: getdents says inode %d, type %d; stat %d, %o", d.name, d.ino, d.typ, st.Ino, st.Mode)
			}
		}
	}
}

func TestReadingEverywhere(t *testing.T) {
	want := fstest.Bytes(3<<20+777, 5)
	src := fstest.NewMemory()
	src.FrameSize = 100_000
	src.Add(file, fstest.New(fstest.Node{Data: want}))
	m := mount(t, src, fs.Options{})
	path := filepath.Join(m.Dir(), file)
	// Random reads first, on an empty page cache: what is pushed must be right.
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			f, err := os.Open(path)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close() //nolint:errcheck // only read
			state := uint32(g + 1)
			buf := make([]byte, 70_000)
			for i := range 200 {
				state = state*1664525 + 1013904223
				off := int(state>>4) % len(want)
				n := min(1+int(state>>16)%(1<<(i%17)), len(want)-off)
				if _, err := f.ReadAt(buf[:n], int64(off)); err != nil || !bytes.Equal(buf[:n], want[off:off+n]) {
					t.Errorf("reading %d bytes at %d: %v, or wrong", n, off, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got, err := os.ReadFile(path); !bytes.Equal(got, want) || err != nil {
		t.Errorf("ReadFile = %d bytes, %v; want %d", len(got), err, len(want))
	}
	if !soon(func() bool { return m.Stats().PushedBytes > 0 }) {
		t.Error("nothing was pushed to the page cache")
	}
	if !soon(func() bool { return m.Stats().InFlight == 0 }) { // the kernel reads ahead
		t.Errorf("%d requests are in flight", m.Stats().InFlight)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read
	mem, err := unix.Mmap(int(f.Fd()), 0, len(want), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(mem, want) {
		t.Error("mmap differs")
	}
	if err := unix.Munmap(mem); err != nil {
		t.Error(err)
	}
	for _, tc := range []struct {
		off    int64
		whence int
		want   int64
		err    error
	}{
		{0, unix.SEEK_HOLE, int64(len(want)), nil},
		{100, unix.SEEK_DATA, 100, nil},
		{int64(len(want)), unix.SEEK_DATA, 0, unix.ENXIO},
		{0, io.SeekEnd, int64(len(want)), nil},
	} {
		if got, err := unix.Seek(int(f.Fd()), tc.off, tc.whence); err == nil && got != tc.want || !errors.Is(err, tc.err) {
			t.Errorf("Seek(%d, %d) = %d, %v; want %d, %v", tc.off, tc.whence, got, err, tc.want, tc.err)
		}
	}
	if !soon(func() bool { return src.Spans.Load() == 0 }) { // the pusher has the last ones
		t.Errorf("%d spans were not released", src.Spans.Load())
	}
}

// Reading beyond the end through a mapping is SIGBUS, which only a process of its own survives testing.
func TestMmapBeyondTheEnd(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("no python3 here")
	}
	src := fstest.NewMemory()
	src.Add(file, fstest.New(fstest.Text("short")))
	path := filepath.Join(mount(t, src, fs.Options{}).Dir(), file)
	// ctypes: Python's mmap refuses by itself.
	const script = `import ctypes,os,sys
fd=os.open(sys.argv[1],os.O_RDONLY)
libc=ctypes.CDLL(None); libc.mmap.restype=ctypes.c_void_p
p=libc.mmap(None,ctypes.c_size_t(8192),1,1,fd,ctypes.c_long(0))
assert ctypes.string_at(p,6)==b'short\0'
ctypes.string_at(p+4096,1)`
	err := exec.CommandContext(t.Context(), "python3", "-c", script, path).Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("python3: %v; want death by SIGBUS", err)
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); !ok || ws.Signal() != unix.SIGBUS {
		t.Errorf("python3: %v; want death by SIGBUS", err)
	}
}
