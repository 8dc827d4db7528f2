package fs_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
	"golang.org/x/sys/unix"

	"github.com/narfs/narfs/fs"
	"github.com/narfs/narfs/fs/fstest"
)

// overlay mounts an overlay with these lower layers, top first. The upper layer is a tmpfs.
func overlay(t *testing.T, lower string) string {
	t.Helper()
	needRoot(t)
	base := t.TempDir()
	if err := unix.Mount("none", base, "tmpfs", 0, ""); err != nil {
		t.Skip("no tmpfs here: " + err.Error())
	}
	t.Cleanup(func() { _ = unix.Unmount(base, unix.MNT_DETACH) })
	merged := filepath.Join(base, "merged")
	for _, name := range []string{"upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(base, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, base, base)
	if err := unix.Mount("overlay", merged, "overlay", 0, options); errors.Is(err, unix.ENODEV) {
		t.Skip("no overlayfs here")
	} else if err != nil {
		t.Fatalf("mounting an overlay: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(merged, unix.MNT_DETACH) })
	return merged
}

// Whoever needs to write, a builder for example, does so on an overlay. It passes go-fuse's conformance tests.
func TestPosixOnOverlay(t *testing.T) {
	needRoot(t)
	m := mount(t, sample(), fs.Options{AllowOther: true})
	empty := filepath.Join(m.Dir(), hello, "share/f") // the tests expect to be alone
	for name, test := range posixtest.All {
		switch name {
		case "FcntlFlockLocksFile", "OpenSymlinkRace": // not for any file system: see posixtest's own test
			continue
		}
		t.Run(name, func(t *testing.T) { test(t, overlay(t, empty)) })
	}
	dir := overlay(t, m.Dir())
	path := filepath.Join(dir, hello, "share/a")
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("b"); err != nil {
		t.Error(err)
	}
	_ = f.Close()
	if got, err := os.ReadFile(path); string(got) != "ab" {
		t.Errorf("after copying up and appending: %q, %v; want ab", got, err)
	}
	if err := os.RemoveAll(filepath.Join(dir, hello)); err != nil {
		t.Errorf("RemoveAll in the overlay = %v", err)
	}
	if got, err := os.ReadFile(filepath.Join(m.Dir(), hello, "share/a")); string(got) != "a" {
		t.Errorf("below the overlay: %q, %v; want a", got, err)
	}
}

// A sandbox in a sandbox: an overlay of an overlay of a mount. Passthrough would forbid it.
func TestOverlayOfOverlay(t *testing.T) {
	needRoot(t)
	m := mount(t, sample(), fs.Options{AllowOther: true})
	inner := overlay(t, m.Dir())
	outer := overlay(t, inner)
	if got, err := os.ReadFile(filepath.Join(outer, file)); string(got) != "just a file\n" {
		t.Errorf("through two overlays: %q, %v", got, err)
	}
}

// The tools that copy trees get out what was put in.
func TestCopyingTools(t *testing.T) {
	src := fstest.NewMemory()
	top := fstest.Dir(map[string]fstest.Node{
		"long link":  fstest.Link(string(bytes.Repeat([]byte("x/"), 2000)) + "end"),
		"a\nb\\c*?":  fstest.Text("odd"),
		"\xff\xfe":   fstest.Text("no UTF-8"),
		"big":        {Data: fstest.Bytes(1<<20+1, 1), Exec: true},
		"deep/d/d/d": fstest.Dir(map[string]fstest.Node{"e/e/e/f": fstest.Text("deep")}),
		"empty":      {}, "nothing": fstest.Empty(), string(bytes.Repeat([]byte("n"), 255)): fstest.Text("long"),
		"many": manyEntries(200),
	})
	src.Add(hello, fstest.New(top))
	m := mount(t, src, fs.Options{})
	from := filepath.Join(m.Dir(), hello)
	for name, script := range map[string]string{
		"cp -a": `cp -a "$0" "$1"`,
		"tar":   `mkdir "$1" && tar -C "$0" -c . | tar -C "$1" -xp`,
		"rsync": `rsync -a "$0/" "$1"`,
	} {
		t.Run(name, func(t *testing.T) {
			if tool, _, _ := bytes.Cut([]byte(name), []byte(" ")); !installed(string(tool)) {
				t.Skip("no " + string(tool) + " here")
			}
			to := filepath.Join(t.TempDir(), "copy")
			t.Cleanup(func() { _ = exec.Command("chmod", "-R", "u+w", to).Run() })
			for _, command := range [][]string{{"sh", "-c", script, from, to}, {"diff", "-r", "--no-dereference", from, to}} {
				if out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
					t.Fatalf("%q: %v: %.500s", command, err, out)
				}
			}
		})
	}
}

func installed(tool string) bool {
	_, err := exec.LookPath(tool)
	return err == nil
}
