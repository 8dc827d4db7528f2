package interop_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/narfs/narfs/tests/env"
)

// tree is a tree that both programs are given.
type tree struct {
	name string
	long bool                            // too large for every run
	path string                          // on this machine, or
	make func(tb testing.TB, dir string) // made in an empty folder
}

// trees are real ones of the machine, and made ones for what these lack.
func trees(tb testing.TB) []tree {
	tb.Helper()
	goroot := strings.TrimSpace(env.Must(tb, exec.Command("go", "env", "GOROOT")))
	return []tree{
		{name: "usr-include", path: "/usr/include"}, // xt_CONNMARK.h and xt_connmark.h
		{name: "go-src", path: filepath.Join(goroot, "src"), long: true},
		{name: "etc", path: "/etc"},
		{name: "usr-bin", path: "/usr/bin", long: true},
		{name: "usr-share-doc", path: "/usr/share/doc", long: true},
		{name: "usr-share-perl", path: "/usr/share/perl"},
		{name: "usr-lib-gcc", path: "/usr/lib/gcc", long: true},
		{name: "zoneinfo", path: "/usr/share/zoneinfo"},
		{name: "one-file", path: "/bin/bash"},
		{name: "usr-share", path: "/usr/share", long: true},
		{name: "go", path: goroot, long: true},
		{name: "one-link", make: makeLink},
		{name: "empty", make: func(testing.TB, string) {}},
		{name: "odd-names", make: makeOddNames},
		{name: "case-pairs", make: makeCasePairs},
		{name: "deep", make: makeDeep},
		{name: "many", make: makeMany(5_000)},
		{name: "large", make: makeLarge(64 << 20)},
		{name: "fifty-thousand", long: true, make: makeMany(50_000)},
		{name: "two-gigabytes", long: true, make: makeLarge(2 << 30)},
	}
}

func write(tb testing.TB, name, text string, mode os.FileMode) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		tb.Fatal(err)
	}
}

func makeLink(tb testing.TB, dir string) {
	tb.Helper()
	if err := os.Remove(dir); err != nil {
		tb.Fatal(err)
	}
	if err := os.Symlink("/nowhere/at all", dir); err != nil {
		tb.Fatal(err)
	}
}

func makeOddNames(tb testing.TB, dir string) {
	tb.Helper()
	for _, name := range []string{
		"a b", "tab\there", "new\nline", "\xff\xfe not UTF-8", "é", "e\u0301", "🂡", "-rf", "~", "*", `back\slash`, `"quoted"`,
		strings.Repeat("n", 255), ".hidden", "..almost", "...", "a.b.c", "$HOME", "ends with space ",
	} {
		write(tb, filepath.Join(dir, name), name, 0o644)
		write(tb, filepath.Join(dir, "executable", name), name, 0o755)
	}
	for _, sub := range []string{"empty-dir", "a/b/empty"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	write(tb, filepath.Join(dir, "empty-file"), "", 0o444)
	for name, target := range map[string]string{"dangling": "nowhere", "loop": "loop", "up": "../..", "long": strings.Repeat("x/", 2000)} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			tb.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(dir, "a b"), filepath.Join(dir, "hard link")); err != nil {
		tb.Fatal(err)
	}
}

func makeCasePairs(tb testing.TB, dir string) {
	tb.Helper()
	for _, name := range []string{"FOO", "Foo", "foo", "bar/X", "bar/x/y", "BAR/z", "Makefile", "makefile", "readme", "README", "ReadMe"} {
		write(tb, filepath.Join(dir, name), name, 0o644)
	}
	if err := os.Symlink("FOO", filepath.Join(dir, "fOO")); err != nil {
		tb.Fatal(err)
	}
}

// makeDeep goes as deep as NARs go: 64 levels, the root's included.
func makeDeep(tb testing.TB, dir string) {
	tb.Helper()
	for range 62 {
		dir = filepath.Join(dir, "a-folder-name")
	}
	write(tb, filepath.Join(dir, "file"), "at the bottom", 0o644)
}

