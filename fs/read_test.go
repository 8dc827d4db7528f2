package fs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/narfs/narfs/fs"
	"github.com/narfs/narfs/fs/fstest"
	"github.com/narfs/narfs/nar"
)

// readAll reads a file in requests of n bytes.
func readAll(s *fs.Server, node uint64, n int) ([]byte, fuse.Status) {
	var all []byte
	for {
		in := &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: node}, Offset: uint64(len(all)), Size: uint32(n)}
		res, st := s.Read(nil, in, make([]byte, n))
		if st != fuse.OK {
			return all, st
		}
		part, st := res.Bytes(nil)
		all = append(all, part...)
		res.Done()
		if st != fuse.OK || len(part) == 0 {
			return all, st
		}
	}
}

func TestRead(t *testing.T) {
	m := fstest.NewMemory()
	m.FrameSize = 10000 // no multiple of anything
	want := fstest.Bytes(300_001, 1)
	slot := m.Add(file, fstest.New(fstest.Dir(map[string]fstest.Node{"f": {Data: want}, "empty": {}})))
	s, kernel := newServer(t, m, fs.Options{}, allFlags)
	f := walk(t, s, file+"/f")
	for _, n := range []int{4096, 1 << 16, 1 << 17, 1 << 20} {
		if got, st := readAll(s, f, n); !bytes.Equal(got, want) || st != fuse.OK {
			t.Errorf("read by %d = %d bytes, %v; want %d", n, len(got), st, len(want))
		}
	}
	if got, st := readAll(s, walk(t, s, file+"/empty"), 4096); len(got) != 0 || st != fuse.OK {
		t.Errorf("read of an empty file = %d bytes, %v", len(got), st)
	}
	for _, tc := range []struct {
		node uint64
		want fuse.Status
	}{{walk(t, s, file), fuse.EISDIR}, {77<<32 | 1, fuse.Status(syscall.ESTALE)}, {1, fuse.Status(syscall.ESTALE)}} {
		if _, st := readAll(s, tc.node, 4096); st != tc.want {
			t.Errorf("read of node %#x = %v; want %v", tc.node, st, tc.want)
		}
	}
	if !soon(func() bool { return s.Pushed() > 0 }) {
		t.Error("nothing was pushed")
	}
	s.Close() // with whatever is still to be pushed
	if n := m.Spans.Load(); n != 0 {
		t.Errorf("%d spans were not released", n)
	}
	// What was pushed is what the file holds there, on page boundaries.
	pushed := int64(0)
	for _, st := range kernel.stores {
		if st.node != f || st.off%4096 != 0 || st.data != string(want[st.off:st.off+int64(len(st.data))]) {
			t.Errorf("pushed %d wrong bytes at %d of node %#x", len(st.data), st.off, st.node)
		}
		if end := st.off + int64(len(st.data)); end%4096 != 0 && end != int64(len(want)) {
			t.Errorf("pushed up to %d, within a page", end)
		}
		pushed += int64(len(st.data))
	}
	if pushed != s.Pushed() {
		t.Errorf("pushed %d bytes, counted %d", pushed, s.Pushed())
	}
	_ = slot
}

func TestPushRest(t *testing.T) {
	data := fstest.Bytes(3*4096+100, 1)
	for _, tc := range []struct {
		size, start, from, to int64
		want                  [4]int64 // left from, to; right from, to (in the file); 0, 0 is nothing
	}{
		{1 << 20, 0, 0, 4096, [4]int64{0, 0, 4096, 12288}},
		{1 << 20, 0, 4096, 8192, [4]int64{0, 4096, 8192, 12288}},
		{12388, 0, 0, 4096, [4]int64{0, 0, 4096, 12388}},        // up to the end of the file
		{1 << 20, 100, 3996, 8092, [4]int64{0, 0, 8192, 12288}}, // first page begins before the frame
		{12388, 0, 8192, 12388, [4]int64{0, 8192, 0, 0}},
		{12388, 0, 0, 12388, [4]int64{}},
	} {
		var got [4]int64
		l, r, ld, rd := fs.PushRest(tc.size, tc.start, data, tc.from, tc.to)
		if len(ld) > 0 {
			got[0], got[1] = l, l+int64(len(ld))
			if !bytes.Equal(ld, data[l-tc.start:][:len(ld)]) {
				t.Errorf("rest(%+v): wrong data on the left", tc)
			}
		}
		if len(rd) > 0 {
			got[2], got[3] = r, r+int64(len(rd))
			if !bytes.Equal(rd, data[r-tc.start:][:len(rd)]) {
				t.Errorf("rest(%+v): wrong data on the right", tc)
			}
		}
		if got != tc.want {
			t.Errorf("rest(size %d, start %d, %d to %d) = %v; want %v", tc.size, tc.start, tc.from, tc.to, got, tc.want)
		}
	}
}

