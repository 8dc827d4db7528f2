package build_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/narfs/narfs/daemon/build"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
	"github.com/narfs/narfs/internal/nixwire"
	"github.com/narfs/narfs/nar"
	"github.com/narfs/narfs/tests/env"
)

// attacker is this test, as builders see it.
const attacker = "/attacker"

// attacks are what a builder can try that a shell cannot. Their arguments are those of attacker, behind the name.
var attacks = map[string]func(args []string) error{
	// leak PATH...: passes open files to who listens at the socket in the shared folder, and goes on when told to.
	"leak": func(args []string) error {
		var fds []int
		for _, name := range args {
			fd, err := unix.Open(name, unix.O_RDWR|unix.O_CLOEXEC, 0)
			if errors.Is(err, unix.EISDIR) {
				fd, err = unix.Open(name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			}
			if err != nil {
				return err
			}
			fds = append(fds, fd)
		}
		s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		if err := unix.Connect(s, &unix.SockaddrUnix{Name: "/shared/socket"}); err != nil {
			return err
		}
		if err := unix.Sendmsg(s, []byte{1}, unix.UnixRights(fds...), nil, 0); err != nil {
			return err
		}
		_, err = unix.Read(s, make([]byte, 1))
		return err
	},
	// listen NAME: waits for somebody at an abstract socket until /shared/done is there.
	"listen": func(args []string) error {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", "@"+args[0])
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintln(os.Stdout, "listening")
		go func() {
			if _, err := l.Accept(); err == nil {
				_, _ = fmt.Fprintln(os.Stdout, "reached")
			}
		}()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for err = iofs.ErrNotExist; err != nil; _, err = os.Stat("/shared/done") {
			<-tick.C
		}
		return nil
	},
	// connect NAME: tries an abstract socket.
	"connect": func(args []string) error {
		s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err == nil {
			err = unix.Connect(s, &unix.SockaddrUnix{Name: "@" + args[0]})
		}
		_, _ = fmt.Fprintln(os.Stdout, "connect:", err)
		return nil
	},
	// bits FILE: tries to give a file what it must not have.
	"bits": func(args []string) error {
		name := args[0]
		acl := []byte{
			2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 7, 0, 1, 0, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16, 0, 7, 0, 255, 255, 255, 255,
			32, 0, 4, 0, 255, 255, 255, 255,
		}
		for _, mode := range []uint32{0o4755, 0o2755, 0o6777} {
			_ = unix.Chmod(name, mode)
			_ = unix.Fchmodat(unix.AT_FDCWD, name, mode, 0)
			if fd, err := unix.Open(fmt.Sprint(name, mode), unix.O_CREAT|unix.O_WRONLY, mode); err == nil {
				_ = unix.Fchmod(fd, mode)
				_ = unix.Fsetxattr(fd, "user.x", []byte("x"), 0)
			}
			_ = unix.Mknod(fmt.Sprint(name, mode, "n"), unix.S_IFREG|mode, 0)
			_ = unix.Mkdir(fmt.Sprint(name, mode, "d"), mode)
			_ = unix.Chmod(fmt.Sprint(name, mode, "d"), mode)
		}
		_ = unix.Setxattr(name, "user.x", []byte("x"), 0)
		_ = unix.Setxattr(name, "security.capability", []byte{1, 0, 0, 2, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0)
		_ = unix.Setxattr(name, "system.posix_acl_access", acl, 0)
		return nil
	},
}

// attack does what builders start attacker for, and returns its exit code.
func attack(args []string) int {
	if err := attacks[args[0]](args[1:]); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, args[0]+":", err)
		return 1
	}
	return 0
}

// shared is a folder of the host in which builders can write.
type shared struct {
	dir    string
	socket net.Listener
}

func newShared(t *testing.T) *shared {
	t.Helper()
	s := &shared{dir: t.TempDir()}
	var err error
	if s.socket, err = (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(s.dir, "socket")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.socket.Close() })
	return s
}

