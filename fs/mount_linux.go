package fs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	canPush      = true
	capNoOpenDir = fuse.CAP_NO_OPENDIR_SUPPORT
	devFuse      = "/dev/fuse"
	fuseConf     = "/etc/fuse.conf"
)

// extraCapabilities: READDIRPLUS only where attributes are wanted; no requests to open directories; file handles
// (name_to_handle_at, NFS export), which stateless node ids give for nothing.
func extraCapabilities(*Options) uint64 {
	return fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_NO_OPENDIR_SUPPORT | fuse.CAP_EXPORT_SUPPORT
}

// helperOptions: attach has them already.
func helperOptions(*Options) []string { return nil }

// attach mounts and returns go-fuse's name for the connection. We mount ourselves rather than leave it to go-fuse:
// the helper's message becomes part of the error, and a connection that was mounted elsewhere can be served, too.
func attach(ctx context.Context, dir string, o *Options) (target string, err error) {
	var fd int
	if os.Geteuid() == 0 && !o.Helper {
		fd, err = mountDirect(dir, o)
	} else {
		fd, err = mountHelper(ctx, dir, o)
	}
	if err != nil {
		return "", err
	}
	return "/dev/fd/" + strconv.Itoa(fd), nil
}

// detachAfter undoes attach when serving did not begin. go-fuse has closed the connection.
func detachAfter(ctx context.Context, _, dir string) error { return detach(ctx, dir, true) }

// mountFlags are the options of mount(8) that are not for FUSE but for every file system.
func mountFlags(option string) (uintptr, bool) {
	switch option {
	case "ro", "nosuid", "nodev":
		return 0, true // set in any case
	case "noexec":
		return unix.MS_NOEXEC, true
	case "noatime":
		return unix.MS_NOATIME, true
	case "nodiratime":
		return unix.MS_NODIRATIME, true
	case "relatime":
		return unix.MS_RELATIME, true
	case "nosymfollow":
		return unix.MS_NOSYMFOLLOW, true
	}
	return 0, false
}

// mountDirect calls mount(2), which needs root or a user namespace of one's own.
func mountDirect(dir string, o *Options) (fd int, err error) {
	fd, err = unix.Open(devFuse, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: devFuse, Err: err}
	}
	// The superblock itself is read-only, not only the mount: else the kernel asks for the attributes of every
	// directory that is listed, because its access time could have changed.
	flags := uintptr(unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV)
	data := []string{
		"fd=" + strconv.Itoa(fd), "rootmode=40000",
		"user_id=" + strconv.Itoa(os.Geteuid()), "group_id=" + strconv.Itoa(os.Getegid()),
		"max_read=" + strconv.Itoa(maxRead), "default_permissions",
	}
	if o.AllowOther {
		data = append(data, "allow_other")
	}
	for _, e := range o.Extra {
		if flag, ok := mountFlags(e); ok {
			flags |= flag
		} else {
			data = append(data, e)
		}
	}
	if err := unix.Mount(o.Name, dir, "fuse."+fsType, flags, strings.Join(data, ",")); err != nil {
		_ = unix.Close(fd)
		return -1, os.NewSyscallError("mount", err)
	}
	return fd, nil
}

