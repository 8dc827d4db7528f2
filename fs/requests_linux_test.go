package fs_test

import (
	"bytes"
	"fmt"
	"io"
	iofs "io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/narfs/narfs/fs"
	"github.com/narfs/narfs/fs/fstest"
)

const (
	manyDirs  = 40
	manyFiles = 25 // in each
	manyLinks = 5  // in each
)

// many is a store path with directories, files and links.
func many() *fstest.Memory {
	top := fstest.Dir(nil)
	for d := range manyDirs {
		dir := fstest.Dir(nil)
		for f := range manyFiles {
			dir.Dir[fmt.Sprintf("file-%02d", f)] = fstest.Node{Data: fstest.Bytes(100*f, byte(d))}
		}
		for l := range manyLinks {
			dir.Dir[fmt.Sprintf("link-%02d", l)] = fstest.Link("file-00")
		}
		top.Dir[fmt.Sprintf("dir-%02d", d)] = dir
	}
	src := fstest.NewMemory()
	src.Add(hello, fstest.New(top))
	return src
}

// requests returns what a command made the kernel ask.
func requests(t *testing.T, m *fs.Mount, command ...string) map[string]int64 {
	t.Helper()
	before := m.Stats().Requests
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
	cmd.Stdout = io.Discard
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v", command, err)
	}
	asked := m.Stats().Requests
	for name, n := range before {
		if asked[name] -= n; asked[name] == 0 {
			delete(asked, name)
		}
	}
	delete(asked, "FORGET") // when the kernel likes
	return asked
}

func sum(counts map[string]int64) (n int64) {
	for c := range maps.Values(counts) {
		n += c
	}
	return n
}

// The kernel asks twice for every directory (once for the end), once for every link, and then never again. Each of
// these commands took 10 to 300 requests a directory before the measures that fuseOptions and Open take.
func TestRequestCounts(t *testing.T) {
	const dirs = manyDirs + 2
	src := many()
	for _, tc := range []struct {
		command []string
		most    int64 // requests on a fresh mount
	}{
		{[]string{"find"}, 2*dirs + dirs},
		{[]string{"ls", "-lR"}, 2*dirs + dirs + manyDirs*manyLinks},
		{[]string{"du", "-s"}, 2*dirs + dirs},
		{[]string{"find", "-size", "+1"}, 2*dirs + dirs},
		{[]string{"sh", "-c", `cat "$0"/*/dir-1*/file-*`}, 2*dirs + dirs + 10*manyFiles},
	} {
		m := mount(t, src, fs.Options{})
		command := []string{tc.command[0]}
		if command[0] == "find" { // the path comes first
			command = append(append(command, m.Dir()), tc.command[1:]...)
		} else {
			command = append(append(command, tc.command[1:]...), m.Dir())
		}
		cold := requests(t, m, command...)
		if n := sum(cold); n > tc.most {
			t.Errorf("%v asked %d times: %v; want at most %d", tc.command, n, cold, tc.most)
		}
		warm := requests(t, m, command...)
		if n := sum(warm); n > 4 {
			t.Errorf("%v again asked %d times: %v; want about none", tc.command, n, warm)
		}
		t.Logf("%v: %v, then %v", tc.command, cold, warm)
	}
}

// Open, close, stat and what is absent are free once known.
func TestWarmIsFree(t *testing.T) {
	m := mount(t, many(), fs.Options{})
	var paths []string
	err := filepath.WalkDir(m.Dir(), func(path string, d iofs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil || len(paths) != manyDirs*manyFiles {
		t.Fatalf("WalkDir: %d files, %v", len(paths), err)
	}
	round := func() {
		for _, path := range paths {
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil {
				t.Fatal(err)
			}
			if err := unix.Lstat(path+".absent", &st); err != unix.ENOENT {
				t.Fatal(err)
			}
			if _, err := os.ReadFile(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	round()
	var before, after fs.Stats
	for range 5 { // the kernel may drop what it has cached whenever it likes, if seldom
		before = m.Stats()
		round()
		if after = m.Stats(); maps.Equal(before.Requests, after.Requests) {
			break
		}
	}
	for name, n := range after.Requests {
		if n != before.Requests[name] {
			t.Errorf("a later round asked %s %d times", name, n-before.Requests[name])
		}
	}
	if after.Requests["OPEN"] > 1 || after.Requests["OPENDIR"] > 1 || after.Requests["FLUSH"] > 1 {
		t.Errorf("opens were asked for: %v", after.Requests)
	}
}

// A random reader of a file causes one request for each frame, not one for each page.
func TestRandomReadsDecodeFramesOnce(t *testing.T) {
	const frame, frames, perFrame = 64 << 10, 32, 16
	src := fstest.NewMemory()
	src.FrameSize = frame
	src.Add(file, fstest.New(fstest.Node{Data: fstest.Bytes(frame*frames, 3)}))
	m := mount(t, src, fs.Options{})
	f, err := os.Open(filepath.Join(m.Dir(), file))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	page := func(frame, page int) {
		if _, err := f.ReadAt(buf, int64(frame*perFrame+page)*4096); err != nil {
			t.Fatal(err)
		}
	}
	for frame := range frames {
		page(frame, frame*7%perFrame)
		for src.Spans.Load() > 0 {
			time.Sleep(100 * time.Microsecond) // until the rest is pushed
		}
		for k := range perFrame {
			page(frame, (k*5+3)%perFrame)
		}
	}
	if n := m.Stats().Requests["READ"]; n != frames {
		t.Errorf("%d READs for %d frames", n, frames)
	}
}

// Who listed a directory and reads one of its small files gets the others without asking; who did not, asks for each.
func TestOtherFilesOfAFrame(t *testing.T) {
	src := many()
	const content = manyDirs * 100 * manyFiles * (manyFiles - 1) / 2
	const frames = content/(128<<10) + 1
	for _, listed := range []bool{true, false} {
		m := mount(t, src, fs.Options{})
		if listed {
			requests(t, m, "find", m.Dir())
		}
		for d := range manyDirs {
			for f := range manyFiles {
				path := filepath.Join(m.Dir(), hello, fmt.Sprintf("dir-%02d/file-%02d", d, f))
				if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, fstest.Bytes(100*f, byte(d))) {
					t.Fatalf("ReadFile(%s) = %d bytes, %v, or wrong ones", path, len(got), err)
				}
				for src.Spans.Load() > 0 {
					time.Sleep(100 * time.Microsecond) // until the rest is pushed
				}
			}
		}
		s := m.Stats()
		// Each file that stands in two frames is asked for itself.
		if n := s.Requests["READ"]; listed && n > 3*frames {
			t.Errorf("listed: %d READs for %d frames", n, frames)
		} else if !listed && n != manyDirs*(manyFiles-1) { // one of each directory is empty
			t.Errorf("not listed: %d READs for %d files", n, manyDirs*(manyFiles-1))
		}
		t.Logf("listed %v: %d READs for %d frames, %d bytes pushed", listed, s.Requests["READ"], frames, s.PushedBytes)
	}
}