// paths lets a builder see the folder.
func (s *shared) paths(o *build.Settings) { o.SandboxPaths = append(o.SandboxPaths, "/shared="+s.dir) }

// leaked are the files that a builder has passed out, which waits until they are let go.
type leaked struct {
	fds  []int
	conn *net.UnixConn
}

// accept waits for a builder's files.
func (s *shared) accept(t *testing.T) *leaked {
	t.Helper()
	if err := s.socket.(*net.UnixListener).SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	conn, err := s.socket.Accept()
	if err != nil {
		t.Fatal(err)
	}
	l := &leaked{conn: conn.(*net.UnixConn)}
	oob := make([]byte, 256)
	_, n, _, _, err := l.conn.ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d messages, %v", len(messages), err)
	}
	if l.fds, err = unix.ParseUnixRights(&messages[0]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, fd := range l.fds {
			_ = unix.Close(fd)
		}
	})
	return l
}

// goOn lets the builder go on.
func (l *leaked) goOn(t *testing.T) {
	t.Helper()
	if _, err := l.conn.Write([]byte{1}); err != nil {
		t.Error(err)
	}
	_ = l.conn.Close()
}

// begin has a derivation built. The function that it returns waits for the result.
func (k *bench) begin(t *testing.T, c *client, p nix.StorePath, changes ...func(*build.Settings)) (wait func() build.Result) {
	t.Helper()
	done := make(chan build.Result, 1)
	go func() {
		r := k.want(t.Context(), t, c, p, changes...) // whose end ends the build
		if !r.OK() {
			t.Logf("%v: %s", r.Status, r.Err)
		}
		done <- r
		close(done)
	}()
	t.Cleanup(func() { <-done })
	return func() build.Result { return <-done }
}

