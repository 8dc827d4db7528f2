package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Attributes of mounts.
const (
	plain    = 0
	harmless = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	readOnly = unix.MOUNT_ATTR_RDONLY
)

// piece is a mount that belongs to no place yet, to be seen at target.
type piece struct {
	fd     int
	target string
	dir    bool
}

// setup holds what was opened while the host's files could be reached, and as whom they could.
type setup struct {
	spec Spec

	anchor                 int // a folder of the host, where the new root is put until it is the root
	root                   int // the root of what the builder will see
	store                  int // StoreMount, as a mount of its own
	outputs, build, tmp    int // likewise; tmp is -1 if it is to be in memory
	lower, upper, workDir  int // the same as folders of the host's mounts, as overlayfs wants them
	storeDir, host, hostAt int // StoreDir on the host, or -1; then the lowest folder above it that exists
	devices, binds         []piece
}

// tree returns a copy of the mounts at path, with further attributes.
func tree(dir int, path string, attr uint64, flags uint) (int, error) {
	fd, err := unix.OpenTree(dir, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|flags)
	if err != nil {
		return -1, err
	}
	if attr != 0 {
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|flags&unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: attr}); err != nil {
			_ = unix.Close(fd)
			return -1, err
		}
	}
	return fd, nil
}

func openPath(path string) (int, error) {
	return unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// fdPath is a path that leads to what fd is, whatever is mounted over it.
func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// newFS returns a mount of a new file system; the options are pairs of name and value.
func newFS(kind string, attr int, options ...string) (int, error) {
	fs, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(fs) }()
	for i := 0; i < len(options); i += 2 {
		if options[i+1] == "" {
			err = unix.FsconfigSetFlag(fs, options[i])
		} else {
			err = unix.FsconfigSetString(fs, options[i], options[i+1])
		}
		if err != nil {
			return -1, err
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attr)
}

// attach puts the mount fd at the file that at is.
func attach(fd, at int) error {
	return unix.MoveMount(fd, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// open opens what is needed of the host's files.
func (p *setup) open() (err error) {
	s := p.spec
	get := func(to *int, path string, attr uint64) {
		if err == nil {
			if *to, err = tree(unix.AT_FDCWD, path, attr, 0); err != nil {
				err = step("open "+path, err)
			}
		}
	}
	enter := func(to *int, path string) {
		if err == nil {
			if *to, err = openPath(path); err != nil {
				err = step("open "+path, err)
			}
		}
	}
	p.tmp, p.storeDir, p.hostAt = -1, -1, -1
	get(&p.store, s.StoreMount, harmless|readOnly)
	get(&p.outputs, s.Outputs, harmless)
	enter(&p.anchor, s.BuildDir)
	enter(&p.upper, s.Outputs)
	enter(&p.workDir, workDir(s))
	get(&p.build, s.BuildDir, harmless)
	if !s.Sandboxed {
		enter(&p.lower, s.StoreMount)
		if err != nil {
			return err
		}
		return p.openHost()
	}
	if s.TmpDir != "" {
		get(&p.tmp, s.TmpDir, harmless)
	}
	if err != nil {
		return err
	}
	names := []string{"full", "null", "random", "tty", "urandom", "zero"}
	if s.KVM {
		names = append(names, "kvm")
	}
	for _, name := range names {
		// Read-only mounts let devices be written to, but not their modes be changed by a builder that is root outside.
		if err := addBind(&p.devices, Bind{Source: "/dev/" + name, Target: "/dev/" + name, ReadOnly: true, Optional: name == "kvm"}); err != nil {
			return err
		}
	}
	if s.Network {
		for _, name := range []string{"/etc/resolv.conf", "/etc/services", "/etc/hosts"} {
			if err := addBind(&p.devices, Bind{Source: name, Target: name, ReadOnly: true, Optional: true}); err != nil {
				return err
			}
		}
	}
	for _, b := range s.Binds {
		if b.Source == "/proc" {
			continue // as Nix: it has a new one
		}
		if err := addBind(&p.binds, b); err != nil {
			return err
		}
	}
	return nil
}

// openHost finds StoreDir on the host, or where it would have to be made.
func (p *setup) openHost() error {
	dir := filepath.Clean(p.spec.StoreDir)
	fd, err := openPath(dir)
	if err == nil {
		p.storeDir = fd
		return nil
	}
	for errors.Is(err, unix.ENOENT) {
		dir = filepath.Dir(dir)
		if p.hostAt, err = openPath(dir); err == nil {
			p.host, err = tree(unix.AT_FDCWD, dir, plain, unix.AT_RECURSIVE)
		}
	}
	return step("open "+dir, err)
}

func addBind(to *[]piece, b Bind) error {
	attr := uint64(plain)
	if b.ReadOnly {
		attr |= readOnly
	}
	fd, err := tree(unix.AT_FDCWD, b.Source, attr, unix.AT_RECURSIVE)
	if b.Optional && errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return step("open "+b.Source, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return step("look at "+b.Source, err)
	}
	*to = append(*to, piece{fd, b.Target, st.Mode&unix.S_IFMT == unix.S_IFDIR})
	return nil
}

// mount builds what the builder sees, and makes it this process's root.
func (p *setup) mount() error {
	if p.spec.Sandboxed {
		return p.mountSandbox()
	}
	return p.mountHost()
}

func (p *setup) mountSandbox() error {
	var err error
	if p.root, err = newFS("tmpfs", harmless, "mode", "0755"); err != nil {
		return step("make a root", err)
	}
	if err := attach(p.root, p.anchor); err != nil {
		return step("make a root", err)
	}
	if err := unix.Fchdir(p.root); err != nil { // from here on ./ is the new root
		return step("enter the new root", err)
	}
	if err := p.skeleton(); err != nil {
		return err
	}
	if err := p.show(piece{p.build, p.spec.BuildDirInside, true}); err != nil {
		return err
	}
	if err := p.showStore(); err != nil {
		return err
	}
	for _, b := range append(p.devices, p.binds...) {
		if err := p.show(b); err != nil {
			return err
		}
	}
	if err := unix.MountSetattr(p.root, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: readOnly}); err != nil {
		return step("make the root read-only", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		hint := ""
		if errors.Is(err, unix.EINVAL) {
			hint = "pivot_root does not work on an initial ramdisk"
		}
		return &SetupError{Op: "change the root", Err: err, Hint: hint}
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return step("leave the old root", err)
	}
	return step("enter the new root", unix.Chdir("/"))
}

// skeleton makes what every sandbox has: /proc, /dev, /etc and /tmp.
func (p *setup) skeleton() error {
	for _, d := range []string{"proc", "dev", "dev/shm", "dev/pts", "etc", "tmp"} {
		if err := unix.Mkdir(d, 0o755); err != nil {
			return step("make /"+d, err)
		}
	}
	tmp := p.tmp
	if tmp < 0 {
		var err error
		if tmp, err = newFS("tmpfs", harmless, "mode", "1777"); err != nil {
			return step("make /tmp", err)
		}
	} else if err := unix.Fchmodat(tmp, ".", 0o1777, 0); err != nil {
		return step("make /tmp", err)
	}
	if err := p.show(piece{tmp, "/tmp", true}); err != nil {
		return err
	}
	if err := p.proc("/proc"); err != nil {
		return err
	}
	shm, err := newFS("tmpfs", harmless, "mode", "1777", "size", p.spec.ShmSize)
	if err != nil {
		return step("make /dev/shm", err)
	}
	if err := p.show(piece{shm, "/dev/shm", true}); err != nil {
		return err
	}
	pts, err := newFS("devpts", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC, "newinstance", "", "mode", "0620", "ptmxmode", "0666")
	if err != nil {
		return step("make /dev/pts", err)
	}
	if err := p.show(piece{pts, "/dev/pts", true}); err != nil {
		return err
	}
	for _, l := range [][2]string{
		{"/proc/self/fd", "dev/fd"},
		{"/proc/self/fd/0", "dev/stdin"},
		{"/proc/self/fd/1", "dev/stdout"},
		{"/proc/self/fd/2", "dev/stderr"},
		{"/dev/pts/ptmx", "dev/ptmx"},
	} {
		if err := unix.Symlink(l[0], l[1]); err != nil {
			return step("make /"+l[1], err)
		}
	}
	uid, gid := inside(p.spec)
	home := p.spec.BuildDirInside
	files := map[string]string{
		"etc/passwd": "root:x:0:0:Nix build user:" + home + ":/noshell\n" +
			"nixbld:x:" + strconv.Itoa(uid) + ":" + strconv.Itoa(gid) + ":Nix build user:" + home + ":/noshell\n" +
			"nobody:x:65534:65534:Nobody:/:/noshell\n",
		"etc/group": "root:x:0:\nnixbld:!:" + strconv.Itoa(gid) + ":\nnogroup:x:65534:\n",
	}
	if p.spec.Network {
		files["etc/nsswitch.conf"] = "hosts: files dns\nservices: files\n"
	} else {
		files["etc/hosts"] = "127.0.0.1 localhost\n::1 localhost\n"
	}
	for name, text := range files {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil { //nolint:gosec // everybody may read it
			return step("make /"+name, err)
		}
	}
	return nil
}

// proc puts a new /proc, of the new process namespace, at target. What only ids protect there, and not capabilities, is
// made read-only for a builder that is root on the host: it could set kernel.core_pattern otherwise.
func (p *setup) proc(target string) error {
	fd, err := newFS("proc", harmless|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		h := ""
		if errors.Is(err, unix.EPERM) {
			h = "parts of /proc are hidden here, as in a container: give it a whole one, or build without a sandbox"
		}
		return &SetupError{Op: "make /proc", Err: err, Hint: h}
	}
	if err := p.show(piece{fd, target, true}); err != nil {
		return err
	}
	if p.spec.UID != 0 || !p.spec.Sandboxed {
		return nil
	}
	for _, name := range []string{"sys", "sysrq-trigger", "irq", "bus", "fs"} {
		ro, err := tree(fd, name, readOnly, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return step("protect /proc/"+name, err)
		}
		if err := unix.MoveMount(ro, "", fd, name, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return step("protect /proc/"+name, err)
		}
		_ = unix.Close(ro)
	}
	return nil
}

// place returns the file at a path of the new root, and makes it if it is missing, with what is above it. Symbolic
// links on the way are those of the new root and cannot lead out of it.
func (p *setup) place(path string, dir bool) (int, error) {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(p.root, path, how)
	if !errors.Is(err, unix.ENOENT) || path == "/" {
		return fd, err
	}
	above, err := p.place(filepath.Dir(path), true)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(above) }()
	if err := makePlace(above, filepath.Base(path), dir); err != nil {
		return -1, err
	}
	return unix.Openat2(p.root, path, how)
}

func makePlace(at int, name string, dir bool) error {
	if dir {
		return unix.Mkdirat(at, name, 0o755)
	}
	fd, err := unix.Openat(at, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func (p *setup) show(m piece) error {
	at, err := p.place(m.target, m.dir)
	if err == nil {
		err = attach(m.fd, at)
		_ = unix.Close(at)
	}
	return step("show "+m.target, err)
}

// overlay returns a mount that shows what lower has, and has what is made there put into the folder for outputs.
func (p *setup) overlay(lower int) (int, error) {
	return newFS("overlay", harmless, "lowerdir", fdPath(lower), "upperdir", fdPath(p.upper), "workdir", fdPath(p.workDir), "userxattr", "")
}

// showStore shows the inputs at StoreDir, where outputs are made. The places of the inputs are in memory: on a disk it takes longer to
// make and remove them than all the rest, of some thousand ten times as long.
func (p *setup) showStore() error {
	const store, places = "/.store", "/.places" // mounts have to be in the tree for copies to be made of them
	fail := func(err error) error { return step("show inputs", err) }
	if err := p.show(piece{p.store, store, true}); err != nil {
		return err
	}
	lower, err := newFS("tmpfs", harmless, "mode", "0755")
	if err != nil {
		return fail(err)
	}
	if err := p.show(piece{lower, places, true}); err != nil {
		return err
	}
	inputs, err := p.makePlaces(lower)
	if err != nil {
		return err
	}
	to, err := p.overlay(lower)
	refused := err != nil // by the kernel or the file system
	if refused {
		to = p.outputs
	}
	if err := p.show(piece{to, p.spec.StoreDir, true}); err != nil {
		return err
	}
	if refused {
		if inputs, err = p.makePlaces(to); err != nil {
			return err
		}
	}
	if err := p.bindInputs(to, inputs); err != nil {
		return err
	}
	for _, aside := range []string{store, places} {
		if err := unix.Unmount("."+aside, unix.MNT_DETACH); err != nil {
			return fail(err)
		}
		if err := unix.Rmdir("." + aside); err != nil {
			return fail(err)
		}
	}
	return nil
}

// makePlaces makes what the inputs are to be mounted on, and returns the names of those that are to be mounted: links are made at once.
func (p *setup) makePlaces(at int) (mounts []string, err error) {
	for _, name := range p.spec.Inputs {
		link, err := p.makePlaceOf(at, name)
		if err != nil {
			return nil, step("show "+filepath.Join(p.spec.StoreDir, name), err)
		}
		if !link {
			mounts = append(mounts, name)
		}
	}
	return mounts, nil
}

func (p *setup) makePlaceOf(at int, name string) (link bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(p.store, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return false, makePlace(at, name, st.Mode&unix.S_IFMT == unix.S_IFDIR)
	}
	buf := make([]byte, 1<<16)
	n, err := unix.Readlinkat(p.store, name, buf)
	if err != nil {
		return false, err
	}
	return true, unix.Symlinkat(string(buf[:n]), at, name)
}

func (p *setup) bindInputs(to int, names []string) error {
	for _, name := range names {
		fd, err := tree(p.store, name, plain, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil {
			err = unix.MoveMount(fd, "", to, name, unix.MOVE_MOUNT_F_EMPTY_PATH)
			_ = unix.Close(fd)
		}
		if err != nil {
			return step("show "+filepath.Join(p.spec.StoreDir, name), err)
		}
	}
	return nil
}

// mountHost replaces the store directory of the host.
func (p *setup) mountHost() error {
	s := p.spec
	overlay, err := p.overlay(p.lower)
	refused := err != nil
	if p.storeDir < 0 {
		if err := p.shadow(); err != nil {
			return err
		}
	}
	if refused { // by the kernel or the file system: inputs alone, as in a sandbox
		err = p.withoutOverlay()
	} else {
		err = step("show "+s.StoreDir, attach(overlay, p.storeDir))
	}
	if err != nil {
		return err
	}
	if p.root, err = openPath("/"); err != nil {
		return step("enter the root", err)
	}
	if s.BuildDirInside != s.BuildDir {
		if err := p.show(piece{p.build, s.BuildDirInside, true}); err != nil {
			return err
		}
	}
	return p.proc("/proc")
}

func (p *setup) withoutOverlay() error {
	if err := attach(p.outputs, p.storeDir); err != nil {
		return step("show "+p.spec.StoreDir, err)
	}
	if err := attach(p.store, p.anchor); err != nil {
		return step("show inputs", err)
	}
	inputs, err := p.makePlaces(p.outputs)
	if err != nil {
		return err
	}
	if err := p.bindInputs(p.outputs, inputs); err != nil {
		return err
	}
	return step("show inputs", unix.Unmount(fdPath(p.store), unix.MNT_DETACH))
}

// shadow puts a folder that holds StoreDir over the lowest existing one above it, and shows in it what the host has
// there.
func (p *setup) shadow() error {
	s := p.spec
	top := filepath.Clean(s.StoreDir)
	for {
		if _, err := os.Lstat(filepath.Dir(top)); err == nil {
			break
		}
		top = filepath.Dir(top)
	}
	dir := filepath.Dir(top)
	fail := func(err error) error { return step("make room for "+s.StoreDir+" in "+dir, err) }
	var err error
	if p.root, err = newFS("tmpfs", harmless, "mode", "0755"); err != nil {
		return fail(err)
	}
	if err := attach(p.host, p.anchor); err != nil {
		return fail(err)
	}
	list, err := os.ReadDir(fdPath(p.host))
	if err != nil {
		return fail(err)
	}
	if err := attach(p.root, p.hostAt); err != nil {
		return fail(err)
	}
	for _, e := range list {
		if err := p.showInShadow(e); err != nil {
			return fail(err)
		}
	}
	if err := unix.Unmount(fdPath(p.host), unix.MNT_DETACH); err != nil {
		return fail(err)
	}
	if p.storeDir, err = p.place(strings.TrimPrefix(s.StoreDir, strings.TrimSuffix(dir, "/")), true); err != nil {
		return fail(err)
	}
	if dir != "/" {
		return nil
	}
	if err := unix.Fchdir(p.root); err != nil {
		return fail(err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fail(err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fail(err)
	}
	return fail(unix.Chdir("/"))
}

func (p *setup) showInShadow(e os.DirEntry) error {
	switch {
	case e.Type()&os.ModeSymlink != 0:
		buf := make([]byte, 4096)
		n, err := unix.Readlinkat(p.host, e.Name(), buf)
		if err != nil {
			return err
		}
		return unix.Symlinkat(string(buf[:n]), p.root, e.Name())
	case e.IsDir() || e.Type().IsRegular():
		if err := makePlace(p.root, e.Name(), e.IsDir()); err != nil {
			return err
		}
		fd, err := tree(p.host, e.Name(), plain, unix.AT_RECURSIVE|unix.AT_SYMLINK_NOFOLLOW)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		return unix.MoveMount(fd, "", p.root, e.Name(), unix.MOVE_MOUNT_F_EMPTY_PATH)
	}
	return nil // sockets and the like
}
