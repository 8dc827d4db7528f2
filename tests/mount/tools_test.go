package mount_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/narfs/narfs/tests/env"
)

// TestTools: what a person and his programs do with a folder, they can do with a mounted path, and find the same as in the
// tree that it was made of.
func TestTools(t *testing.T) {
	env.Require(t, env.Fuse())
	work := env.Dir(t)
	tree := makeTree(t, mkdir(t, work, "tree"), 1000)
	store := env.NewStore(t)
	path := filepath.Join(store.Mount().Dir, add(t, store, tree))

	t.Run("diff", func(t *testing.T) { shell(t, `diff -r --no-dereference "$1" "$2"`, tree, path) })
	t.Run("find", func(t *testing.T) {
		const list = `cd "$1" && find . -printf '%p %y %l\n' | LC_ALL=C sort`
		if got, want := shell(t, list, path), shell(t, list, tree); got != want {
			t.Errorf("find lists in the mount\n%s\n\nand in the tree\n%s", got, want)
		}
		const sizes = `cd "$1" && find . -type f -printf '%p %s\n' | LC_ALL=C sort`
		if got, want := shell(t, sizes, path), shell(t, sizes, tree); got != want {
			t.Errorf("find tells in the mount\n%s\n\nand in the tree\n%s", got, want)
		}
		if got := shell(t, `find "$1" ! -type l ! -perm 444 ! -perm 555`, path); got != "" {
			t.Errorf("these do not have a mode of 0444 or 0555:\n%s", got)
		}
		if got := shell(t, `find "$1" ! -newermt @0 -o -newermt @1`, path); got != "" {
			t.Errorf("these are not of the time 1:\n%s", got)
		}
	})
	t.Run("tar", func(t *testing.T) {
		env.Require(t, env.Program("tar"))
		const pack = `tar --sort=name --owner=0 --group=0 --mode=a-w,a+rX --mtime=@1 -C "$1" -cf - . | sha256sum`
		if got, want := shell(t, pack, path), shell(t, pack, tree); got != want {
			t.Errorf("tar of the mount is %s; of the tree %s", got, want)
		}
	})
	t.Run("cp", func(t *testing.T) {
		shell(t, `cp -a "$2" "$3" && chmod -R u+w "$3" && diff -r --no-dereference "$1" "$3"`, tree, path, filepath.Join(work, "copy"))
	})
	t.Run("rsync", func(t *testing.T) {
		env.Require(t, env.Program("rsync"))
		shell(t, `rsync -rl --chmod=u+w "$2"/ "$3"/ && diff -r --no-dereference "$1" "$3"`, tree, path, filepath.Join(work, "rsynced"))
		const changed = `rsync -rlcn --out-format=%n --delete "$1"/ "$2"/`
		if got := shell(t, changed, tree, path); got != "" {
			t.Errorf("rsync would change in the mount:\n%s", got)
		}
	})
	t.Run("grep", func(t *testing.T) {
		const count = `cd "$1" && grep -rc 'line 0 of' . | LC_ALL=C sort`
		if got, want := shell(t, count, path), shell(t, count, tree); got != want {
			t.Errorf("grep finds in the mount\n%s\n\nand in the tree\n%s", got, want)
		}
	})
	t.Run("du", func(t *testing.T) {
		const total = `cd "$1" && find . -type f -print0 | du --files0-from=- --apparent-size --block-size=1 -c | LC_ALL=C sort`
		if got, want := shell(t, total, path), shell(t, total, tree); got != want {
			t.Errorf("du tells in the mount\n%s\n\nand in the tree\n%s", got, want)
		}
	})
	t.Run("mmap", func(t *testing.T) { testMmap(t, filepath.Join(tree, "d0", "e0"), filepath.Join(path, "d0", "e0")) })
	t.Run("read-only", func(t *testing.T) { testReadOnly(t, path) })
	t.Run("nix", func(t *testing.T) {
		env.Require(t, env.RealNix())
		const hash = `nix-store --dump "$1" | sha256sum`
		if got, want := shell(t, hash, path), shell(t, hash, tree); got != want {
			t.Errorf("nix-store --dump of the mount is %s; of the tree %s", got, want)
		}
	})
}