// fixed makes the output of a derivation fixed.
func fixed(t *testing.T, d *drv.Derivation, method nix.Method, content []byte) *drv.Derivation {
	t.Helper()
	ca := nix.ContentAddress{Method: method, Hash: nix.NewSHA256(sha256.Sum256(content))}
	p, err := nix.MakePathFromCA(nix.DefaultStoreDir, d.Name, ca, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	d.Outputs["out"] = drv.Output{Kind: drv.Fixed, CA: ca}
	d.Env["out"] = nix.DefaultStoreDir.Path(p)
	return d
}

// content returns what the store has of a path, and fails the test unless it is what the store says of it.
func (k *bench) content(t *testing.T, p nix.StorePath) []byte {
	t.Helper()
	var archive bytes.Buffer
	info, err := k.s.PathInfo(p)
	if err == nil {
		err = k.s.WriteNAR(t.Context(), p, &archive)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := nix.NewSHA256(sha256.Sum256(archive.Bytes())); got != info.NarHash {
		t.Errorf("the NAR hash of %s is %s; want %s", p, got, info.NarHash)
	}
	if info.CA.Method == nix.MethodFlat {
		sum := sha256.New()
		r := nar.NewReader(bytes.NewReader(archive.Bytes()), nar.Limits{})
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(sum, r); err != nil {
			t.Fatal(err)
		}
		if got := nix.NewSHA256([32]byte(sum.Sum(nil))); got != info.CA.Hash {
			t.Errorf("the content hash of %s is %s; want %s", p, got, info.CA.Hash)
		}
	} else if info.CA.Hash != nix.NewSHA256(sha256.Sum256(archive.Bytes())) {
		t.Errorf("%s is not what its content address says", p)
	}
	return archive.Bytes()
}

// until runs something again and again, until the function that it returns is called.
func until(do func()) (stop func()) {
	var over atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !over.Load() {
			do()
		}
	}()
	return func() { over.Store(true); <-done }
}

// afterReads calls a function each time that somebody has read the output of the one build that runs.
func (k *bench) afterReads(t *testing.T, do func()) (stop func()) {
	t.Helper()
	outputs, err := filepath.Glob(filepath.Join(k.scratch(t), "out", "*"))
	if err != nil || len(outputs) != 1 {
		t.Fatalf("the outputs are %q, %v; want one", outputs, err)
	}
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err == nil {
		_, err = unix.InotifyAddWatch(fd, outputs[0], unix.IN_CLOSE_NOWRITE)
	}
	if err != nil {
		t.Fatal(err)
	}
	events, done := os.NewFile(uintptr(fd), "inotify"), make(chan struct{})
	go func() {
		defer close(done)
		for {
			if _, err := events.Read(make([]byte, unix.SizeofInotifyEvent)); err != nil {
				return
			}
			do()
		}
	}()
	return func() { _ = events.Close(); <-done }
}

// CVE-2024-27297, GHSA-2ffj-w4mj-pg37: a builder passed its output to somebody outside, open for writing, who changed it after its hash was
// taken. Whatever is written, and when: what is valid has the hash that it is known by, and stays so.
func TestCVE202427297LeakedDescriptor(t *testing.T) {
	t.Parallel()
	k := newBench(t)
	const size = 1 << 20
	zeros := make([]byte, size)
	for name, d := range map[string]func(name, script string) *drv.Derivation{
		"fixed": func(name, script string) *drv.Derivation {
			return fixed(t, derivation(name, script), nix.MethodFlat, zeros)
		},
		"floating": derivation,
	} {
		for round := range 6 {
			s := newShared(t)
			p := k.add(t, d(fmt.Sprint(name, round), fmt.Sprintf("head -c %d /dev/zero > $out; exec %s leak $out", size, attacker)))
			result := k.begin(t, &client{}, p, s.paths)
			l := s.accept(t)
			b := byte(0)
			write := func(at int64) {
				b ^= 1
				if _, err := unix.Pwrite(l.fds[0], []byte{b}, at); err != nil {
					t.Error(err)
				}
			}
			stop := func() {}
			if round > 0 { // in the first round it is quiet until the path is valid
				stop = k.afterReads(t, func() { write(0) })
			}
			l.goOn(t)
			r := result()
			stop()
			if !r.OK() {
				if round == 0 || r.Status != nixwire.OutputRejected {
					t.Errorf("%s: %v: %s", name, r.Status, r.Err)
				}
				continue
			}
			before := k.content(t, r.Outputs[0].Path)
			write(size / 2)
			if !bytes.Equal(before, k.content(t, r.Outputs[0].Path)) {
				t.Errorf("%s: a valid path was changed", name)
			}
		}
	}
}

// secrets makes a folder that no builder may read, with a file in it, and returns both and the contents.
func secrets(t *testing.T) (dir, file string, contents []byte) {
	t.Helper()
	dir = t.TempDir()
	file, contents = filepath.Join(dir, "file"), []byte("the secret of "+t.Name())
	if err := os.WriteFile(file, contents, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, file, contents
}

// CVE-2026-39860, GHSA-g3g9-5vj6-r3gj: what was taken over was what a link led to that the builder had put in the place of its output.
func TestCVE202639860OutputIsLink(t *testing.T) {
	t.Parallel()
	k := newBench(t)
	_, file, contents := secrets(t)
	var archive, link bytes.Buffer
	if err := nar.Dump(&archive, file, nar.DumpOptions{}); err != nil {
		t.Fatal(err)
	}
	where := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(file, where); err != nil {
		t.Fatal(err)
	}
	if err := nar.Dump(&link, where, nar.DumpOptions{}); err != nil {
		t.Fatal(err)
	}
	script := "ln -s " + file + " $out"
	flat, recursive := derivation("flat", script), derivation("recursive", script)
	floatingFlat := derivation("floating-flat", script)
	floatingFlat.Outputs["out"] = drv.Output{Kind: drv.Floating, Method: nix.MethodFlat, Algo: nix.SHA256}
	for _, d := range []*drv.Derivation{
		fixed(t, flat, nix.MethodFlat, contents), fixed(t, recursive, nix.MethodNAR, archive.Bytes()), floatingFlat, derivation("floating", script),
	} {
		r := k.want(t.Context(), t, &client{}, k.add(t, d))
		if r.OK() != (d.Name == "floating") {
			t.Errorf("%s: %v: %s", d.Name, r.Status, r.Err)
		}
		if r.OK() && !bytes.Equal(k.content(t, r.Outputs[0].Path), link.Bytes()) {
			t.Errorf("%s is not the link", d.Name)
		}
	}
	k.holdsNot(t, contents)
}

// holdsNot fails the test if any path of the store has something in its contents.
func (k *bench) holdsNot(t *testing.T, contents []byte) {
	t.Helper()
	for info, err := range k.s.All() {
		var archive bytes.Buffer
		if err == nil {
			err = k.s.WriteNAR(t.Context(), info.Path, &archive)
		}
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(archive.Bytes(), contents) {
			t.Errorf("%s has what no builder may read", info.Path)
		}
	}
}

// The same, with links that somebody outside puts in the place of folders while they are read, through a descriptor of the folder of outputs.
func TestCVE202639860LinksSwappedIn(t *testing.T) {
	t.Parallel()
	k := newBench(t)
	dir, _, contents := secrets(t)
	opened, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err == nil {
		_, err = unix.InotifyAddWatch(opened, dir, unix.IN_OPEN)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(opened) }()
	for round := range 10 {
		s := newShared(t)
		p := k.add(t, derivation(fmt.Sprint("swap", round), `mkdir $out; cd $out
			for d in a b c d e f g h; do mkdir $d; echo harmless > $d/file; ln -s `+dir+` $d-link; done
			ln -s `+dir+` $out-link; cd /; exec `+attacker+` leak /nix/store $out`))
		result := k.begin(t, &client{}, p, s.paths)
		l := s.accept(t)
		l.goOn(t)
		stop := until(func() {
			for name := range strings.FieldsSeq("a b c d e f g h") {
				_ = unix.Renameat2(l.fds[1], name, l.fds[1], name+"-link", unix.RENAME_EXCHANGE)
			}
		})
		result() // mostly a failure: what it reads is not what was there
		stop()
	}
	if n, err := unix.Read(opened, make([]byte, 4096)); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("the folder that the links lead to was opened: %d bytes of events, %v", n, err)
	}
	k.holdsNot(t, contents)
}

// asNobody runs a shell command as a user who may nothing, and returns whether it worked.
func asNobody(t *testing.T, command string) bool {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", command)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return err == nil
}

// scratch returns the folder of the one build that runs.
func (k *bench) scratch(t *testing.T) string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(k.s.StateDir(), "builds", "*"))
	if err != nil || len(all) != 1 {
		t.Fatalf("the folders of builds are %q, %v; want one", all, err)
	}
	return all[0]
}

