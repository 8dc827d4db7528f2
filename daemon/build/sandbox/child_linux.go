package sandbox

import (
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Main becomes a builder, if this process was started to, and does not return then.
func Main() {
	if len(os.Args) != 1 || os.Args[0] != childName {
		return
	}
	runtime.LockOSThread() // what is said about a thread is said about the builder
	err := becomeBuilder()
	r := report{Text: err.Error()}
	if setup, ok := errors.AsType[*SetupError](err); ok {
		r.Op, r.Text, r.Builder = setup.Op, setup.Err.Error(), errors.Is(setup.Err, ErrBuilder)
		errno, _ := errors.AsType[syscall.Errno](setup.Err)
		r.Errno = int(errno)
	}
	text, _ := json.Marshal(r)
	_, _ = unix.Write(reportFD, text)
	unix.Exit(1)
}

// step does something on the way, and says what if it fails.
func step(op string, err error) error {
	if err == nil {
		return nil
	}
	return &SetupError{Op: op, Err: err}
}

func becomeBuilder() error {
	var o order
	if err := gob.NewDecoder(os.NewFile(orderFD, childName)).Decode(&o); err != nil {
		return step("read what to run", err)
	}
	// Also whatever this process was given by who started its parent.
	if err := unix.CloseRange(orderFD, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return step("close descriptors", err)
	}
	s := o.Spec
	if os.Getuid() != insideUID(s) {
		return step("run as another user", unix.EPERM)
	}
	if err := step("make mounts private", unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, "")); err != nil {
		return err
	}
	setUp := seeHost
	if s.Sandboxed {
		setUp = seeInputs
	}
	if err := setUp(s); err != nil {
		return err
	}
	if err := identity(s); err != nil {
		return err
	}
	if o.Probe {
		_, _ = unix.Write(reportFD, []byte{readyMark})
		unix.Exit(0)
	}
	if err := step("enter "+s.Dir, os.Chdir(s.Dir)); err != nil {
		return err
	}
	if err := confine(); err != nil {
		return err
	}
	_, _ = unix.Write(reportFD, []byte{readyMark})
	err := unix.Exec(s.Builder, append([]string{filepath.Base(s.Builder)}, s.Args...), s.Env)
	return step("execute '"+s.Builder+"'", errors.Join(ErrBuilder, err))
}

func insideUID(s Spec) int {
	uid, _ := inside(s)
	return uid
}

// identity is what is the same in all builders' eyes.
func identity(s Spec) error {
	if err := step("set the host name", unix.Sethostname([]byte("localhost"))); err != nil {
		return err
	}
	_ = unix.Setdomainname([]byte("(none)"))
	if !s.Network {
		if err := step("bring the loopback interface up", loopback()); err != nil {
			return err
		}
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return step("limit core dumps", err)
	}
	const addrNoRandomize = 0x0040000
	if old, _, errno := unix.Syscall(unix.SYS_PERSONALITY, 0xffffffff, 0, 0); errno == 0 {
		_, _, _ = unix.Syscall(unix.SYS_PERSONALITY, old|addrNoRandomize, 0, 0)
	}
	unix.Umask(0o022)
	return nil
}

func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // nothing to lose
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_LOOPBACK | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// confine takes away all that a builder must not have.
func confine() error {
	if err := step("drop capabilities", unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)); err != nil {
		return err
	}
	for c := 0; unix.Prctl(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0) == nil; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
			return step("drop capabilities", err)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := step("drop capabilities", unix.Capset(&header, &none[0])); err != nil {
		return err
	}
	if err := step("refuse new privileges", unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)); err != nil {
		return err
	}
	return step("filter system calls", filterCalls())
}

// seeHost puts the store of the builder in the place of the host's.
func seeHost(s Spec) error {
	options := fmt.Sprintf("userxattr,lowerdir=%s,upperdir=%s,workdir=%s", s.StoreMount, s.Outputs, workDir(s))
	if err := step("overlay the store directory", unix.Mount("overlay", s.StoreDir, "overlay", 0, options)); err != nil {
		return err
	}
	return step("mount /proc", unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""))
}

// newRoot is where the new root folder is put together: a folder that is there for sure, and of whose contents nothing is needed.
const newRoot = "/proc"

