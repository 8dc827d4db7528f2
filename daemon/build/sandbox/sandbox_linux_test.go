package sandbox_test

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/narfs/narfs/daemon/build/sandbox"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(asProbe); name != "" {
		probe(name)
		return
	}
	if path := os.Getenv(asDaemon); path != "" {
		daemon(path)
		return
	}
	m.Run()
}

const (
	storeDir  = "/nix/store"
	tools     = "11111111111111111111111111111111-tools"
	sh        = storeDir + "/" + tools + "/bin/sh"
	probeName = "33333333333333333333333333333333-probe"
	out       = "22222222222222222222222222222222-out"
)

// busybox is a shell with its tools in one static file.
func busybox(t *testing.T) []byte {
	t.Helper()
	data, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs a static /bin/busybox (busybox-static)")
	}
	return data
}

// newSpec returns a store with a shell in it, and what a shell needs to run script there.
func newSpec(t *testing.T, sandboxed bool, script string) sandbox.Spec {
	t.Helper()
	if err := sandbox.Available(t.Context()); err != nil {
		t.Skipf("no sandbox here: %v", err)
	}
	dir := t.TempDir()
	s := sandbox.Spec{
		Sandboxed: sandboxed, StoreDir: storeDir, StoreMount: filepath.Join(dir, "store"), Inputs: []string{tools},
		Outputs: filepath.Join(dir, "outputs"), BuildDir: filepath.Join(dir, "build"),
		Builder: sh, Args: []string{"-e", "-c", script},
		Env: []string{"out=" + storeDir + "/" + out, "PATH=" + filepath.Dir(sh)},
		UID: os.Getuid(), GID: os.Getgid(),
	}
	if sandboxed {
		s.BuildDirInside = "/build"
	}
	bin := filepath.Join(s.StoreMount, tools, "bin")
	for _, d := range []string{bin, s.Outputs, s.BuildDir} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(bin, "busybox"), busybox(t), 0o755); err != nil {
		t.Fatal(err)
	}
	names, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.FieldsSeq(string(names)) {
		if name == "busybox" {
			continue
		}
		if err := os.Symlink("busybox", filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// newProbe is newSpec for a builder that is this test, and runs one of probes.
func newProbe(t *testing.T, sandboxed bool, name string) sandbox.Spec {
	t.Helper()
	s := newSpec(t, sandboxed, "")
	addProbe(t, &s)
	s.Builder, s.Args = storeDir+"/"+probeName, nil
	s.Env = append(s.Env, asProbe+"="+name)
	return s
}

// addProbe makes this test an input of s.
func addProbe(t *testing.T, s *sandbox.Spec) {
	t.Helper()
	if program, err := elf.Open("/proc/self/exe"); err != nil {
		t.Fatal(err)
	} else if program.Section(".interp") != nil {
		t.Skip("needs a static test program (CGO_ENABLED=0), without the race detector")
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.StoreMount, probeName), self, 0o755); err != nil {
		t.Fatal(err)
	}
	s.Inputs = append(s.Inputs, probeName)
}

// asBuildUser makes s run as another user than root.
func asBuildUser(t *testing.T, s *sandbox.Spec) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	s.UID, s.GID = 30001, 30000
	for _, d := range []string{s.Outputs, s.BuildDir} {
		if err := os.Chown(d, s.UID, s.GID); err != nil {
			t.Fatal(err)
		}
	}
	if !s.Sandboxed { // it has to reach its folder by the host's path
		if err := os.Chmod(filepath.Dir(filepath.Dir(s.BuildDir)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// build runs s and returns its log; it fails the test if the builder does not end well.
func build(t *testing.T, s sandbox.Spec) string {
	t.Helper()
	var log bytes.Buffer
	s.Log = &log
	exit, err := sandbox.Run(t.Context(), s)
	if err != nil || exit != (sandbox.Exit{}) {
		t.Fatalf("Run = %v, %v; log:\n%s", exit, err, &log)
	}
	return log.String()
}

func TestOutput(t *testing.T) {
	for _, sandboxed := range []bool{true, false} {
		for _, buildUser := range []bool{false, true} {
			t.Run(fmt.Sprintf("sandboxed=%v,buildUser=%v", sandboxed, buildUser), func(t *testing.T) {
				s := newSpec(t, sandboxed, `mkdir $out; echo hello > $out/file; ln -s /etc/shadow $out-link
					id -u; id -g; echo $$; pwd; touch /build/x $PWD/x 2>/dev/null || true`)
				if buildUser {
					asBuildUser(t, &s)
				}
				want := fmt.Sprintf("%d\n%d\n1\n%s\n", s.UID, s.GID, s.BuildDir)
				if sandboxed {
					want = "1000\n100\n1\n/build\n"
				}
				if got := build(t, s); got != want {
					t.Errorf("the log is %q; want %q", got, want)
				}
				data, err := os.ReadFile(filepath.Join(s.Outputs, out, "file"))
				if string(data) != "hello\n" || err != nil {
					t.Errorf("the output is %q, %v", data, err)
				}
				fi, err := os.Stat(filepath.Join(s.Outputs, out, "file"))
				if err != nil || int(fi.Sys().(*syscall.Stat_t).Uid) != s.UID || fi.Mode() != 0o644 {
					t.Errorf("the output is %v, %v", fi, err)
				}
				if to, err := os.Readlink(filepath.Join(s.Outputs, out+"-link")); to != "/etc/shadow" {
					t.Errorf("a link that the builder made leads to %q, %v", to, err)
				}
				if entries, err := os.ReadDir(s.Outputs); err != nil || len(entries) != 2 {
					t.Errorf("left in Outputs: %v, %v", entries, err)
				}
				if _, err := os.Stat(filepath.Join(s.BuildDir, "x")); err != nil {
					t.Errorf("what was made in the build folder: %v", err)
				}
				if _, err := os.Lstat(s.Outputs + ".work"); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the folder for work is still there: %v", err)
				}
			})
		}
	}
}

func TestFilesSeen(t *testing.T) {
	s := newSpec(t, true, `
		ls -1 /; echo --; ls -1 /nix /nix/store; echo --; ls -1 /etc; echo --; ls -1 /dev; echo --; echo /proc/[0-9]*; echo --
		cat /nix/store/*-file /nix/store/*-link; cat /etc/passwd /etc/group /etc/hosts; echo --; hostname; stat -c %a /tmp /build
		test ! -e /etc/shadow; test ! -e /nix/store/*-secret; echo x > /dev/null; echo x > /tmp/y; ls -l /proc/self/fd/0 | grep -o '/dev/null'
		! touch /nix/store/*-tools/x 2>/dev/null; ! rm -rf /nix/store/*-file 2>/dev/null; read x || echo no input`)
	const file, link, secret = "44444444444444444444444444444444-file", "55555555555555555555555555555555-link", "66666666666666666666666666666666-secret"
	for _, name := range []string{file, secret} {
		if err := os.WriteFile(filepath.Join(s.StoreMount, name), []byte(name+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(file, filepath.Join(s.StoreMount, link)); err != nil {
		t.Fatal(err)
	}
	s.Inputs = append(s.Inputs, file, link)
	const want = `build
dev
etc
nix
proc
tmp
--
/nix:
store

/nix/store:
11111111111111111111111111111111-tools
44444444444444444444444444444444-file
55555555555555555555555555555555-link
--
group
hosts
passwd
--
fd
full
null
ptmx
pts
random
shm
stderr
stdin
stdout
tty
urandom
zero
--
/proc/1
--
44444444444444444444444444444444-file
44444444444444444444444444444444-file
root:x:0:0:Nix build user:/build:/noshell
nixbld:x:1000:100:Nix build user:/build:/noshell
nobody:x:65534:65534:Nobody:/:/noshell
root:x:0:
nixbld:!:100:
nogroup:x:65534:
127.0.0.1 localhost
::1 localhost
--
localhost
1777
755
/dev/null
no input
`
	if diff := cmp.Diff(want, build(t, s)); diff != "" {
		t.Errorf("seen (-want +got):\n%s", diff)
	}
	if _, err := os.Stat(filepath.Join(s.StoreMount, file)); err != nil {
		t.Error(err)
	}
}

func TestHostSeenWithoutSandbox(t *testing.T) {
	s := newSpec(t, false, `test -e /etc/passwd; cd `+storeDir+`; ls -1; cat *-other; for f in *-other; do echo changed > $f; done; cat *-other`)
	other := filepath.Join(s.StoreMount, "44444444444444444444444444444444-other")
	if err := os.WriteFile(other, []byte("as it was\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	want := tools + "\n" + filepath.Base(other) + "\nas it was\nchanged\n"
	if got := build(t, s); got != want {
		t.Errorf("the log is %q; want %q", got, want)
	}
	if data, err := os.ReadFile(other); string(data) != "as it was\n" {
		t.Errorf("the store now holds %q, %v", data, err)
	}
}

// The store directory need not exist on the host, nor what is above it.
func TestStoreDirAnywhere(t *testing.T) {
	for _, missing := range []string{"", "/nix", "/nix/store"} {
		dir := t.TempDir()
		s := newSpec(t, false, `ls -1 `+dir+`; cat $0; echo hello > $out; echo new > `+dir+`/folder/new`)
		s.StoreDir = dir + missing
		s.Builder = s.StoreDir + "/" + tools + "/bin/sh"
		s.Args = append(s.Args, dir+"/file")
		s.Env = []string{"out=" + s.StoreDir + "/" + out, "PATH=" + filepath.Dir(s.Builder)}
		if missing != "" {
			if err := os.WriteFile(dir+"/file", []byte("text\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("file", dir+"/link"); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(dir+"/folder", 0o755); err != nil {
				t.Fatal(err)
			}
		} else {
			s.Args = []string{"-e", "-c", `echo hello > $out`}
		}
		got := build(t, s)
		if want := "file\nfolder\nlink\nnix\ntext\n"; missing != "" && got != want {
			t.Errorf("%q: the log is %q; want %q", missing, got, want)
		}
		if data, err := os.ReadFile(filepath.Join(s.Outputs, out)); string(data) != "hello\n" {
			t.Errorf("%q: the output is %q, %v", missing, data, err)
		}
		if _, err := os.Stat(dir + "/folder/new"); missing != "" && err != nil {
			t.Error(err)
		}
	}
}

// loopback mounts dir through FUSE.
func loopback(t *testing.T, dir string, options ...string) (mnt string) {
	t.Helper()
	mnt = t.TempDir()
	root, err := fusefs.NewLoopbackRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	server, err := fusefs.Mount(mnt, root, &fusefs.Options{MountOptions: fuse.MountOptions{Options: options, FsName: "test"}})
	if err != nil {
		t.Skipf("FUSE does not work here: %v", err)
	}
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return mnt
}

// An overlay cannot have its upper part on FUSE. Inputs are seen then, and nothing else of the store.
func TestWithoutOverlay(t *testing.T) {
	for _, sandboxed := range []bool{true, false} {
		s := newSpec(t, sandboxed, `ls -1 /nix/store; echo hello > $out; test -e /etc/passwd`)
		if err := os.WriteFile(filepath.Join(s.StoreMount, "secret"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		s.Outputs = loopback(t, s.Outputs)
		if got := build(t, s); got != tools+"\n" {
			t.Errorf("sandboxed=%v: it sees %q in the store; want %q", sandboxed, got, tools)
		}
		if entries, err := os.ReadDir(s.Outputs); err != nil || len(entries) != 1 || entries[0].Name() != out {
			t.Errorf("sandboxed=%v: in Outputs: %v, %v", sandboxed, entries, err)
		}
	}
}

// In the store a builder may do with what it makes whatever it may elsewhere, and nothing of it stays but what it has made.
func TestStoreFolder(t *testing.T) {
	const link = "55555555555555555555555555555555-link"
	s := newSpec(t, true, `cd /nix/store
		mkdir tmp tmp/sub; echo a > tmp/sub/a; ln tmp/sub/a tmp/b; mv tmp $out; mv $out/sub/a $out/a; rmdir $out/sub; ln -s a $out/c
		stat -c '%h %s' $out/a; touch gone; rm gone; rm `+link+`; ls -1`)
	if err := os.Symlink("nowhere", filepath.Join(s.StoreMount, link)); err != nil {
		t.Fatal(err)
	}
	s.Inputs = append(s.Inputs, link)
	if got, want := build(t, s), "2 2\n"+tools+"\n"+out+"\n"; got != want {
		t.Errorf("the log is %q; want %q", got, want)
	}
	var left []string
	err := filepath.WalkDir(s.Outputs, func(name string, _ os.DirEntry, err error) error {
		left = append(left, strings.TrimPrefix(name, s.Outputs))
		return err
	})
	if want := []string{"", "/" + out, "/" + out + "/a", "/" + out + "/b", "/" + out + "/c"}; err != nil || !slices.Equal(left, want) {
		t.Errorf("left in Outputs: %q, %v; want %q", left, err, want)
	}
}

func TestTmpDir(t *testing.T) {
	s := newSpec(t, true, `echo x > /tmp/x; stat -c %a /tmp; df -k /dev/shm | tail -n1 | tr -s ' ' | cut -d' ' -f2`)
	s.TmpDir, s.ShmSize = t.TempDir(), "1m"
	if got, want := build(t, s), "1777\n1024\n"; got != want {
		t.Errorf("the log is %q; want %q", got, want)
	}
	if _, err := os.Stat(s.TmpDir + "/x"); err != nil {
		t.Error(err)
	}
}

// Somebody outside who has the builder's terminal does not keep Run.
func TestTerminalOutside(t *testing.T) {
	s := newProbe(t, true, "pass")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", s.BuildDir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	var terminal []int
	go func() {
		conn, err := l.Accept()
		if err != nil {
			got <- err
			return
		}
		oob := make([]byte, 64)
		_, n, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(make([]byte, 1), oob)
		if err == nil {
			var messages []unix.SocketControlMessage
			if messages, err = unix.ParseSocketControlMessage(oob[:n]); err == nil && len(messages) == 1 {
				terminal, err = unix.ParseUnixRights(&messages[0])
			}
		}
		got <- err
	}()
	s.Args = []string{"/build/s"}
	if log, want := build(t, s), "socket: done\nconnect: done\nsend: done\n"; log != want {
		t.Errorf("the log is %q; want %q", log, want)
	}
	if err := <-got; err != nil || len(terminal) != 1 {
		t.Errorf("passed out: %v, %v", terminal, err)
	}
	for _, fd := range terminal {
		_ = unix.Close(fd)
	}
}

func TestNetwork(t *testing.T) {
	const script = `cut -d: -f1 -s /proc/net/dev | tr -d ' '`
	s := newSpec(t, true, script+`; ping -c1 -W1 127.0.0.1 >/dev/null 2>&1; ifconfig lo | grep -o 'UP LOOPBACK RUNNING'`)
	s.Args[2] = script + `; ifconfig lo | grep -o 'UP LOOPBACK RUNNING'; test ! -e /etc/resolv.conf`
	if got, want := build(t, s), "lo\nUP LOOPBACK RUNNING\n"; got != want {
		t.Errorf("without the network: %q; want %q", got, want)
	}
	host, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	s = newSpec(t, true, `readlink /proc/self/ns/net; cat /etc/nsswitch.conf; hostname`)
	s.Network = true
	if got, want := build(t, s), host+"\nhosts: files dns\nservices: files\nlocalhost\n"; got != want {
		t.Errorf("with the network: %q; want %q", got, want)
	}
}

func TestEnvironment(t *testing.T) {
	s := newSpec(t, true, `tr '\0' '\n' < /proc/self/environ; echo "$@"; echo $0`)
	s.Env = []string{"PATH=" + filepath.Dir(sh), "bytes=\xff\xfe\u00e4", "lines=a\tb"}
	s.Args = append(s.Args, "name", "one", "two three")
	if got, want := build(t, s), strings.Join(s.Env, "\n")+"\none two three\nname\n"; got != want {
		t.Errorf("the environment and arguments are %q; want %q", got, want)
	}
}

func TestExit(t *testing.T) {
	for _, tt := range []struct {
		script string
		want   sandbox.Exit
	}{
		{"exit 0", sandbox.Exit{}},
		{"exit 7", sandbox.Exit{Code: 7}},
		{"sleep 100 & exit 3", sandbox.Exit{Code: 3}},
		{"exit 255", sandbox.Exit{Code: 255}},
	} {
		s := newSpec(t, true, tt.script)
		if got, err := sandbox.Run(t.Context(), s); got != tt.want || err != nil {
			t.Errorf("Run(%s) = %v, %v; want %v", tt.script, got, err, tt.want)
		}
	}
	s := newProbe(t, true, "crash")
	if got, err := sandbox.Run(t.Context(), s); got.Signal != syscall.SIGSEGV || err != nil {
		t.Errorf("Run of a builder that crashes = %v, %v; want SIGSEGV", got, err)
	}
}

func TestSetupErrors(t *testing.T) {
	var log bytes.Buffer
	for _, tt := range []struct {
		name    string
		change  func(*sandbox.Spec)
		want    string
		builder bool
	}{
		{"no builder", func(s *sandbox.Spec) { s.Builder = storeDir + "/nothing" }, "execute '" + storeDir + "/nothing'", true},
		{"no input", func(s *sandbox.Spec) { s.Inputs = append(s.Inputs, "nothing") }, "show " + storeDir + "/nothing", false},
		{"no bind", func(s *sandbox.Spec) { s.Binds = []sandbox.Bind{{Source: "/nothing"}} }, "open /nothing", false},
		{"no store", func(s *sandbox.Spec) { s.StoreMount += "/nothing" }, "nothing", false},
		{"input is a path", func(s *sandbox.Spec) { s.Inputs = []string{"../store"} }, "not a base name", false},
		{"relative", func(s *sandbox.Spec) { s.Outputs = "out" }, "not an absolute path", false},
	} {
		for _, sandboxed := range []bool{true, false} {
			s := newSpec(t, sandboxed, "exit 0")
			tt.change(&s)
			s.Log = &log
			exit, err := sandbox.Run(t.Context(), s)
			if !sandboxed && (tt.name == "no input" || tt.name == "no bind") {
				if err != nil {
					t.Errorf("%s, without a sandbox: Run = %v, %v", tt.name, exit, err)
				}
				continue
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, sandbox.ErrBuilder) != tt.builder {
				t.Errorf("%s, sandboxed=%v: Run = %v, %v; want an error with %q", tt.name, sandboxed, exit, err, tt.want)
			}
			if _, ok := errors.AsType[*sandbox.SetupError](err); !ok {
				t.Errorf("%s: %T; want a SetupError", tt.name, err)
			}
		}
	}
	if log.Len() > 0 {
		t.Errorf("in the log: %q", &log)
	}
}

func TestBinds(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/file", []byte("bound\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := newSpec(t, true, `cat /a/b/c/file /one; echo new > /rw/file; ! echo new 2>/dev/null > /a/b/c/file; test ! -e /none`)
	rw := t.TempDir()
	s.Binds = []sandbox.Bind{
		{Source: dir, Target: "/a/b/c", ReadOnly: true},
		{Source: dir + "/file", Target: "/one", ReadOnly: true},
		{Source: rw, Target: "/rw"},
		{Source: "/nothing", Target: "/none", Optional: true},
	}
	if got, want := build(t, s), strings.Repeat("bound\n", 2); got != want {
		t.Errorf("the log is %q; want %q", got, want)
	}
	if data, err := os.ReadFile(rw + "/file"); string(data) != "new\n" {
		t.Errorf("written to a bind: %q, %v", data, err)
	}
}

// A link in an input, or in something bound, cannot lead the setting up out of the new root.
func TestBindsStayInside(t *testing.T) {
	s := newSpec(t, true, `ls /inner`)
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, dir+"/link"); err != nil {
		t.Fatal(err)
	}
	s.Binds = []sandbox.Bind{{Source: dir, Target: "/inner"}, {Source: "/etc/passwd", Target: "/inner/link/x", ReadOnly: true}}
	exit, err := sandbox.Run(t.Context(), s)
	if err == nil {
		t.Errorf("Run = %v, nil; want an error", exit)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("made outside: %v, %v", entries, err)
	}
}

func TestProbes(t *testing.T) {
	const eperm = "EPERM"
	wants := map[string]map[string]string{
		"modes": {
			"create": "done", "fchmod 755": "done", "fchmod 4755": eperm, "fchmod 2755": eperm, "fchmodat 4755": eperm,
			"fchmodat2 4755": eperm, "create 4755": eperm, "create 755": "done", "tmpfile 4755": eperm, "mknod 4755": eperm,
			"openat2": "ENOSYS", "io_uring_setup": "ENOSYS",
		},
		"xattrs": {
			"create": "done", "open": "done", "setxattr": "ENOTSUP", "lsetxattr": "ENOTSUP", "fsetxattr": "ENOTSUP",
		},
		"escape": {
			"mount": eperm, "remount": eperm, "umount": eperm, "pivot_root": eperm, "chroot": eperm, "mknod": eperm,
			"setuid": eperm + " EINVAL", "setgroups": eperm + " EINVAL", "sethostname": eperm, "write /": "EROFS", "write /etc": "EROFS",
			"make home": "EROFS", "core_pattern": "EROFS EACCES", "sysrq": "EROFS EACCES ENOENT", "chmod /dev/null": "EROFS", "raw socket": eperm,
		},
	}
	for name, want := range wants {
		for _, buildUser := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,buildUser=%v", name, buildUser), func(t *testing.T) {
				s := newProbe(t, true, name)
				if buildUser {
					asBuildUser(t, &s)
				}
				n := 0
				for line := range strings.Lines(build(t, s)) {
					what, got, _ := strings.Cut(strings.TrimSpace(line), ": ")
					if got = strings.Replace(got, "EOPNOTSUPP", "ENOTSUP", 1); !slices.Contains(strings.Fields(want[what]), got) {
						t.Errorf("%s: %s; want %s", what, got, want[what])
					}
					n++
				}
				if n != len(want) {
					t.Errorf("%d things were tried; want %d", n, len(want))
				}
			})
		}
	}
}

// In a user namespace of its own a builder has all capabilities, and still gets no further.
func TestNestedNamespace(t *testing.T) {
	s := newProbe(t, true, "nested")
	s.Args = []string{"-c", "exec unshare -Urm " + s.Builder}
	s.Builder = sh
	for line := range strings.Lines(build(t, s)) {
		what, got, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if done := got == "done"; done != (what == "mount") {
			t.Errorf("%s: %s", what, got)
		}
	}
}

func TestProcess(t *testing.T) {
	for _, sandboxed := range []bool{true, false} {
		s := newProbe(t, sandboxed, "self")
		const none = "0000000000000000"
		want := "CapInh: " + none + "\nCapPrm: " + none + "\nCapEff: " + none + "\nCapBnd: " + none + "\nCapAmb: " + none + `
NoNewPrivs: 1
Seccomp: 2
pid 1 pgid 1 sid 1
/dev/tty: ENXIO
core 0
personality 00040000
umask 022
argv ` + probeName + "\n"
		if diff := cmp.Diff(want, build(t, s)); diff != "" {
			t.Errorf("sandboxed=%v (-want +got):\n%s", sandboxed, diff)
		}
	}
}

// Open files can be passed through abstract sockets, which a network namespace keeps apart; with the host's network it
// takes the kernel's Landlock.
func TestAbstractSockets(t *testing.T) {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	for _, network := range []bool{false, true} {
		name := "narfs-test-" + newToken()
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", "@"+name)
		if err != nil {
			t.Fatal(err)
		}
		s := newProbe(t, true, "abstract")
		s.Network, s.Args = network, []string{name}
		connect := "ECONNREFUSED"
		if network {
			connect = "EPERM"
			if errno != 0 || abi < 6 {
				t.Skipf("the kernel's Landlock cannot keep a builder from abstract sockets: version %d, %v", abi, errno)
			}
		}
		want := "socket: done\nconnect: " + connect + "\nsocket: done\nbind: done\nlisten: done\nconnect to own: done\n"
		if got := build(t, s); got != want {
			t.Errorf("network=%v: %q; want %q", network, got, want)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A builder that closes its own folder does not keep Run from putting it in order.
func TestOutputsMode(t *testing.T) {
	s := newSpec(t, true, `echo hello > $out; chmod 0 /nix/store`)
	build(t, s)
	if fi, err := os.Stat(s.Outputs); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("Outputs is %v, %v; want its mode back", fi.Mode(), err)
	}
	if entries, err := os.ReadDir(s.Outputs); err != nil || len(entries) != 1 {
		t.Errorf("in Outputs: %v, %v", entries, err)
	}
}

func TestDescriptors(t *testing.T) {
	leak, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = leak.Close() }()
	if _, err := unix.FcntlInt(leak.Fd(), unix.F_SETFD, 0); err != nil {
		t.Fatal(err)
	}
	for _, sandboxed := range []bool{true, false} {
		s := newSpec(t, sandboxed, `ls -1 /proc/1/fd; true`)
		if got := build(t, s); got != "0\n1\n2\n" {
			t.Errorf("open descriptors: %q; want 0, 1 and 2", got)
		}
	}
}

// lineLog passes what is written to it on to whoever listens.
type lineLog chan string

func (l lineLog) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

func TestLogIsLive(t *testing.T) {
	s := newSpec(t, true, `printf 'first\r\n'; while ! test -e /build/go; do sleep 0.05; done; echo second >&2`)
	log := make(lineLog, 10)
	s.Log = log
	done := make(chan error, 1)
	go func() {
		_, err := sandbox.Run(t.Context(), s)
		done <- err
	}()
	if got := <-log; got != "first\r\n" {
		t.Errorf("the log began with %q", got)
	}
	if err := os.WriteFile(s.BuildDir+"/go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := <-log; got != "second\n" {
		t.Errorf("the log went on with %q", got)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

type failingLog struct{ err error }

func (l failingLog) Write([]byte) (int, error) { return 0, l.err }

func TestLogError(t *testing.T) {
	s := newSpec(t, true, `yes`)
	full := errors.New("the log is full")
	s.Log = failingLog{full}
	if exit, err := sandbox.Run(t.Context(), s); !errors.Is(err, full) || exit.Signal != syscall.SIGKILL {
		t.Errorf("Run = %v, %v; want %v and SIGKILL", exit, err, full)
	}
}

func TestLongLog(t *testing.T) {
	s := newSpec(t, true, `seq 1 200000`)
	got := build(t, s)
	if n := strings.Count(got, "\n"); n != 200000 || !strings.HasSuffix(got, "\n200000\n") {
		t.Errorf("%d lines came; want 200000", n)
	}
}

// manyProcesses starts children that are out of reach of whoever knows but their parents.
const manyProcesses = `
	(setsid sleep TOKEN &) ; (sleep TOKEN & sleep TOKEN & wait) & setsid sh -c 'trap "" TERM HUP INT; (sleep TOKEN &); sleep TOKEN' &
	for i in 1 2 3 4 5 6 7 8; do (sleep TOKEN &); done; echo ready; sleep TOKEN`

// processes returns how many processes have token among their arguments.
func processes(t *testing.T, token string) (n int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if line, err := os.ReadFile(p); err == nil && bytes.Contains(line, []byte("\x00"+token)) {
			n++
		}
	}
	return n
}

// newToken returns a number of seconds that no other test sleeps for.
func newToken() string { return strconv.Itoa(1_000_000 + rand.IntN(1_000_000_000)) }

func TestCancel(t *testing.T) {
	for _, sandboxed := range []bool{true, false} {
		token := newToken()
		s := newSpec(t, sandboxed, strings.ReplaceAll(manyProcesses, "TOKEN", token))
		log := make(lineLog, 10)
		s.Log = log
		why := errors.New("nobody wants it")
		ctx, cancel := context.WithCancelCause(t.Context())
		var began time.Time
		go func() {
			<-log
			for processes(t, token) < 10 {
				runtime.Gosched()
			}
			began = time.Now()
			cancel(why)
		}()
		exit, err := sandbox.Run(ctx, s)
		if took := time.Since(began); !errors.Is(err, why) || exit.Signal != syscall.SIGKILL || took > time.Second {
			t.Errorf("sandboxed=%v: Run = %v, %v after %v; want SIGKILL and %v within a second", sandboxed, exit, err, took, why)
		}
		if n := processes(t, token); n > 0 {
			t.Errorf("sandboxed=%v: %d processes are left", sandboxed, n)
		}
	}
}

const asDaemon = "NARFS_TEST_BUILD_DAEMON"

// daemon runs the builder that the file at path describes.
func daemon(path string) {
	data, err := os.ReadFile(path)
	var s sandbox.Spec
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		panic(err)
	}
	s.Log = os.Stdout
	if _, err := sandbox.Run(context.Background(), s); err != nil {
		panic(err)
	}
}

// A daemon that is killed leaves no process, even if the builder wants to outlive it.
func TestDaemonKilled(t *testing.T) {
	for _, name := range []string{"tree", "orphan"} {
		for _, sandboxed := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s,sandboxed=%v", name, sandboxed), func(t *testing.T) {
				token := newToken()
				s := newSpec(t, sandboxed, strings.ReplaceAll(manyProcesses, "TOKEN", token))
				if name == "orphan" {
					s = newProbe(t, sandboxed, name)
					s.Args = []string{token}
				}
				data, err := json.Marshal(s)
				if err != nil {
					t.Fatal(err)
				}
				path := filepath.Join(t.TempDir(), "spec")
				if err := os.WriteFile(path, data, 0o600); err != nil {
					t.Fatal(err)
				}
				cmd := exec.Command("/proc/self/exe")
				cmd.Env = append(os.Environ(), asDaemon+"="+path)
				cmd.Stderr = os.Stderr
				stdout, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				if _, err := stdout.Read(make([]byte, 100)); err != nil {
					t.Errorf("the builder said nothing: %v", err)
				}
				if processes(t, token) == 0 {
					t.Error("no builder runs")
				}
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				_ = cmd.Wait()
				deadline := time.Now().Add(2 * time.Second)
				for processes(t, token) > 0 {
					if time.Now().After(deadline) {
						t.Fatalf("%d processes are left", processes(t, token))
					}
					runtime.Gosched()
				}
			})
		}
	}
}

func TestManyInputs(t *testing.T) {
	const many = 5000
	s := newSpec(t, true, `ls /nix/store | wc -l`)
	for i := range many {
		name := fmt.Sprintf("%032d-input", i)
		if err := os.Mkdir(filepath.Join(s.StoreMount, name), 0o755); err != nil {
			t.Fatal(err)
		}
		s.Inputs = append(s.Inputs, name)
	}
	began := time.Now()
	got := build(t, s)
	t.Logf("%d inputs: %v", many, time.Since(began))
	if got != "5001\n" {
		t.Errorf("it sees %q inputs", got)
	}
	if entries, err := os.ReadDir(s.Outputs); err != nil || len(entries) > 0 {
		t.Errorf("%d entries are left in Outputs: %v", len(entries), err)
	}
}

// A FUSE mount is readable only to the ids that mounted it, and the builder has them.
func TestFUSEStore(t *testing.T) {
	for _, sandboxed := range []bool{true, false} {
		s := newSpec(t, sandboxed, `echo hello > $out; cat `+sh+` | wc -c`)
		s.StoreMount = loopback(t, s.StoreMount, "ro")
		if got, want := build(t, s), strconv.Itoa(len(busybox(t)))+"\n"; got != want {
			t.Errorf("sandboxed=%v: the log is %q; want %q", sandboxed, got, want)
		}
		if data, err := os.ReadFile(filepath.Join(s.Outputs, out)); string(data) != "hello\n" {
			t.Errorf("sandboxed=%v: the output is %q, %v", sandboxed, data, err)
		}
	}
}

// BenchmarkRun is what a builder that does nothing costs, and what it costs a process with much memory.
func BenchmarkRun(b *testing.B) {
	dir := b.TempDir()
	s := sandbox.Spec{
		Sandboxed: true, StoreDir: storeDir, StoreMount: dir + "/store", Outputs: dir + "/outputs", BuildDir: dir + "/build",
		Builder: "/bin/true", Binds: []sandbox.Bind{{Source: "/bin/busybox", Target: "/bin/true", ReadOnly: true}},
		UID: os.Getuid(), GID: os.Getgid(),
	}
	for _, d := range []string{s.StoreMount, s.Outputs, s.BuildDir} {
		if err := os.Mkdir(d, 0o755); err != nil {
			b.Fatal(err)
		}
	}
	for _, size := range []int{0, 100 << 20} {
		b.Run(fmt.Sprintf("memory=%dMiB", size>>20), func(b *testing.B) {
			memory := make([]byte, size)
			for i := 0; i < size; i += 4096 {
				memory[i] = 1
			}
			for b.Loop() {
				if exit, err := sandbox.Run(b.Context(), s); err != nil || exit != (sandbox.Exit{}) {
					b.Fatal(exit, err)
				}
			}
			runtime.KeepAlive(memory)
		})
	}
}

// With a control group, the time of all processes is known, also of those that nobody has waited for; and nothing is left of it.
func TestCgroup(t *testing.T) {
	s := newSpec(t, true, `i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done & i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo`)
	s.Cgroup, s.CPU = true, &sandbox.CPUTime{}
	exit, err := sandbox.Run(t.Context(), s)
	if setup, ok := errors.AsType[*sandbox.SetupError](err); ok && setup.Op == "make a control group" {
		t.Skipf("needs control groups of version 2 that can be made here: %v", err)
	}
	if err != nil || exit != (sandbox.Exit{}) {
		t.Fatalf("Run = %v, %v", exit, err)
	}
	if s.CPU.User < 50*time.Millisecond || s.CPU.User > time.Minute {
		t.Errorf("it took %+v", *s.CPU)
	}
	own := fmt.Sprintf("narfs-build-%d-", os.Getpid())
	_ = filepath.WalkDir("/sys/fs/cgroup", func(name string, entry os.DirEntry, _ error) error {
		if entry != nil && strings.HasPrefix(entry.Name(), own) {
			t.Errorf("left: %s", name)
		}
		return nil
	})
}