// mountHelper asks fusermount3, which is set-uid root, to mount.
func mountHelper(ctx context.Context, dir string, o *Options) (fd int, err error) {
	if o.AllowOther && os.Geteuid() != 0 && !userAllowOther() {
		return -1, fmt.Errorf("allow_other for a user who is not root needs the line user_allow_other in %s", fuseConf)
	}
	helper, err := helperPath()
	if err != nil {
		return -1, err
	}
	options := []string{"ro", "nosuid", "nodev", "default_permissions", "fsname=" + o.Name, "subtype=" + fsType, "max_read=" + strconv.Itoa(maxRead)}
	if o.AllowOther {
		options = append(options, "allow_other")
	}
	options = append(options, o.Extra...)
	escape := strings.NewReplacer(`\`, `\\`, `,`, `\,`)
	for i := range options {
		options[i] = escape.Replace(options[i])
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "fusermount3"), os.NewFile(uintptr(pair[1]), "fusermount3")
	defer ours.Close() //nolint:errcheck // nothing to lose
	cmd := exec.CommandContext(ctx, helper, "-o", strings.Join(options, ","), "--", dir)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{theirs}
	err = runHelper(cmd)
	_ = theirs.Close() // else nobody would end the wait for a descriptor that was not sent
	if err != nil {
		return -1, err
	}
	return receive(ours)
}

// receive takes the descriptor that the helper sent before it ended.
func receive(sock *os.File) (fd int, err error) {
	conn, err := net.FileConn(sock)
	if err != nil {
		return -1, err
	}
	defer conn.Close() //nolint:errcheck // nothing to lose
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return -1, errors.New("fusermount3: not a unix socket")
	}
	var buf [8]byte
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unixConn.ReadMsgUnix(buf[:], oob)
	if err != nil {
		return -1, fmt.Errorf("fusermount3 sent no descriptor: %w", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return -1, errors.New("fusermount3 sent no descriptor")
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return -1, errors.New("fusermount3 sent no descriptor")
	}
	unix.CloseOnExec(fds[0])
	return fds[0], nil
}

// helperPath finds fusermount3, or fusermount of the days of libfuse 2, also for a user whose PATH is short.
func helperPath() (string, error) {
	for _, name := range []string{"fusermount3", "fusermount"} {
		for _, candidate := range []string{name, "/run/wrappers/bin/" + name, "/usr/bin/" + name, "/bin/" + name} {
			if path, err := exec.LookPath(candidate); err == nil {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("who is not root needs fusermount3 (package fuse3) to mount: %w", exec.ErrNotFound)
}

// runHelper makes what the helper says the error.
func runHelper(cmd *exec.Cmd) error {
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	err := cmd.Run()
	if err == nil {
		return nil
	}
	text := strings.TrimSpace(said.String())
	text = strings.TrimPrefix(text, filepath.Base(cmd.Path)+": ")
	switch {
	case text == "":
		return fmt.Errorf("%s: %w", filepath.Base(cmd.Path), err)
	case strings.Contains(text, "resource busy"):
		return fmt.Errorf("%s: %s: %w", filepath.Base(cmd.Path), text, syscall.EBUSY)
	}
	return fmt.Errorf("%s: %s", filepath.Base(cmd.Path), text)
}

// detach unmounts what is mounted at dir; lazily, also if it is in use or dead.
func detach(ctx context.Context, dir string, lazy bool) error {
	flags := unix.UMOUNT_NOFOLLOW
	if lazy {
		flags |= unix.MNT_DETACH
	}
	err := unix.Unmount(dir, flags)
	if err == nil || os.Geteuid() == 0 || !errors.Is(err, unix.EPERM) {
		return os.NewSyscallError("umount", err)
	}
	helper, err := helperPath()
	if err != nil {
		return err
	}
	args := []string{"-u"}
	if lazy {
		args = append(args, "-z")
	}
	return runHelper(exec.CommandContext(ctx, helper, append(args, "--", dir)...))
}

// settle finishes a mount whose server runs on a connection.
func (m *Mount) settle(_ *fuse.Server, target string) error {
	at, err := mountedAt(m.dir)
	if err != nil {
		return err
	}
	m.id = at.Device
	fd, err := strconv.Atoi(filepath.Base(target))
	if err != nil {
		return err
	}
	apart(fd, func() { noPolling(m.dir) })
	if m.opts.ReadAhead > 0 {
		// The limit that the mount negotiates can only lower the kernel's 128 KiB. As a user this fails, and reads
		// are a little slower.
		file := "/sys/class/bdi/" + m.id + "/read_ahead_kb"
		if err := os.WriteFile(file, []byte(strconv.Itoa(m.opts.ReadAhead>>10)), 0); err != nil {
			m.opts.Logger.Debug("read-ahead stays as it is", "err", err)
		}
	}
	return nil
}

// apart calls fn on a thread that has descriptors of its own, without that of the connection, and waits for it. A file of our
// own mount must not be open otherwise: the end of a process that is killed closes its descriptors one after the other, and
// closing such a file waits for the answer to a FLUSH that only the end of the connection can give. If that had the higher
// number, nothing would ever end the process.
func apart(conn int, fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			// The main thread cannot end. While it is held here, the next try gets another one.
			apart(conn, fn)
			runtime.UnlockOSThread()
			return
		}
		// Not unlocked: the thread, and with it its descriptors, ends with this function.
		if err := unix.Unshare(unix.CLONE_FILES); err != nil {
			return // what fn does is a precaution
		}
		_ = unix.Close(conn)
		fn()
	}()
	<-done
}

// noPolling makes the kernel ask go-fuse once whether files can be polled; it says no for good. Else a Go program that
// opens a file of its own mount could wait for itself: the runtime polls what it opens without telling its scheduler.
func noPolling(dir string) {
	fd, err := unix.Open(filepath.Join(dir, ".go-fuse-epoll-hack"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return // not allowed to look at the mount: then this process cannot hang in it
	}
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	_ = unix.Close(fd)
}