func TestErrors(t *testing.T) {
	errs, statuses := fs.Errnos()
	for i, err := range errs {
		wrapped := fmt.Errorf("open slot 3: %w", err)
		if got := fs.Status(wrapped); got != statuses[i] {
			t.Errorf("status(%v) = %v; want %v", wrapped, got, statuses[i])
		}
	}
	for _, tc := range []struct {
		err  error
		want fuse.Status
	}{
		{nil, fuse.OK},
		{errors.New("bad checksum"), fuse.EIO},
		{syscall.ENOSYS, fuse.EIO}, // would switch the request off
		{syscall.ENOENT, fuse.Status(syscall.ESTALE)},
		{&iofs.PathError{Op: "open", Path: "pack", Err: syscall.EACCES}, fuse.EACCES},
		{context.Canceled, fuse.EINTR},
		{io.EOF, fuse.EIO},
	} {
		if got := fs.Status(tc.err); got != tc.want {
			t.Errorf("status(%v) = %v; want %v", tc.err, got, tc.want)
		}
	}
}

func TestDamage(t *testing.T) {
	m := fstest.NewMemory()
	o := fstest.New(fstest.Dir(map[string]fstest.Node{"f": fstest.Text("content")}))
	m.Add(hello, o)
	s, _ := newServer(t, m, fs.Options{}, allFlags)
	node := walk(t, s, hello+"/f")
	bad := errors.New("frame 7 has a wrong checksum")
	o.Fail.Store(&bad)
	for _, n := range []int{4096, 1 << 20} {
		if got, st := readAll(s, node, n); st != fuse.EIO || len(got) != 0 {
			t.Errorf("read of a damaged file = %q, %v; want EIO", got, st)
		}
	}
	o.Fail.Store(nil)
	if got, st := readAll(s, node, 4096); string(got) != "content" || st != fuse.OK {
		t.Errorf("read after the repair = %q, %v", got, st)
	}
}

func TestUnneeded(t *testing.T) {
	s, _ := newServer(t, sample(), fs.Options{}, allFlags)
	for name, got := range map[string]fuse.Status{
		"access": s.Access(nil, nil), "flush": s.Flush(nil, nil), "fsync": s.Fsync(nil, nil), "fsyncdir": s.FsyncDir(nil, nil),
		"lseek": s.Lseek(nil, nil, nil), "ioctl": s.Ioctl(nil, nil, nil, nil, nil),
	} {
		if got != fuse.ENOSYS {
			t.Errorf("%s = %v; want ENOSYS", name, got)
		}
	}
}

func TestEverythingElseIsRefused(t *testing.T) {
	s, _ := newServer(t, sample(), fs.Options{}, allFlags)
	_, write := s.Write(nil, nil, nil)
	_, writev := s.Writev(nil, nil, nil)
	_, copyRange := s.CopyFileRange(nil, nil)
	for name, got := range map[string]fuse.Status{
		"setattr": s.SetAttr(nil, nil, nil), "mknod": s.Mknod(nil, nil, "", nil), "mkdir": s.Mkdir(nil, nil, "", nil),
		"unlink": s.Unlink(nil, nil, ""), "rmdir": s.Rmdir(nil, nil, ""), "rename": s.Rename(nil, nil, "", ""),
		"link": s.Link(nil, nil, "", nil), "symlink": s.Symlink(nil, nil, "", "", nil), "create": s.Create(nil, nil, "", nil),
		"tmpfile": s.Tmpfile(nil, nil, nil), "write": write, "writev": writev, "copy_file_range": copyRange,
		"fallocate": s.Fallocate(nil, nil), "setxattr": s.SetXAttr(nil, nil, "", nil), "removexattr": s.RemoveXAttr(nil, nil, ""),
		"open for writing": s.Open(nil, &fuse.OpenIn{Flags: syscall.O_RDWR}, nil),
	} {
		if got != fuse.EROFS {
			t.Errorf("%s = %v; want EROFS", name, got)
		}
	}
}

