package fs_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/narfs/narfs/fs"
)

// helperEnv makes the test binary a process that mounts the sample store on this directory.
const helperEnv = "NARFS_TEST_MOUNT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(helperEnv); dir != "" {
		os.Exit(serveUntilEOF(dir, os.Stdout)) //nolint:forbidigo // this is main
	}
	if op := os.Getenv("NARFS_BENCH_CLIENT"); op != "" {
		os.Exit(benchClient(op, os.Stdout)) //nolint:forbidigo // this is main
	}
	m.Run()
}

// serveUntilEOF says "mounted" or what went wrong, and unmounts when its standard input ends.
func serveUntilEOF(dir string, out io.Writer) int {
	o := fs.Options{AllowOther: os.Getenv("NARFS_TEST_OTHER") != ""}
	low, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		_, _ = fmt.Fprintln(out, err)
		return 1
	}
	m, err := fs.New(context.Background(), sample(), dir, o)
	_ = unix.Close(low)
	if err != nil {
		_, _ = fmt.Fprintln(out, err)
		return 1
	}
	if os.Getenv("NARFS_TEST_HOLD") != "" {
		fs.Apart(connection(), func() {
			fd, err := unix.Open(filepath.Join(dir, file), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			_, _ = fmt.Fprintln(out, "holds a lower descriptor:", fd == low, err)
			select {} // until it is killed
		})
	}
	_, _ = fmt.Fprintln(out, "mounted")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := m.Unmount(ctx); err != nil {
		_, _ = fmt.Fprintln(out, err)
		return 1
	}
	_, _ = fmt.Fprintln(out, "unmounted")
	return 0
}

// connection returns the descriptor of this process's mount.
func connection() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if target, _ := os.Readlink("/proc/self/fd/" + e.Name()); target == "/dev/fuse" {
			fd, _ := strconv.Atoi(e.Name())
			return fd
		}
	}
	return -1
}

// server is another process that mounts.
type serverProcess struct {
	cmd    *exec.Cmd
	stdin  interface{ Close() error }
	stdout *bufio.Reader
	first  string // line
}

// startServer mounts on dir as that user (0: whoever we are) and cleans up in any case.
func startServer(t *testing.T, dir string, uid uint32, env ...string) *serverProcess {
	t.Helper()
	if h := fs.Probe(); h.Device != "" || h.Helper == "" {
		t.Skip("no /dev/fuse or no fusermount3 here")
	}
	if uid != 0 {
		if _, err := asUser(t, uid, "test", "-r", "/dev/fuse", "-a", "-w", "/dev/fuse"); err != nil {
			t.Skip("users may not open /dev/fuse here; chmod 666 /dev/fuse lets this test run")
		}
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if uid != 0 {
		// The go command built it where others may not look.
		own := filepath.Join(worldDir(t), "fs.test")
		if out, err := exec.CommandContext(t.Context(), "cp", exe, own).CombinedOutput(); err != nil {
			t.Fatalf("cp: %v: %s", err, out)
		}
		exe = own
	}
	cmd := exec.CommandContext(context.Background(), exe) //nolint:usetesting // it ends below, after the test's context
	cmd.Env = append(append(os.Environ(), helperEnv+"="+dir), env...)
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	p := &serverProcess{cmd: cmd}
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.stdin.Close()
		_ = cmd.Wait()
		if state, err := fs.ProbeDir(context.Background(), dir); err != nil || state != fs.DirPlain { //nolint:usetesting // the test's has ended
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	p.stdout = bufio.NewReader(out)
	line, err := p.stdout.ReadString('\n')
	if err != nil {
		t.Fatalf("the server said %q, then: %v", line, err)
	}
	p.first = strings.TrimSpace(line)
	return p
}

// worldDir is a temporary directory that other users may enter.
func worldDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "narfs-fs-test-") //nolint:usetesting // t.TempDir is in a place that others cannot enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

const nobody = 65534

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount overlays and to be two users")
	}
}

// asUser runs a command as another user and returns what it says.
func asUser(t *testing.T, uid uint32, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestMountAsUser(t *testing.T) {
	needRoot(t)
	dir := filepath.Join(worldDir(t), "mnt")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Chown(dir, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	p := startServer(t, dir, nobody)
	if p.first != "mounted" {
		t.Fatalf("mounting as a user: %s", p.first)
	}
	if out, err := asUser(t, nobody, "cat", filepath.Join(dir, hello, "share/a")); out != "a" || err != nil {
		t.Errorf("cat as the user = %q, %v; want a", out, err)
	}
	if out, err := asUser(t, nobody, "stat", "-c", "%u %a", filepath.Join(dir, hello)); out != "65534 555\n" || err != nil {
		t.Errorf("stat as the user = %q, %v; want his own files", out, err)
	}
	if out, err := asUser(t, 1, "ls", dir); err == nil {
		t.Errorf("ls as another user = %q; want permission denied", out)
	}
	if state, err := fs.ProbeDir(t.Context(), dir); state != fs.DirNarfs || err != nil {
		t.Errorf("ProbeDir = %v, %v; want narfs", state, err)
	}
	_ = p.stdin.Close()
	if line, err := p.stdout.ReadString('\n'); line != "unmounted\n" {
		t.Errorf("at the end the server said %q, %v; want unmounted", line, err)
	}
	if state, err := fs.ProbeDir(t.Context(), dir); state != fs.DirPlain || err != nil {
		t.Errorf("ProbeDir after unmounting = %v, %v; want plain", state, err)
	}
}

func TestMountAsUserErrors(t *testing.T) {
	needRoot(t)
	dir := filepath.Join(worldDir(t), "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if p := startServer(t, dir, nobody); !strings.Contains(p.first, "fusermount3: ") || !strings.Contains(p.first, "write access") {
		t.Errorf("mounting on another's directory: %q; want what fusermount3 says", p.first)
	}
	if fs.Probe().UserAllowOther {
		t.Skip("user_allow_other is set here")
	}
	if p := startServer(t, dir, nobody, "NARFS_TEST_OTHER=1"); !strings.Contains(p.first, "user_allow_other in /etc/fuse.conf") {
		t.Errorf("mounting with allow_other: %q; want a hint at /etc/fuse.conf", p.first)
	}
}

func TestAllowOther(t *testing.T) {
	needRoot(t)
	src := sample()
	for _, allow := range []bool{false, true} {
		dir := filepath.Join(worldDir(t), "mnt")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		m, err := fs.New(t.Context(), src, dir, fs.Options{AllowOther: allow})
		if err != nil {
			t.Fatal(err)
		}
		out, err := asUser(t, nobody, "sh", "-c", filepath.Join(dir, hello, "bin/hello"))
		if allow && out != "hello\n" || !allow && err == nil {
			t.Errorf("with AllowOther=%v another user runs a program: %q, %v", allow, out, err)
		}
		if allow {
			// default_permissions: the kernel checks the modes, execution of what is not executable included.
			if out, err := asUser(t, nobody, "test", "-x", filepath.Join(dir, hello, "share/a")); err == nil {
				t.Errorf("test -x of a plain file says yes %s", out)
			}
		}
		if err := m.Unmount(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestHiddenRoot(t *testing.T) {
	dir := mount(t, sample(), fs.Options{HideListing: true}).Dir()
	if _, err := os.ReadDir(dir); !errors.Is(err, iofs.ErrPermission) {
		t.Errorf("listing a hidden root = %v; want permission denied", err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, file)); string(got) != "just a file\n" {
		t.Errorf("reading below a hidden root = %q, %v", got, err)
	}
}
