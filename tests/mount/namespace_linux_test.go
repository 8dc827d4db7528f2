package mount_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/narfs/narfs/tests/env"
)

// An owner in another mount namespace does not pretend to have mounted something where its client would not see it.
func TestOtherNamespace(t *testing.T) {
	t.Parallel()
	env.Require(t, env.Fuse(), env.Root(), env.Program("unshare"))
	s := env.NewStore(t)
	s.Must("add", "--name", "x", "/etc/passwd")
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", env.Binary(t), "daemon")
	cmd.Env = append(os.Environ(), "NARFS_STATE_DIR="+s.State)
	cmd.Cancel = func() error { return nil }
	p := env.Start(t, cmd)
	env.Eventually(t, "the daemon answers", func() (bool, error) {
		_, err := os.Lstat(filepath.Join(s.State, "daemon.sock"))
		return err == nil, nil
	})
	dir := filepath.Join(env.Dir(t), "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := s.Run("mount", "--background", dir); got.Code != 1 || !strings.Contains(got.Stderr, "another mount namespace") {
		t.Errorf("mount exited with %d: %s", got.Code, got.Stderr)
	}
	if code := p.Stop(); code != 0 {
		t.Errorf("the daemon exited with %d: %s", code, p.Output())
	}
}