// closed fails the test if somebody else can reach the folder of a build that has opened what it could.
func closed(t *testing.T, scratch string) {
	t.Helper()
	for _, command := range []string{
		"ls " + filepath.Dir(scratch), "ls " + scratch, "cat " + scratch + "/build/file", "echo > " + scratch + "/build/new",
		"ls " + scratch + "/out", "echo > " + scratch + "/out/new", "cat " + scratch + "/out/*-open/file",
	} {
		if asNobody(t, command) {
			t.Errorf("somebody else can do this: %s", command)
		}
	}
}

const open = "umask 0; mkdir $out; echo x > $out/file; echo x > /build/file; chmod -R 777 $out /build /nix/store;"

// CVE-2024-38531, GHSA-q82p-44mg-mgh5: others could reach a build's folder, and use its programs and sockets, if the builder let them.
// CVE-2025-52991 is about where it is: a folder in which everybody can write lets them be first.
func TestCVE202438531BuildDirectory(t *testing.T) { // not parallel: of the environment
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	k, s := newBench(t), newShared(t)
	env.OpenTo(t, k.s.StateDir())
	if err := os.Chmod(k.s.StateDir(), 0o777); err != nil {
		t.Fatal(err)
	}
	result := k.begin(t, &client{}, k.add(t, derivation("open", open+"exec "+attacker+" leak /build")), s.paths)
	l := s.accept(t)
	closed(t, k.scratch(t))
	if entries, err := os.ReadDir(tmp); err != nil || len(entries) > 0 {
		t.Errorf("in the folder for temporary files: %v, %v", entries, err)
	}
	l.goOn(t)
	if r := result(); r.Status != nixwire.OutputRejected || !strings.Contains(r.Err, "suspicious permission") {
		t.Errorf("an output that all can write: %v: %s", r.Status, r.Err)
	}
}

