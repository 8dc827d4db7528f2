package env

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Mount is a mounted store. It is gone when the test has ended, whatever
// became of its server.
type Mount struct {
	Dir    string // where it is mounted
	Server *Process

	tb testing.TB
}

// Mount mounts the store on a new folder and returns when it can be used.
// Options go to narfs mount before the folder. It needs Fuse.
func (s *Store) Mount(options ...string) *Mount {
	s.tb.Helper()
	Require(s.tb, Fuse())
	dir := filepath.Join(Dir(s.tb), "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		s.tb.Fatal(err)
	}
	cmd := s.Command(slices.Concat([]string{"mount"}, options, []string{dir})...)
	// The end of the test must reach the server as a signal that it can handle.
	cmd.Cancel = func() error { return nil }
	s.tb.Cleanup(func() { UnmountBelow(s.tb, dir) }) // after the server's end
	m := &Mount{Dir: dir, Server: Start(s.tb, cmd), tb: s.tb}
	Eventually(s.tb, dir+" is mounted", func() (bool, error) {
		select {
		case <-m.Server.Done():
			return false, fmt.Errorf("narfs mount exited with %d: %s", m.Server.Wait(), m.Server.Output())
		default:
		}
		return Mounted(dir)
	})
	return m
}

// Unmount ends the server as a service manager does and fails the test if it
// does not exit with 0, or leaves the mount behind.
func (m *Mount) Unmount() {
	m.tb.Helper()
	if code := m.Server.Stop(); code != 0 {
		m.tb.Errorf("narfs mount exited with %d: %s", code, m.Server.Output())
	}
	if mounted, err := Mounted(m.Dir); err != nil || mounted {
		m.tb.Errorf("Mounted(%s) = %v, %v after its server's end; want false", m.Dir, mounted, err)
	}
}

// Mounted reports whether something is mounted on dir. It never touches what
// is mounted there, so that a dead server cannot hang it.
func Mounted(dir string) (bool, error) {
	dirs, err := mounts()
	if err != nil {
		return false, err
	}
	dir, err = resolve(dir)
	return slices.Contains(dirs, dir), err
}

// UnmountBelow takes away what is mounted on dir or below it, by force, and
// fails the test if that cannot be done.
func UnmountBelow(tb testing.TB, dir string) {
	tb.Helper()
	dirs, err := mounts()
	if err == nil {
		dir, err = resolve(dir)
	}
	if err != nil {
		tb.Errorf("unmounting %s: %v", dir, err)
		return
	}
	for _, mounted := range slices.Backward(dirs) { // the newest first
		if mounted == dir || strings.HasPrefix(mounted, dir+"/") {
			args := forceUnmount(mounted)
			//nolint:noctx // the test's context is done in cleanups
			if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
				tb.Errorf("%q: %v: %s", args, err, out)
			}
		}
	}
}

// resolve follows the symbolic links of dir's parent, not of dir itself, which
// would ask the server.
func resolve(dir string) (string, error) {
	parent, err := filepath.EvalSymlinks(filepath.Dir(dir))
	return filepath.Join(parent, filepath.Base(dir)), err
}