func makeMany(files int) func(tb testing.TB, dir string) {
	return func(tb testing.TB, dir string) {
		tb.Helper()
		rng := rand.New(rand.NewPCG(1, 1))
		for i := range files {
			sub := filepath.Join(dir, fmt.Sprintf("%02x", i%97), fmt.Sprintf("%x", i%1009%7))
			if i < 97*7 {
				if err := os.MkdirAll(sub, 0o755); err != nil {
					tb.Fatal(err)
				}
			}
			write(tb, filepath.Join(sub, fmt.Sprintf("file-%d", i)), strings.Repeat(fmt.Sprintln(i), rng.IntN(40)), 0o644)
		}
	}
}

func makeLarge(size int64) func(tb testing.TB, dir string) {
	return func(tb testing.TB, dir string) {
		tb.Helper()
		f, err := os.Create(filepath.Join(dir, "large"))
		if err != nil {
			tb.Fatal(err)
		}
		w := bufio.NewWriterSize(f, 1<<20)
		if _, err := io.CopyN(w, rand.NewChaCha8([32]byte{1}), size); err != nil {
			tb.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			tb.Fatal(err)
		}
		if err := f.Close(); err != nil {
			tb.Fatal(err)
		}
	}
}

// TestTrees gives each tree to narfs and to the real Nix and compares everything both have
// to say: dumps, store paths, export streams, restores, and the mounts with Nix's own dump.
func TestTrees(t *testing.T) {
	env.Require(t, env.RealNix(), env.Program("diff"))
	s := env.NewStore(t)
	nix, other := env.NewNix(t), env.NewNix(t)
	imported := env.NewStore(t)
	s.Must("add", "/etc/passwd") // makes the store
	var exact, hacked *env.Mount
	if env.Fuse().Err() == nil {
		exact, hacked = s.Mount(), s.Mount("--case-hack=on")
	} else {
		t.Logf("mounts are not compared: %v", env.Fuse().Err())
	}
	for _, tr := range trees(t) {
		t.Run(tr.name, func(t *testing.T) {
			if tr.long {
				env.Require(t, env.Long())
			}
			dir := tr.path
			if tr.make != nil {
				dir = filepath.Join(env.Dir(t), tr.name)
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				tr.make(t, dir)
			}
			needReadable(t, dir)
			nar := filepath.Join(env.Dir(t), "nar")
			toFile(t, nix.Command("nix-store", "--dump", dir), nar)
			same(t, "narfs dump "+dir, s.Command("dump", dir), nar)
			logSize(t, dir, nar)

			path := nix.Must("nix-store", "--add", dir)
			if got := s.Must("add", dir); got != path {
				t.Fatalf("narfs add %s = %s; want Nix's %s", dir, got, path)
			}
			same(t, "narfs dump "+path, s.Command("dump", path), nar)
			exchange(t, s, imported, nix, other, path, nar)
			restores(t, nix, s, nar)
			if exact != nil {
				mounted(t, nix, dir, filepath.Join(exact.Dir, filepath.Base(path)), nar)
				compareHacked(t, nix, filepath.Join(hacked.Dir, filepath.Base(path)), nar)
			}
		})
	}
}