// seeInputs makes a root folder with what the builder is to see, and moves there.
func seeInputs(s Spec) error {
	if err := step("make a root folder", unix.Mount("root", newRoot, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755")); err != nil {
		return err
	}
	for _, dir := range []struct {
		name string
		mode os.FileMode
	}{{"/dev", 0o755}, {"/etc", 0o755}, {"/proc", 0o755}, {s.StoreDir, 0o775}, {s.BuildDirInside, 0o700}} {
		if err := step("make folders", os.MkdirAll(newRoot+dir.name, dir.mode)); err != nil {
			return err
		}
	}
	if err := bind(s.Outputs, s.StoreDir, false); err != nil {
		return err
	}
	for _, name := range s.Inputs {
		if err := bindInput(s, name); err != nil {
			return err
		}
	}
	if err := bind(s.BuildDir, s.BuildDirInside, false); err != nil {
		return err
	}
	if err := temporary(s); err != nil {
		return err
	}
	if err := devices(s); err != nil {
		return err
	}
	if err := files(s); err != nil {
		return err
	}
	for _, b := range s.Binds {
		if _, err := os.Stat(b.Source); err != nil {
			if b.Optional && errors.Is(err, os.ErrNotExist) {
				continue
			}
			return step("show "+b.Source, err)
		}
		if err := bind(b.Source, b.Target, b.ReadOnly); err != nil {
			return err
		}
	}
	if err := step("mount /proc", unix.Mount("proc", newRoot+"/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")); err != nil {
		return err
	}
	if err := step("enter the root folder", os.Chdir(newRoot)); err != nil {
		return err
	}
	// The old root ends up on top of the new one, and goes.
	if err := step("change the root folder", unix.PivotRoot(".", ".")); err != nil {
		return err
	}
	if err := step("leave the old root folder", unix.Unmount(".", unix.MNT_DETACH)); err != nil {
		return err
	}
	return step("enter the root folder", os.Chdir("/"))
}

// bind shows a file or folder of the host at a place below the new root.
func bind(source, target string, readOnly bool) error {
	info, err := os.Stat(source)
	if err != nil {
		return step("show "+source, err)
	}
	place := newRoot + target
	if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
		return step("show "+source, err)
	}
	if info.IsDir() {
		err = os.MkdirAll(place, 0o755)
	} else {
		var f *os.File
		if f, err = os.OpenFile(place, os.O_CREATE|os.O_WRONLY, 0o644); err == nil {
			err = f.Close()
		}
	}
	if err == nil {
		err = unix.Mount(source, place, "", unix.MS_BIND|unix.MS_REC, "")
	}
	if err == nil && readOnly {
		err = unix.MountSetattr(-1, place, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	}
	return step("show "+source, err)
}

// bindInput shows an input. What is a link is made again: it cannot be bound.
func bindInput(s Spec, name string) error {
	source, target := filepath.Join(s.StoreMount, name), filepath.Join(s.StoreDir, name)
	info, err := os.Lstat(source)
	if err != nil {
		return step("show "+source, err)
	}
	if info.Mode().Type() != os.ModeSymlink {
		return bind(source, target, true)
	}
	to, err := os.Readlink(source)
	if err == nil {
		err = os.Symlink(to, newRoot+target)
	}
	return step("show "+source, err)
}

// temporary makes /tmp.
func temporary(s Spec) error {
	if s.TmpDir != "" {
		return bind(s.TmpDir, "/tmp", false)
	}
	if err := step("make /tmp", os.MkdirAll(newRoot+"/tmp", 0o755)); err != nil {
		return err
	}
	return step("make /tmp", os.Chmod(newRoot+"/tmp", 0o777|os.ModeSticky))
}

// devices fills /dev.
func devices(s Spec) error {
	names := []string{"full", "null", "random", "tty", "urandom", "zero"}
	if s.KVM {
		names = append(names, "kvm")
	}
	for _, name := range names {
		if err := bind("/dev/"+name, "/dev/"+name, false); err != nil && name != "kvm" {
			return err
		}
	}
	dev := newRoot + "/dev/"
	for link, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
	} {
		if err := step("make /dev", os.Symlink(target, dev+link)); err != nil {
			return err
		}
	}
	for _, name := range []string{"shm", "pts"} {
		if err := step("make /dev", os.Mkdir(dev+name, 0o755)); err != nil {
			return err
		}
	}
	if err := step("mount /dev/shm", unix.Mount("shm", dev+"shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777,size="+s.ShmSize)); err != nil {
		return err
	}
	return step("mount /dev/pts", unix.Mount("devpts", dev+"pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,mode=0620,ptmxmode=0666"))
}

// files fills /etc.
func files(s Spec) error {
	uid, gid := inside(s)
	texts := map[string]string{
		"passwd": fmt.Sprintf("root:x:0:0:Nix build user:%[3]s:/noshell\nnixbld:x:%[1]d:%[2]d:Nix build user:%[3]s:/noshell\nnobody:x:65534:65534:Nobody:/:/noshell\n",
			uid, gid, s.BuildDirInside),
		"group": fmt.Sprintf("root:x:0:\nnixbld:!:%d:\nnogroup:x:65534:\n", gid),
	}
	if !s.Network {
		texts["hosts"] = "127.0.0.1 localhost\n::1 localhost\n"
	}
	for name, text := range texts {
		if err := step("make /etc/"+name, os.WriteFile(newRoot+"/etc/"+name, []byte(text), 0o444)); err != nil {
			return err
		}
	}
	if !s.Network {
		return nil
	}
	for _, name := range []string{"/etc/resolv.conf", "/etc/services", "/etc/hosts", "/etc/nsswitch.conf"} {
		if _, err := os.Stat(name); err == nil {
			if err := bind(name, name, true); err != nil {
				return err
			}
		}
	}
	return nil
}
