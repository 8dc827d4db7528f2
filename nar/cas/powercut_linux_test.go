package cas_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The power of an ext4 on a loop device is cut: its shutdown ioctl drops everything that is not
// on the device, the log unflushed; then it is mounted again.
func TestPowerCutExt4(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a loop device")
	}
	for _, tool := range []string{"mkfs.ext4", "losetup"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s", tool)
		}
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("needs loop devices")
	}
	base := t.TempDir()
	img, mnt := filepath.Join(base, "img"), filepath.Join(base, "mnt")
	if err := os.Mkdir(mnt, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, img, "")
	if err := os.Truncate(img, 512<<20); err != nil {
		t.Fatal(err)
	}
	command(t, "mkfs.ext4", "-q", img)
	w := newWorkload(t)
	rng := rand.New(rand.NewPCG(3, 4))
	changes := 0
	for run := range longRuns(60, 5) {
		mountLoop(t, img, mnt)
		v := startVictim(t, filepath.Join(mnt, "store"), run)
		time.Sleep(time.Duration(rng.IntN(800)) * time.Millisecond)
		v.stop(t)
		cutExt4(t, mnt)
		changes += v.kill(t, w)
		command(t, "umount", mnt)
		mountLoop(t, img, mnt)
		o := small()
		o.PackSize = 24 << 10
		s := open(t, filepath.Join(mnt, "store"), o)
		w.holds(t, s)
		w.settle(s)
		closeStore(t, s)
		command(t, "umount", mnt)
	}
	t.Logf("%d changes were acknowledged", changes)
}

// stop halts all threads of the child. An fdatasync that the shutdown meets half-way may say
// that all is well, which no disk does whose power is cut: it loses the last change in one of a
// hundred runs. What is written and not synced is lost all the same.
func (v *victim) stop(tb testing.TB) {
	tb.Helper()
	if err := v.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		tb.Fatal(err)
	}
	for range 2000 {
		stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", v.cmd.Process.Pid))
		if err != nil {
			tb.Fatal(err)
		}
		stopped := 0
		for _, name := range stats {
			if b, err := os.ReadFile(name); err == nil && strings.Contains(string(b), ") T ") {
				stopped++
			}
		}
		if stopped == len(stats) {
			return
		}
		time.Sleep(time.Millisecond)
	}
	tb.Fatal("the child does not stop")
}

// mountLoop mounts an image. If another mount namespace, of a sandbox say, was made while it was mounted
// the last time, that one keeps the dead file system until it ends.
func mountLoop(tb testing.TB, img, mnt string) {
	tb.Helper()
	tb.Cleanup(func() { _ = unix.Unmount(mnt, unix.MNT_DETACH) })
	var err error
	for range 600 {
		if out, merr := exec.Command("mount", "-o", "loop", img, mnt).CombinedOutput(); merr != nil {
			tb.Skipf("cannot mount a loop device here: %s", out)
		}
		if err = os.WriteFile(filepath.Join(mnt, "alive"), nil, 0o600); err == nil {
			return
		}
		command(tb, "umount", mnt)
		time.Sleep(50 * time.Millisecond)
	}
	tb.Fatal(err)
}

func command(tb testing.TB, name string, args ...string) {
	tb.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		tb.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// cutExt4 is EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH.
func cutExt4(tb testing.TB, mnt string) {
	tb.Helper()
	d, err := os.Open(mnt)
	if err != nil {
		tb.Fatal(err)
	}
	const shutdown, noLogFlush = 0x8004587d, 2
	if err := unix.IoctlSetPointerInt(int(d.Fd()), shutdown, noLogFlush); err != nil {
		tb.Fatal(fmt.Errorf("shutdown of ext4: %w", err))
	}
	if err := d.Close(); err != nil {
		tb.Fatal(err)
	}
}