// needReadable skips the test if there is no such tree, or something in it is not for this user.
func needReadable(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, d iofs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		return f.Close()
	})
	if errors.Is(err, iofs.ErrNotExist) || errors.Is(err, iofs.ErrPermission) {
		t.Skipf("needs all of %s: %v", dir, err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// logSize tells how much was compared.
func logSize(t *testing.T, dir, nar string) {
	t.Helper()
	entries := 0
	err := filepath.WalkDir(dir, func(_ string, _ iofs.DirEntry, err error) error {
		entries++
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(nar)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d entries, a NAR of %d bytes", entries, info.Size())
}

// exchange exports from each program and imports into the other.
func exchange(t *testing.T, s, imported *env.Store, nix, other *env.Nix, path, nar string) {
	t.Helper()
	stream := filepath.Join(env.Dir(t), "export")
	defer remove(t, stream)
	toFile(t, nix.Command("nix-store", "--export", path), stream)
	same(t, "narfs export "+path, s.Command("export", path), stream)
	if got := imported.Must("import", stream); got != path {
		t.Errorf("narfs import printed %q; want %s", got, path)
	}
	same(t, "narfs dump of the imported "+path, imported.Command("dump", path), nar)

	toFile(t, s.Command("export", path), stream)
	if got := fromFile(t, other.Command("nix-store", "--import"), stream); got != path {
		t.Errorf("nix-store --import printed %q; want %s", got, path)
	}
	same(t, "nix-store --dump of the imported "+path, other.Command("nix-store", "--dump", other.Real(path)), nar)
}

// restores gives the NAR to both programs, plainly and with the case hack.
func restores(t *testing.T, nix *env.Nix, s *env.Store, nar string) {
	t.Helper()
	for _, hack := range []string{"false", "true"} {
		dir := env.Dir(t)
		theirs, ours := filepath.Join(dir, "theirs"), filepath.Join(dir, "ours")
		fromFile(t, nix.Command("nix-store", "--option", "use-case-hack", hack, "--restore", theirs), nar)
		fromFile(t, s.Command("restore", map[string]string{"false": "--case-hack=off", "true": "--case-hack=on"}[hack], ours), nar)
		env.Must(t, exec.Command("diff", "-r", "--no-dereference", theirs, ours))
		same(t, "nix-store --dump of narfs restore, case hack "+hack,
			nix.Command("nix-store", "--option", "use-case-hack", hack, "--dump", ours), nar)
		if hack == "true" {
			same(t, "narfs dump --case-hack", s.Command("dump", "--case-hack=on", theirs), nar)
		}
		remove(t, theirs)
		remove(t, ours)
	}
}

// mounted compares a path in the mount with its source.
func mounted(t *testing.T, nix *env.Nix, source, path, nar string) {
	t.Helper()
	same(t, "nix-store --dump "+path, nix.Command("nix-store", "--dump", path), nar)
	env.Must(t, exec.Command("diff", "-r", "--no-dereference", source, path))
}

// compareHacked compares a path in the hacked view with what Nix's restore writes.
func compareHacked(t *testing.T, nix *env.Nix, path, nar string) {
	t.Helper()
	theirs := filepath.Join(env.Dir(t), "theirs")
	fromFile(t, nix.Command("nix-store", "--option", "use-case-hack", "true", "--restore", theirs), nar)
	env.Must(t, exec.Command("diff", "-r", "--no-dereference", theirs, path))
	same(t, "nix-store --dump of the hacked "+path, nix.Command("nix-store", "--option", "use-case-hack", "true", "--dump", path), nar)
}

// toFile runs a command with its output in a file.
func toFile(tb testing.TB, cmd *exec.Cmd, name string) {
	tb.Helper()
	f, err := os.Create(name)
	if err != nil {
		tb.Fatal(err)
	}
	cmd.Stdout = f
	env.Must(tb, cmd)
	if err := f.Close(); err != nil {
		tb.Fatal(err)
	}
}

// fromFile runs a command with its input from a file and returns its output.
func fromFile(tb testing.TB, cmd *exec.Cmd, name string) string {
	tb.Helper()
	f, err := os.Open(name)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	cmd.Stdin = f
	return env.Must(tb, cmd)
}

// remove takes away what is not needed any more: all trees at once would fill a disk.
func remove(tb testing.TB, name string) {
	tb.Helper()
	if err := os.RemoveAll(name); err != nil {
		tb.Error(err)
	}
}

// same runs a command and compares its output with a file.
func same(tb testing.TB, what string, cmd *exec.Cmd, want string) {
	tb.Helper()
	f, err := os.Open(want)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	c := &comparer{want: bufio.NewReaderSize(f, 1<<20)}
	cmd.Stdout = c
	if r := env.Run(tb, cmd); r.Code != 0 {
		tb.Errorf("%s: exit code %d: %s", what, r.Code, r.Stderr)
		return
	}
	if _, err := c.want.ReadByte(); c.diff || err == nil {
		tb.Errorf("%s: other bytes, first at %d", what, c.at)
	}
}

// comparer compares what is written with what it reads.
type comparer struct {
	want *bufio.Reader
	at   int64
	diff bool
	buf  []byte
}

// Write implements io.Writer. It never fails, so that the writer ends in peace.
func (c *comparer) Write(p []byte) (int, error) {
	if c.diff {
		return len(p), nil
	}
	if cap(c.buf) < len(p) {
		c.buf = make([]byte, len(p))
	}
	n, _ := io.ReadFull(c.want, c.buf[:len(p)])
	if n < len(p) || !bytes.Equal(c.buf[:n], p) {
		c.diff = true
		return len(p), nil
	}
	c.at += int64(n)
	return len(p), nil
}
