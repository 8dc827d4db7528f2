package mount_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/narfs/narfs/tests/env"
)

// TestDeadServer: a killed server leaves a mount that is told of, and that can be taken away or mounted over.
func TestDeadServer(t *testing.T) {
	env.Require(t, env.Fuse())
	file := filepath.Join(env.Dir(t), "file")
	write(t, file, "hello\n", 0o644)
	store := env.NewStore(t)
	name := add(t, store, file)
	kill := func(m *env.Mount) {
		m.Server.Kill()
		m.Server.Wait()
		if mounted, err := env.Mounted(m.Dir); err != nil || !mounted {
			t.Fatalf("Mounted(%s) = %v, %v after a kill; want the dead mount", m.Dir, mounted, err)
		}
	}
	dead := store.Mount()
	kill(dead)
	if result := store.Run("doctor"); result.Code != 1 || !strings.Contains(result.Stdout, "narfs umount --force "+dead.Dir) {
		t.Errorf("narfs doctor = %+v; want exit code 1, and how to take away %s", result, dead.Dir)
	}
	// The store has suffered nothing, and nobody waits for the dead owner.
	if got := store.Must("cat", name); got != "hello" {
		t.Errorf("narfs cat = %q; want hello", got)
	}
	store.Must("umount", "--force", dead.Dir)
	if mounted, err := env.Mounted(dead.Dir); err != nil || mounted {
		t.Errorf("Mounted(%s) = %v, %v after narfs umount --force; want false", dead.Dir, mounted, err)
	}

	dead = store.Mount()
	kill(dead)
	again := env.Start(t, store.Command("mount", dead.Dir))
	env.Eventually(t, "the mount is alive", func() (bool, error) {
		b, err := os.ReadFile(filepath.Join(dead.Dir, name))
		return err == nil && string(b) == "hello\n", nil
	})
	if code := again.Stop(); code != 0 {
		t.Errorf("narfs mount exited with %d: %s", code, again.Output())
	}
}

