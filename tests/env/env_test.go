package env_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/narfs/narfs/tests/env"
)

func TestMain(m *testing.M) { env.Main(m) }

func TestStore(t *testing.T) {
	store := env.NewStore(t)
	if got := store.Must("version"); !strings.HasPrefix(got, "narfs ") {
		t.Errorf("narfs version = %q; want its version", got)
	}
	if got := store.Run("bogus"); got.Code != 2 || got.Stdout != "" || !strings.Contains(got.Stderr, "bogus") {
		t.Errorf("narfs bogus = %+v; want code 2 and a complaint", got)
	}
}

func TestNeeds(t *testing.T) {
	if err := env.Program("sh").Err(); err != nil {
		t.Errorf("Program(sh) = %v; want nil", err)
	}
	const want = "needs no-such-program: it is not in PATH"
	if err := env.Program("no-such-program").Err(); err == nil || err.Error() != want {
		t.Errorf("Program(no-such-program) = %v; want %q", err, want)
	}
	t.Setenv("NARFS_CACHE_DIR", "/no/such/cache")
	if err := env.Peer("sid").Err(); err == nil || !strings.Contains(err.Error(), "/no/such/cache/peers/sid") {
		t.Errorf("Peer(sid) = %v; want one that names its folder", err)
	}
	t.Setenv("NARFS_TEST_LONG", "")
	if err := env.Long().Err(); err == nil {
		t.Error("Long() = nil without NARFS_TEST_LONG; want an error")
	}
}

// TestRealNix: narfs under the name nix-store is not taken for Nix, nor is what does not run.
func TestRealNix(t *testing.T) {
	dir := env.Dir(t)
	t.Setenv("PATH", dir)
	if err := env.RealNix().Err(); err == nil || !strings.Contains(err.Error(), "not in PATH") {
		t.Errorf("RealNix without nix-store = %v", err)
	}
	if err := os.Symlink(env.Binary(t), filepath.Join(dir, "nix-store")); err != nil {
		t.Fatal(err)
	}
	if err := env.RealNix().Err(); err == nil || !strings.Contains(err.Error(), "this nix-store is narfs") {
		t.Errorf("RealNix with narfs as nix-store = %v", err)
	}
}

func TestDir(t *testing.T) {
	var dir string
	t.Run("inner", func(t *testing.T) {
		dir = env.Dir(t)
		if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "a", "b", "file"), nil, 0o444); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a/b", "a"} {
			if err := os.Chmod(filepath.Join(dir, name), 0o555); err != nil {
				t.Fatal(err)
			}
		}
	})
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("Lstat(%s) = %v after its test; want that it is gone", dir, err)
	}
}

func TestProcess(t *testing.T) {
	p := env.Start(t, exec.CommandContext(t.Context(), "sh", "-c", `trap 'echo stopped; exit 7' TERM; echo ready; while :; do sleep 0.1; done`))
	env.Eventually(t, "it is ready", func() (bool, error) { return p.Output() == "ready\n", nil })
	if code := p.Stop(); code != 7 || p.Output() != "ready\nstopped\n" {
		t.Errorf("Stop() = %d after %q; want 7 after ready, stopped", code, p.Output())
	}
	p = env.Start(t, exec.CommandContext(t.Context(), "sleep", "60"))
	p.Kill()
	if code := p.Wait(); code != -1 {
		t.Errorf("Wait() = %d after Kill; want -1", code)
	}
}

func TestMounted(t *testing.T) {
	proc, err := env.Mounted("/proc")
	dev, err2 := env.Mounted("/dev")
	if !proc && !dev || err != nil || err2 != nil { // / is no mount in a chroot
		t.Errorf("Mounted(/proc), Mounted(/dev) = %v %v, %v %v; want one true", proc, err, dev, err2)
	}
	dir := env.Dir(t)
	if mounted, err := env.Mounted(dir); err != nil || mounted {
		t.Errorf("Mounted(%s) = %v, %v; want false", dir, mounted, err)
	}
	env.Require(t, env.Root(), env.Program("mount"))
	below := filepath.Join(dir, "a b")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "none", below).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a tmpfs: %v: %s", err, out)
	}
	if mounted, err := env.Mounted(below); err != nil || !mounted {
		t.Errorf("Mounted(%s) = %v, %v; want true", below, mounted, err)
	}
	env.UnmountBelow(t, dir)
	if mounted, err := env.Mounted(below); err != nil || mounted {
		t.Errorf("Mounted(%s) = %v, %v after UnmountBelow; want false", below, mounted, err)
	}
}

func TestNix(t *testing.T) {
	nix := env.NewNix(t)
	file := filepath.Join(t.TempDir(), "hello")
	if err := os.WriteFile(file, []byte("hello\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	path := nix.Must("nix-store", "--add", file)
	if !strings.HasPrefix(path, "/nix/store/") {
		t.Errorf("nix-store --add = %q; want a path in /nix/store", path)
	}
	if got, err := os.ReadFile(nix.Real(path)); err != nil || string(got) != "hello\n" {
		t.Errorf("ReadFile(%s) = %q, %v; want hello", nix.Real(path), got, err)
	}
}