// testMmap compares files by their mapped pages and by reads at odd places.
func testMmap(t *testing.T, tree, path string) {
	t.Helper()
	entries, err := os.ReadDir(tree)
	if err != nil || len(entries) == 0 {
		t.Fatalf("ReadDir(%s) = %d entries, %v", tree, len(entries), err)
	}
	for _, e := range entries {
		want, err := os.ReadFile(filepath.Join(tree, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(filepath.Join(path, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if len(want) > 0 {
			got, err := syscall.Mmap(int(f.Fd()), 0, len(want), syscall.PROT_READ, syscall.MAP_SHARED)
			if err != nil {
				t.Fatalf("Mmap(%s) = %v", e.Name(), err)
			}
			if string(got) != string(want) {
				t.Errorf("%s mapped is not what it should be", e.Name())
			}
			_ = syscall.Munmap(got)
		}
		for off := int64(1); off < int64(len(want)); off += 77_777 {
			n := min(5000, len(want)-int(off))
			got := make([]byte, n)
			if _, err := f.ReadAt(got, off); err != nil || string(got) != string(want[off:int(off)+n]) {
				t.Errorf("ReadAt(%d) of %s = %v, or not what it should be", off, e.Name(), err)
			}
		}
		if _, err := f.ReadAt(make([]byte, 1), int64(len(want))); err != io.EOF {
			t.Errorf("ReadAt behind the end of %s = %v; want EOF", e.Name(), err)
		}
		_ = f.Close()
	}
}

// testReadOnly: nobody changes anything, not even root.
func testReadOnly(t *testing.T, path string) {
	t.Helper()
	file := filepath.Join(path, "nothing")
	for what, err := range map[string]error{
		"create":   os.WriteFile(filepath.Join(path, "new"), nil, 0o644),
		"truncate": os.Truncate(file, 0),
		"remove":   os.Remove(file),
		"rename":   os.Rename(file, file+"2"),
		"chmod":    os.Chmod(file, 0o777),
		"mkdir":    os.Mkdir(filepath.Join(path, "dir"), 0o755),
		"symlink":  os.Symlink("x", filepath.Join(path, "sym")),
		"link":     os.Link(file, filepath.Join(path, "hard")),
		"chtimes":  os.Chtimes(file, testTime(), testTime()),
		"in root":  os.WriteFile(filepath.Join(filepath.Dir(path), "new"), nil, 0o644),
	} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s = %v; want EROFS", what, err)
		}
	}
	if f, err := os.OpenFile(file, os.O_RDWR, 0); !errors.Is(err, syscall.EROFS) {
		_ = f.Close()
		t.Errorf("opening for writing = %v; want EROFS", err)
	}
}

// TestGit: a repository in the store serves as one.
func TestGit(t *testing.T) {
	env.Require(t, env.Fuse(), env.Program("git"))
	t.Setenv("GIT_CONFIG_COUNT", "3")
	for i, pair := range []string{"safe.directory=*", "user.name=test", "user.email=test@example.org"} {
		key, value, _ := strings.Cut(pair, "=")
		t.Setenv("GIT_CONFIG_KEY_"+string(rune('0'+i)), key)
		t.Setenv("GIT_CONFIG_VALUE_"+string(rune('0'+i)), value)
	}
	work := env.Dir(t)
	repo := makeTree(t, mkdir(t, work, "repo"), 200)
	shell(t, `cd "$1" && git init -q && git add -A && git commit -qm one && echo x >>d1/e1/file1 && git commit -qam two && git gc -q`, repo)
	store := env.NewStore(t)
	path := filepath.Join(store.Mount().Dir, add(t, store, repo))
	if got := shell(t, `git -C "$1" log --format=%s`, path); got != "two\none" {
		t.Errorf("git log = %q; want two, one", got)
	}
	shell(t, `git -C "$1" fsck --no-progress`, path)
	if got := shell(t, `GIT_OPTIONAL_LOCKS=0 git -C "$1" diff --stat HEAD`, path); got != "" {
		t.Errorf("git diff = %q; want nothing", got)
	}
	clone := filepath.Join(work, "clone")
	shell(t, `git clone -q "$1" "$2"`, path, clone)
	if got, want := shell(t, `git -C "$1" rev-parse HEAD^{tree}`, clone), shell(t, `git -C "$1" rev-parse HEAD^{tree}`, repo); got != want {
		t.Errorf("the clone's tree is %s; want %s", got, want)
	}
}

// sum is the SHA-256 of a file.
func sum(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