// CVE-2025-52992: what was kept of a failed build could be changed by others. They may look at it, who know its name.
func TestCVE202552992KeptFailed(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	k := newBench(t)
	env.OpenTo(t, k.s.StateDir())
	r := k.want(t.Context(), t, &client{}, k.add(t, derivation("open", open+"chmod 666 /build/file; exit 1")), func(o *build.Settings) { o.KeepFailed = true })
	_, rest, _ := strings.Cut(r.Err, "keeping build directory '")
	kept, _, _ := strings.Cut(rest, "'")
	if _, err := os.Stat(kept + "/file"); r.OK() || err != nil {
		t.Fatalf("%v: %s; %v", r.Status, r.Err, err)
	}
	for _, command := range []string{
		"ls " + filepath.Dir(kept), "echo > " + kept + "/new", "rm -f " + kept + "/file && ! test -e " + kept + "/file", "mv " + kept + "/file " + kept + "/other",
		"mv " + kept + " " + kept + "-other", "ls " + filepath.Join(k.s.StateDir(), "builds"),
	} {
		if asNobody(t, command) {
			t.Errorf("somebody else can do this: %s", command)
		}
	}
	if left, err := os.ReadDir(filepath.Join(k.s.StateDir(), "builds")); err != nil || len(left) > 0 {
		t.Errorf("more is left: %v, %v", left, err)
	}
}