// ENOSYS only to kernels that know what it means.
func TestOpen(t *testing.T) {
	for _, tc := range []struct {
		flags     uint64
		file, dir fuse.Status
	}{
		{0, fuse.OK, fuse.OK},
		{fuse.CAP_NO_OPEN_SUPPORT, fuse.ENOSYS, fuse.OK},
		{allFlags, fuse.ENOSYS, fuse.ENOSYS},
	} {
		s, _ := newServer(t, sample(), fs.Options{}, tc.flags)
		var out, dirOut fuse.OpenOut
		in := &fuse.OpenIn{InHeader: fuse.InHeader{NodeId: walk(t, s, file)}}
		if st := s.Open(nil, in, &out); st != tc.file {
			t.Errorf("Open with %#x = %v; want %v", tc.flags, st, tc.file)
		}
		if st := s.OpenDir(nil, in, &dirOut); st != tc.dir {
			t.Errorf("OpenDir with %#x = %v; want %v", tc.flags, st, tc.dir)
		}
		if tc.flags == 0 && (out.OpenFlags != fuse.FOPEN_KEEP_CACHE || dirOut.OpenFlags != fuse.FOPEN_KEEP_CACHE|fuse.FOPEN_CACHE_DIR) {
			t.Errorf("flags = %#x, %#x; want the caches kept", out.OpenFlags, dirOut.OpenFlags)
		}
	}
}

func TestXAttrs(t *testing.T) {
	m := fstest.NewMemory()
	o := fstest.New(fstest.Dir(map[string]fstest.Node{"f": fstest.Text("x")}))
	o.Attrs = []fs.XAttr{{Name: "hash", Value: []byte("sha256:abc")}, {Name: "size", Value: []byte("123")}}
	m.Add(hello, o)
	s, _ := newServer(t, m, fs.Options{XAttr: true}, allFlags)
	h := &fuse.InHeader{NodeId: walk(t, s, hello)}
	buf := make([]byte, 100)
	n, st := s.ListXAttr(nil, h, buf)
	if got, want := string(buf[:n]), "user.narfs.hash\x00user.narfs.size\x00"; got != want || st != fuse.OK {
		t.Errorf("ListXAttr = %q, %v; want %q", got, st, want)
	}
	if n, st := s.ListXAttr(nil, h, nil); n != 32 || st != fuse.ERANGE {
		t.Errorf("ListXAttr without a buffer = %d, %v; want 32, ERANGE", n, st)
	}
	n, st = s.GetXAttr(nil, h, "user.narfs.hash", buf)
	if got := string(buf[:n]); got != "sha256:abc" || st != fuse.OK {
		t.Errorf("GetXAttr = %q, %v", got, st)
	}
	for _, name := range []string{"user.narfs.none", "user.hash", "security.capability"} {
		if _, st := s.GetXAttr(nil, h, name, buf); st != fuse.ENOATTR {
			t.Errorf("GetXAttr(%s) = %v; want ENOATTR", name, st)
		}
	}
	if n, st := s.ListXAttr(nil, &fuse.InHeader{NodeId: 1}, buf); n != 0 || st != fuse.OK {
		t.Errorf("ListXAttr of the root = %d, %v; want 0, OK", n, st)
	}
}

func TestStatFs(t *testing.T) {
	s, _ := newServer(t, sample(), fs.Options{}, allFlags)
	var out fuse.StatfsOut
	if st := s.StatFs(nil, nil, &out); st != fuse.OK {
		t.Fatal(st)
	}
	want := fuse.StatfsOut{Blocks: 256 + 262144, Bfree: 262144, Bavail: 262144, Files: 3, Bsize: 4096, Frsize: 4096, NameLen: nar.MaxName}
	if diff := cmp.Diff(want, out); diff != "" {
		t.Errorf("StatFs (-want +got):\n%s", diff)
	}
}