// TestBusy: a mount that somebody uses goes by signal at once, and by umount only with force.
func TestBusy(t *testing.T) {
	env.Require(t, env.Fuse())
	file := filepath.Join(env.Dir(t), "file")
	write(t, file, strings.Repeat("hello\n", 100_000), 0o644)
	store := env.NewStore(t)
	name := add(t, store, file)
	mount := store.Mount()
	f, err := os.Open(filepath.Join(mount.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read
	if result := store.Run("umount", mount.Dir); result.Code != 1 || !strings.Contains(result.Stderr, "hint: narfs umount --force") {
		t.Errorf("narfs umount of what is in use = %+v; want exit code 1 and a hint", result)
	}
	store.Must("umount", "--force", mount.Dir)
	// Its user can go on; the server ends with him.
	if _, err := f.ReadAt(make([]byte, 100), 500_000); err != nil {
		t.Errorf("ReadAt after narfs umount --force = %v", err)
	}
	_ = f.Close()
	if code := mount.Server.Wait(); code != 0 {
		t.Errorf("narfs mount exited with %d: %s", code, mount.Server.Output())
	}
}

// TestXattr: extended attributes tell what narfs knows about a path.
func TestXattr(t *testing.T) {
	env.Require(t, env.Fuse())
	file := filepath.Join(env.Dir(t), "file")
	write(t, file, "hello\n", 0o644)
	store := env.NewStore(t)
	name := add(t, store, file)
	path := filepath.Join(store.Mount("-o", "xattr").Dir, name)
	var infos map[string]struct {
		NarHash string `json:"narHash"`
	}
	if err := json.Unmarshal([]byte(store.Must("info", "--json", name)), &infos); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1000)
	n, err := unix.Getxattr(path, "user.narfs.size", buf)
	if err != nil || string(buf[:n]) != "120" {
		t.Errorf("Getxattr(user.narfs.size) = %q, %v; want 120", buf[:max(n, 0)], err)
	}
	n, err = unix.Listxattr(path, buf)
	if err != nil || !bytes.Contains(buf[:n], []byte("user.narfs.hash\x00")) {
		t.Errorf("Listxattr = %q, %v; want user.narfs.hash in it", buf[:max(n, 0)], err)
	}
	if _, err = unix.Getxattr(path, "user.narfs.deriver", buf); !errors.Is(err, unix.ENODATA) {
		t.Errorf("Getxattr of what it does not have = %v; want ENODATA", err)
	}
}

// TestStatfs: df tells the free space of the state directory, and the number of paths.
func TestStatfs(t *testing.T) {
	env.Require(t, env.Fuse())
	file := filepath.Join(env.Dir(t), "file")
	write(t, file, "hello\n", 0o644)
	store := env.NewStore(t)
	add(t, store, file)
	mount := store.Mount()
	var got, disk unix.Statfs_t
	if err := errors.Join(unix.Statfs(mount.Dir, &got), unix.Statfs(store.State, &disk)); err != nil {
		t.Fatal(err)
	}
	free := float64(got.Bavail) * float64(got.Bsize)
	if want := float64(disk.Bavail) * float64(disk.Bsize); free < want*0.9 || free > want*1.1 {
		t.Errorf("statfs tells %g free bytes; the disk has %g", free, want)
	}
	// They are counted beside; until then nobody waits, and the root's links are not too few for find.
	files := func(want uint64) {
		t.Helper()
		env.Eventually(t, fmt.Sprintf("statfs tells %d paths", want), func() (bool, error) {
			err := unix.Statfs(mount.Dir, &got)
			return got.Files == want, err
		})
		if info, err := os.Stat(mount.Dir); err != nil || info.Size() != int64(want) || info.Sys().(*syscall.Stat_t).Nlink < 2+1 {
			t.Errorf("the root is %+v, %v; want a size of %d", info, err, want)
		}
	}
	files(1)
	write(t, file, "hello again\n", 0o644)
	name := add(t, store, file)
	files(2)
	store.Must("delete", name)
	files(1)
}

// asNobody runs a program as a user without rights.
func asNobody(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	env.Require(t, env.Root())
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	return cmd
}

// open lets everybody through to a place that the test made.
func open(t *testing.T, dir string) string {
	t.Helper()
	for d := filepath.Dir(dir); d != "/"; d = filepath.Dir(d) {
		info, err := os.Stat(d)
		if err == nil && info.Mode().Perm()&0o111 != 0o111 {
			err = os.Chmod(d, info.Mode().Perm()|0o111)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestOtherUsers: others are kept out of a mount unless --allow-other lets them in.
func TestOtherUsers(t *testing.T) {
	env.Require(t, env.Fuse(), env.Root())
	file := filepath.Join(env.Dir(t), "file")
	write(t, file, "hello\n", 0o600)
	store := env.NewStore(t)
	name := add(t, store, file)
	private, public := store.Mount(), store.Mount("--allow-other")
	for dir, want := range map[string]int{private.Dir: 1, public.Dir: 0} {
		cmd := asNobody(t, exec.CommandContext(t.Context(), "cat", filepath.Join(open(t, dir), name)))
		if got := env.Run(t, cmd); got.Code != want {
			t.Errorf("cat as another user = %+v; want exit code %d", got, want)
		}
	}
}

// TestUser: who is not root has a store and a mount of his own, into which root does not reach by mistake.
func TestUser(t *testing.T) {
	env.Require(t, env.Fuse(), env.Root(), env.Program("fusermount3"))
	if info, err := os.Stat("/dev/fuse"); err != nil || info.Mode().Perm()&0o006 != 0o006 {
		t.Skip("needs /dev/fuse for everybody: chmod 666 /dev/fuse")
	}
	home := open(t, mkdir(t, env.Dir(t), "home"))
	binary := filepath.Join(home, "narfs")
	shell(t, `cp "$1" "$2" && chmod 755 "$2"`, env.Binary(t), binary)
	own := mkdir(t, home, "own")
	if err := os.Chown(own, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	narfs := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), binary, args...)
		cmd.Env = []string{"HOME=" + own, "PATH=" + os.Getenv("PATH")}
		cmd.Dir = own
		return asNobody(t, cmd)
	}
	write(t, filepath.Join(home, "file"), "hello\n", 0o644)
	name := filepath.Base(env.Must(t, narfs("add", filepath.Join(home, "file"))))
	state := filepath.Join(own, ".local", "state", "narfs")
	if _, err := os.Stat(state); err != nil {
		t.Errorf("the user's state directory is not where it should be: %v", err)
	}
	t.Cleanup(func() { env.UnmountBelow(t, own) })
	env.Must(t, narfs("--version"))
	if err := os.Mkdir(filepath.Join(own, "mnt"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(own, "mnt"), 65534, 65534); err != nil {
		t.Fatal(err)
	}
	mount := narfs("mount", "mnt")
	mount.Cancel = func() error { return nil }
	server := env.Start(t, mount)
	env.Eventually(t, "it is mounted", func() (bool, error) { return env.Mounted(filepath.Join(own, "mnt")) })
	cat := asNobody(t, exec.CommandContext(t.Context(), "cat", filepath.Join(own, "mnt", name)))
	if got := env.Must(t, cat); got != "hello" {
		t.Errorf("cat = %q; want hello", got)
	}
	if got := env.Must(t, narfs("cat", name)); got != "hello" {
		t.Errorf("narfs cat = %q; want hello", got)
	}
	if got := env.Run(t, narfs("mount", "--allow-other", "mnt")); got.Code != 1 || !strings.Contains(got.Stderr, "narfs") {
		t.Errorf("narfs mount --allow-other = %+v; want exit code 1", got)
	}
	// Root is a guest there as others are, and gives no descriptor of his to a user's process: it gets pipes.
	root := exec.CommandContext(t.Context(), binary, "--state", state, "ls")
	if got := env.Run(t, root); got.Code != 0 || !strings.Contains(got.Stdout, name) {
		t.Errorf("narfs ls as root = %+v; want %s", got, name)
	}
	root = exec.CommandContext(t.Context(), binary, "--state", state, "delete", name)
	if got := env.Run(t, root); got.Code != 1 || !strings.Contains(got.Stderr, "is not done for other users") {
		t.Errorf("narfs delete as root = %+v; want that it is not done", got)
	}
	env.Must(t, narfs("umount", "mnt"))
	if code := server.Wait(); code != 0 {
		t.Errorf("narfs mount exited with %d: %s", code, server.Output())
	}
	// A user cannot open root's store.
	store := env.NewStore(t)
	add(t, store, filepath.Join(home, "file"))
	if got := env.Run(t, narfs("--state", open(t, store.State), "ls")); got.Code != 1 || !strings.Contains(got.Stderr, "hint: ") {
		t.Errorf("narfs ls of root's store = %+v; want exit code 1 and a hint", got)
	}
}

// TestMount8: mount(8) and fstab use the helper. A mount namespace of its own gets it into /usr/sbin.
func TestMount8(t *testing.T) {
	env.Require(t, env.Fuse(), env.Root(), env.Program("unshare"), env.Program("mount"))
	work := env.Dir(t)
	file := filepath.Join(work, "file")
	write(t, file, "hello\n", 0o644)
	store := env.NewStore(t)
	name := add(t, store, file)
	const prepare = `
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/mnt"
mount -t overlay -o "lowerdir=/usr/sbin,upperdir=$1/upper,workdir=$1/work" none /usr/sbin
ln -s "$2" /usr/sbin/mount.fuse.narfs
`
	unshare := func(script string) *exec.Cmd {
		return exec.CommandContext(t.Context(), "unshare", "--mount", "sh", "-ec", prepare+script, "sh",
			mkdir(t, work, "tmp"), env.Binary(t), store.State, name)
	}
	if got := env.Run(t, unshare("")); got.Code != 0 {
		t.Skipf("needs a mount namespace with an overlay: %s", got.Stderr)
	}
	got := env.Must(t, unshare(`
mount -t fuse.narfs -o noexec,case_hack=on "$3" "$1/mnt"
cat "$1/mnt/$4"
grep -o "fuse.narfs ro,nosuid,nodev,noexec" /proc/mounts
umount "$1/mnt"
"$2" --state "$3" ls >/dev/null # waits for the end of who has served it
echo "$3 $1/mnt fuse.narfs allow_other,noauto 0 0" >"$1/fstab"
mount --fstab "$1/fstab" "$1/mnt"
cat "$1/mnt/$4"
umount "$1/mnt"
"$2" --state "$3" ls >/dev/null # waits for the end of who has served it
rm /usr/sbin/mount.fuse.narfs
if [ -e /sbin/mount.fuse ]; then # libfuse's helper starts narfs from PATH
	ln -s "$2" /usr/sbin/narfs
	mount -t fuse.narfs "$3" "$1/mnt"
	cat "$1/mnt/$4"
	umount "$1/mnt"
	"$2" --state "$3" ls >/dev/null # waits for the end of who has served it
else
	echo hello
fi`))
	if want := "hello\nfuse.narfs ro,nosuid,nodev,noexec" + strings.Repeat("\nhello", 2); got != want {
		t.Errorf("mount(8) showed %q; want %q", got, want)
	}
}