// CVE-2025-46415: who could change a build's folder while it was removed had others' files removed through a link, or their modes changed.
func TestCVE202546415CleaningUp(t *testing.T) {
	t.Parallel()
	k := newBench(t)
	precious := t.TempDir()
	for _, name := range []string{"a", "b", "c"} {
		if err := errors.Join(os.Mkdir(filepath.Join(precious, name), 0o555), os.WriteFile(filepath.Join(precious, name+".file"), nil, 0o444)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(precious, 0o555); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(precious, 0o755) }) //nolint:gosec // to be removed
	folders := []string{"1", "2", "3", "4", "5", "6", "7", "8"}
	for round := range 4 {
		s := newShared(t)
		p := k.add(t, derivation(fmt.Sprint("clean", round), `cd /build; for d in `+strings.Join(folders, " ")+`; do mkdir -p $d/a $d/b $d/c
			ln -s `+precious+` $d-link; : > $d/a.file; done; ln -s `+precious+` $out-left; echo > $out; exec `+attacker+` leak /build `+strings.Join(folders, " ")))
		result := k.begin(t, &client{}, p, s.paths)
		l := s.accept(t)
		l.goOn(t)
		n := 0
		stop := until(func() {
			for i, name := range folders {
				if n++; n < 400 { // for ever, and it would not end
					_ = unix.Mkdirat(l.fds[1+i], fmt.Sprint(n), 0o500)
				}
				_ = unix.Renameat2(l.fds[0], name, l.fds[0], name+"-link", unix.RENAME_EXCHANGE)
			}
		})
		r := result()
		stop()
		if !r.OK() {
			t.Errorf("%v: %s", r.Status, r.Err)
		}
		intact(t, precious)
	}
	// What a daemon that was killed has left, which the next one removes.
	builds := filepath.Join(k.s.StateDir(), "builds")
	for _, plant := range []func() error{
		func() error { return os.Symlink(precious, filepath.Join(builds, "link")) },
		func() error {
			return errors.Join(os.MkdirAll(filepath.Join(builds, "x", "build"), 0o700), os.Symlink(precious, filepath.Join(builds, "x", "build", "link")))
		},
		func() error { return errors.Join(os.RemoveAll(builds), os.Symlink(precious, builds)) },
	} {
		if err := plant(); err != nil {
			t.Fatal(err)
		}
		if _, err := build.New(k.s, build.Options{}); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(builds); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("%s is still there: %v", builds, err)
		}
		intact(t, precious)
		if err := os.MkdirAll(builds, 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

// intact fails the test if something in a folder was removed, or its mode changed.
func intact(t *testing.T, precious string) {
	t.Helper()
	var got []string
	err := filepath.WalkDir(precious, func(name string, entry iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		got = append(got, fmt.Sprint(strings.TrimPrefix(name, precious), info.Mode()))
		return nil
	})
	want := []string{"dr-xr-xr-x", "/adr-xr-xr-x", "/a.file-r--r--r--", "/bdr-xr-xr-x", "/b.file-r--r--r--", "/cdr-xr-xr-x", "/c.file-r--r--r--"}
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("others' files are now %q, %v; want %q", got, err, want)
	}
}

// CVE-2025-46416: builds with the host's network met at abstract sockets, and passed open files to each other.
func TestCVE202546416AbstractSockets(t *testing.T) {
	t.Parallel()
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 || abi < 6 {
		t.Skipf("needs a kernel whose Landlock keeps builders from abstract sockets: version %d, %v", abi, errno)
	}
	k, s := newBench(t), newShared(t)
	name := filepath.Base(s.dir) + t.Name()
	for _, d := range []func(name, script string) *drv.Derivation{
		func(name, script string) *drv.Derivation {
			return fixed(t, derivation(name, script), nix.MethodFlat, nil)
		}, derivation,
	} {
		_ = os.Remove(filepath.Join(s.dir, "done"))
		first, second := &client{}, &client{}
		listens := k.begin(t, first, k.add(t, d("listens", ": > $out; exec "+attacker+" listen "+name)), s.paths)
		wait(t, "one listens", func() bool { return len(first.said()) > 0 })
		r := k.want(t.Context(), t, second, k.add(t, d("connects", ": > $out; exec "+attacker+" connect "+name)), s.paths)
		if err := os.WriteFile(filepath.Join(s.dir, "done"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if r1 := listens(); !r.OK() || !r1.OK() {
			t.Errorf("%s, %s", r1.Err, r.Err)
		}
		said := strings.Join(append(first.said(), second.said()...), "; ")
		if said != "listening; connect: operation not permitted" && said != "listening; connect: connection refused" {
			t.Errorf("they said: %s", said)
		}
	}
}

// Of Nix 1.11.10: files that run as another user or group, or with privileges, as long as the builder has them, and when all is done.
func TestNix11110SetUserID(t *testing.T) {
	t.Parallel()
	k, s := newBench(t), newShared(t)
	p := k.add(t, derivation("bits", "mkdir $out; cp /bin/sh $out/sh; cp /bin/sh /build/sh;"+attacker+" bits $out/sh;"+attacker+" bits /build/sh; exec "+attacker+" leak /build"))
	result := k.begin(t, &client{}, p, s.paths)
	l := s.accept(t)
	seen := 0
	err := filepath.WalkDir(k.scratch(t), func(name string, entry iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		seen++
		if info.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 {
			t.Errorf("%s has the mode %v", name, info.Mode())
		}
		names := make([]byte, 1024)
		// The folder itself has one of the kernel's, being a part of an overlay.
		if n, err := unix.Llistxattr(name, names); err == nil && n > 0 && filepath.Base(name) != "out" {
			t.Errorf("%s has the attributes %q", name, names[:n])
		}
		return nil
	})
	if err != nil || seen < 10 {
		t.Errorf("%d files were looked at: %v", seen, err)
	}
	l.goOn(t)
	if r := result(); !r.OK() {
		t.Errorf("%v: %s", r.Status, r.Err)
	}
}

// Of Nix 1.4: a builder linked to a file of somebody else, which was then treated as its output.
func TestNix14HardLinks(t *testing.T) {
	t.Parallel()
	k, s := newBench(t), newShared(t)
	_, file, _ := secrets(t)
	if err := os.WriteFile(filepath.Join(s.dir, "file"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	p := k.add(t, derivation("links", `mkdir $out; : > /build/file
		for f in /bin/sh `+attacker+` /shared/file /etc/passwd /build/file /dev/null /proc/self/exe /proc/self/environ; do
			if ln $f $out/x 2> /dev/null || ln -L $f $out/y 2> /dev/null; then echo linked $f; fi
		done; exec `+attacker+` leak /nix/store $out`))
	c := &client{}
	result := k.begin(t, c, p, s.paths)
	l := s.accept(t)
	for _, fd := range l.fds {
		if err := unix.Linkat(unix.AT_FDCWD, file, fd, "z", 0); !errors.Is(err, unix.EXDEV) {
			t.Errorf("somebody outside who links into a folder of outputs gets %v; want %v", err, unix.EXDEV)
		}
	}
	l.goOn(t)
	if r := result(); !r.OK() || len(c.said()) > 0 {
		t.Errorf("%q, %v: %s", c.said(), r.Status, r.Err)
	}
}

// CVE-2024-51481, GHSA-wf4c-57rh-9pjg: builders that are part of Nix ran without a sandbox, and so read what is not for everybody.
func TestCVE202451481Builtins(t *testing.T) {
	t.Parallel()
	k := newBench(t)
	_, file, contents := secrets(t)
	for _, url := range []string{"file://" + file, file, "file:///proc/1/root" + file, "file:///proc/self/root" + file} {
		d := fixed(t, derivation("file", ""), nix.MethodFlat, contents)
		d.Builder, d.Args, d.Env["url"] = "builtin:fetchurl", nil, url
		r := k.want(t.Context(), t, &client{}, k.add(t, d))
		if r.OK() || !strings.Contains(r.Err, "no such file or directory") {
			t.Errorf("%s: %v: %s", url, r.Status, r.Err)
		}
	}
	k.holdsNot(t, contents)
	if os.Getuid() == 0 { // whose builders without a sandbox are other users
		d := fixed(t, derivation("open", ""), nix.MethodFlat, contents)
		d.Builder, d.Args, d.Env["url"] = "builtin:fetchurl", nil, "file://"+file
		r := k.want(t.Context(), t, &client{}, k.add(t, d), func(o *build.Settings) {
			o.Sandboxed, o.Users = false, build.Users{First: 31000, Count: 8}
		})
		if r.OK() || !strings.Contains(r.Err, "open "+file+": permission denied") {
			t.Errorf("without a sandbox: %v: %s", r.Status, r.Err)
		}
		k.holdsNot(t, contents)
	}
	d := derivation("channel", "")
	d.Builder, d.Args, d.Env["src"], d.Env["channelName"] = "builtin:unpack-channel", nil, file, "channel"
	if r := k.want(t.Context(), t, &client{}, k.add(t, d)); r.OK() || !strings.Contains(r.Err, "no such file or directory") {
		t.Errorf("%v: %s", r.Status, r.Err)
	}
	k.holdsNot(t, contents)
}
