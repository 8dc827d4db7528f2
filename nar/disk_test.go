//go:build unix

package nar_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/narfs/narfs/casefold"
	"github.com/narfs/narfs/nar"
)

func dump(tb testing.TB, path string, o nar.DumpOptions) []byte {
	tb.Helper()
	var buf bytes.Buffer
	if err := nar.Dump(&buf, path, o); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

func restore(tb testing.TB, in []byte, o nar.RestoreOptions) string {
	tb.Helper()
	dest := filepath.Join(tb.TempDir(), "restored")
	if err := nar.Restore(bytes.NewReader(in), dest, o); err != nil {
		tb.Fatal(err)
	}
	return dest
}

// listDisk describes every file below path, with its permissions, one a line.
func listDisk(tb testing.TB, path string) []string {
	tb.Helper()
	var list []string
	err := filepath.WalkDir(path, func(p string, e iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%q %v", strings.TrimPrefix(p, path), info.Mode())
		switch {
		case info.Mode().IsRegular():
			c, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %q", c)
		case info.Mode()&iofs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" -> %q", to)
		}
		list = append(list, line)
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return list
}

func TestDumpAndRestore(t *testing.T) {
	hs := sample()[:8]
	hs = append(hs, file(4, "x", 3<<20+5), file(3, "z", 300_000), link(2, "ÿ", "../þ"))
	in := write(t, hs)
	dest := restore(t, in, nar.RestoreOptions{})
	if !bytes.Equal(dump(t, dest, nar.DumpOptions{}), in) {
		t.Error("the dump of a restored NAR differs from it")
	}
	info, err := os.Stat(filepath.Join(dest, "bin", "run"))
	if err != nil || info.Mode().Perm()&0o111 != 0o111 {
		t.Errorf("permissions of an executable = %v, %v; want it executable for all", info.Mode(), err)
	}
	for _, h := range []nar.Header{file(1, "", 0), file(1, "", 1), file(1, "", 1<<20), link(1, "", "nowhere"), dir(1, "")} {
		in := write(t, []nar.Header{h})
		if !bytes.Equal(dump(t, restore(t, in, nar.RestoreOptions{}), nar.DumpOptions{}), in) {
			t.Errorf("the dump of a restored %v differs from it", h)
		}
	}
}

func TestDumpAndRestoreAnyTree(t *testing.T) {
	folder := t.TempDir()
	i := 0
	rapid.Check(t, func(rt *rapid.T) {
		in := write(rt, genTree(20).Draw(rt, "tree"))
		hack := rapid.Bool().Draw(rt, "hack")
		rule := rapid.SampledFrom([]casefold.Rule{casefold.ASCII, casefold.HFS, casefold.APFS}).Draw(rt, "rule")
		i++
		dest := filepath.Join(folder, fmt.Sprint(i))
		if err := nar.Restore(bytes.NewReader(in), dest, nar.RestoreOptions{CaseHack: hack, Rule: rule}); err != nil {
			rt.Fatal(err)
		}
		var out bytes.Buffer
		if err := nar.Dump(&out, dest, nar.DumpOptions{CaseHack: hack}); err != nil {
			rt.Fatal(err)
		}
		if !bytes.Equal(in, out.Bytes()) {
			rt.Fatal("the dump of a restored NAR differs from it")
		}
	})
}

func TestRestoreCanonical(t *testing.T) {
	dest := restore(t, write(t, sample()[:8]), nar.RestoreOptions{Canonical: true})
	want := map[string]iofs.FileMode{
		".": iofs.ModeDir | 0o555, "A": 0o444, "bin": iofs.ModeDir | 0o555, "bin/run": 0o555,
		"bin/run-2": iofs.ModeSymlink, "empty": iofs.ModeDir | 0o555, "lib": iofs.ModeDir | 0o555, "lib/deep": iofs.ModeDir | 0o555,
	}
	for name, mode := range want {
		info, err := os.Lstat(filepath.Join(dest, name))
		if err != nil {
			t.Fatal(err)
		}
		got := info.Mode()
		if mode == iofs.ModeSymlink {
			got = got.Type()
		}
		if got != mode || !info.ModTime().Equal(time.Unix(1, 0)) {
			t.Errorf("%s: %v, %v; want %v, one second after 1970", name, got, info.ModTime(), mode)
		}
	}
	for name := range want { // so that the folder can be removed by others than root
		_ = os.Chmod(filepath.Join(dest, name), 0o755)
	}
}

func TestRestoreRefusesWhatExists(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	for name, create := range map[string]func(string) error{
		"file":             func(p string) error { return os.WriteFile(p, []byte("mine"), 0o600) },
		"directory":        func(p string) error { return os.Mkdir(p, 0o700) },
		"dangling symlink": func(p string) error { return os.Symlink(outside, p) },
	} {
		for _, h := range []nar.Header{dir(1, ""), file(1, "", 5), link(1, "", "to")} {
			dest := filepath.Join(t.TempDir(), "dest")
			if err := create(dest); err != nil {
				t.Fatal(err)
			}
			before := listDisk(t, dest)
			err := nar.Restore(bytes.NewReader(write(t, []nar.Header{h})), dest, nar.RestoreOptions{})
			if !errors.Is(err, iofs.ErrExist) || strings.Contains(err.Error(), "incomplete") {
				t.Errorf("Restore of a %s over a %s = %v; want that it exists", h.Type, name, err)
			}
			if diff := cmp.Diff(before, listDisk(t, dest)); diff != "" {
				t.Errorf("Restore of a %s over a %s changed it:\n%s", h.Type, name, diff)
			}
		}
	}
	if _, err := os.Lstat(outside); err == nil {
		t.Error("Restore followed a symlink")
	}
}

func TestRestoreErrors(t *testing.T) {
	in := write(t, sample()[:8])
	dest := filepath.Join(t.TempDir(), "dest")
	err := nar.Restore(bytes.NewReader(in[:len(in)-20]), dest, nar.RestoreOptions{})
	if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "the incomplete tree is still there") {
		t.Errorf("Restore of a NAR cut short = %v", err)
	}
	err = nar.Restore(strings.NewReader("hello"), dest+"2", nar.RestoreOptions{})
	var fe *nar.FormatError
	if !errors.As(err, &fe) || strings.Contains(err.Error(), "incomplete") {
		t.Errorf("Restore of no NAR = %v; want a FormatError and nothing left", err)
	}
	err = nar.Restore(bytes.NewReader(in), dest+"3", nar.RestoreOptions{Limits: nar.Limits{Entries: 3}})
	if err == nil || !strings.Contains(err.Error(), "NAR has more than 3 entries") {
		t.Errorf("Restore above a limit = %v", err)
	}
	if err := nar.Restore(bytes.NewReader(in), filepath.Join(dest+"4", "x"), nar.RestoreOptions{}); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("Restore into no folder = %v; want that it does not exist", err)
	}
}

// TestRestoreDoesNotFollow replaces a directory that Restore has just made by a
// symlink that leads out of the tree.
func TestRestoreDoesNotFollow(t *testing.T) {
	folder := t.TempDir()
	dest, outside := filepath.Join(folder, "dest"), filepath.Join(folder, "outside")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	in := write(t, []nar.Header{dir(1, ""), dir(2, "a"), dir(3, "b"), file(4, "big", 200_000), dir(4, "c"), file(5, "x", 1), file(3, "d", 1)})
	at := bytes.Index(in, content("big", 200_000))
	swap := readerFunc(func([]byte) (int, error) {
		if err := os.Rename(filepath.Join(dest, "a", "b"), filepath.Join(folder, "moved")); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(outside, filepath.Join(dest, "a", "b")); err != nil {
			t.Fatal(err)
		}
		return 0, io.EOF
	})
	src := io.MultiReader(bytes.NewReader(in[:at+10]), swap, bytes.NewReader(in[at+10:]))
	if err := nar.Restore(src, dest, nar.RestoreOptions{}); err != nil {
		t.Log(err) // an error is as good
	}
	if left := listDisk(t, outside); len(left) != 1 {
		t.Errorf("Restore wrote outside of its tree: %q", left)
	}
}

func TestDumpRefuses(t *testing.T) {
	folder := t.TempDir()
	fifo := filepath.Join(folder, "a", "fifo")
	if err := os.Mkdir(filepath.Dir(fifo), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{folder, fifo, os.DevNull} {
		err := nar.Dump(io.Discard, path, nar.DumpOptions{})
		if err == nil || !strings.Contains(err.Error(), "no regular file, directory or symlink") {
			t.Errorf("Dump(%s) = %v; want an error for a special file", path, err)
		}
		if path == folder && !strings.Contains(err.Error(), fifo) {
			t.Errorf("Dump(%s) = %v; want the path %s in it", path, err, fifo)
		}
	}
	if err := nar.Dump(io.Discard, filepath.Join(folder, "none"), nar.DumpOptions{}); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("Dump of nothing = %v; want that it does not exist", err)
	}
}

func TestDumpDepth(t *testing.T) {
	for levels, want := range map[int]string{nar.MaxDepth: "", nar.MaxDepth + 1: "nested deeper than 64 levels"} {
		folder := filepath.Join(t.TempDir(), "0")
		if err := os.MkdirAll(folder+strings.Repeat("/d", levels-1), 0o755); err != nil {
			t.Fatal(err)
		}
		err := nar.Dump(io.Discard, folder, nar.DumpOptions{})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("Dump of %d levels = %v; want %q", levels, err, want)
		}
	}
}

// TestDumpSizeChanges changes a file when its first bytes have been written.
func TestDumpSizeChanges(t *testing.T) {
	const size = 4 << 20
	for name, newSize := range map[string]int64{"grows": size + 1, "shrinks": size - 1} {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
		w := writerFunc(func(p []byte) (int, error) { return len(p), os.Truncate(path, newSize) })
		if err := nar.Dump(w, path, nar.DumpOptions{}); err == nil || !strings.Contains(err.Error(), "its size changes") {
			t.Errorf("Dump of a file that %s = %v; want an error", name, err)
		}
	}
	const lies = "/sys/kernel/mm/transparent_hugepage" // its files are shorter than their size
	if _, err := os.Stat(lies); err == nil {
		if err := nar.Dump(io.Discard, lies, nar.DumpOptions{}); err == nil || !strings.Contains(err.Error(), "its size changes") {
			t.Errorf("Dump(%s) = %v; want an error", lies, err)
		}
	}
}

// TestDumpDoesNotFollow replaces directories and files by symlinks while they
// are being dumped.
func TestDumpDoesNotFollow(t *testing.T) {
	folder := t.TempDir()
	tree, outside := filepath.Join(folder, "tree"), filepath.Join(folder, "outside")
	const secret = "the secret outside of the tree"
	for i := range 60 {
		for _, top := range []string{tree, outside} {
			d := filepath.Join(top, fmt.Sprintf("%03d", i))
			text := "public"
			if top == outside {
				text = secret
			}
			if err := os.MkdirAll(d, 0o755); err != nil {
				t.Fatal(err)
			}
			for j := range 10 {
				if err := os.WriteFile(filepath.Join(d, fmt.Sprint(j)), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	var out bytes.Buffer
	swapped := false
	w := writerFunc(func(p []byte) (int, error) {
		if !swapped {
			swapped = true
			for i := range 60 {
				d := fmt.Sprintf("%03d", i)
				if i%2 == 0 {
					_ = os.Rename(filepath.Join(tree, d), filepath.Join(folder, "was"+d))
					_ = os.Symlink(filepath.Join(outside, d), filepath.Join(tree, d))
					continue
				}
				for j := range 10 {
					f := filepath.Join(tree, d, fmt.Sprint(j))
					_ = os.Remove(f)
					_ = os.Symlink(filepath.Join(outside, d, fmt.Sprint(j)), f)
				}
			}
		}
		return out.Write(p)
	})
	if err := nar.Dump(w, tree, nar.DumpOptions{}); err != nil {
		t.Log(err) // what changes may be an error
	}
	if !swapped || bytes.Contains(out.Bytes(), []byte(secret)) {
		t.Error("Dump followed a symlink out of the tree")
	}
}

// TestDumpCleansUp looks for descriptors and goroutines after an early end.
func TestDumpCleansUp(t *testing.T) {
	folder := t.TempDir()
	for i := range 60 {
		d := filepath.Join(folder, fmt.Sprint(i))
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		for j := range 5 {
			if err := os.WriteFile(filepath.Join(d, fmt.Sprint(j)), make([]byte, 10_000*j*j), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	descriptors := func() int {
		list, err := os.ReadDir("/dev/fd")
		if err != nil {
			t.Skip("no /dev/fd")
		}
		return len(list)
	}
	fds, routines := descriptors(), runtime.NumGoroutine()
	full := errors.New("disk full")
	for stop := range 40 {
		n := 0
		w := writerFunc(func(p []byte) (int, error) {
			if n++; n > stop*5 {
				return 0, full
			}
			return len(p), nil
		})
		if err := nar.Dump(w, folder, nar.DumpOptions{}); !errors.Is(err, full) {
			t.Fatalf("Dump to a full disk = %v; want %v", err, full)
		}
	}
	if err := nar.Dump(io.Discard, folder, nar.DumpOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := descriptors(); got != fds {
		t.Errorf("%d open files after Dump; want %d", got, fds)
	}
	if got := runtime.NumGoroutine(); got > routines {
		t.Errorf("%d goroutines after Dump; want %d", got, routines)
	}
}

func TestCaseHackOnDisk(t *testing.T) {
	in := write(t, []nar.Header{
		dir(1, ""), file(2, "FOO", 1), dir(2, "Foo"), file(3, "A", 2), link(3, "a", "A"), link(2, "foo", "FOO"),
	})
	dest := restore(t, in, nar.RestoreOptions{CaseHack: true})
	var got []string
	for _, line := range listDisk(t, dest) {
		got = append(got, strings.Fields(line)[0])
	}
	want := []string{
		`""`, `"/FOO"`, `"/Foo~nix~case~hack~1"`, `"/Foo~nix~case~hack~1/A"`, `"/Foo~nix~case~hack~1/a~nix~case~hack~1"`, `"/foo~nix~case~hack~2"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("restored with the case hack (-want +got):\n%s", diff)
	}
	if !bytes.Equal(dump(t, dest, nar.DumpOptions{CaseHack: true}), in) {
		t.Error("the dump of a hacked tree differs from its NAR")
	}
	if bytes.Equal(dump(t, dest, nar.DumpOptions{}), in) {
		t.Error("the dump of a hacked tree without the hack is its NAR; want the names on disk")
	}
	if err := os.WriteFile(filepath.Join(dest, "FOO~nix~case~hack~7"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := nar.Dump(io.Discard, dest, nar.DumpOptions{CaseHack: true}); err == nil || !strings.Contains(err.Error(), "collision") {
		t.Errorf("Dump of two files with one original name = %v; want an error", err)
	}
}

func BenchmarkDump(b *testing.B) {
	for _, c := range []struct {
		name string
		hs   []nar.Header
	}{
		{"small-files", manyFiles(20_000, 2_000)},
		{"medium-files", manyFiles(2_000, 40_000)},
		{"one-file", []nar.Header{file(1, "", 256<<20)}},
	} {
		b.Run(c.name, func(b *testing.B) {
			in := write(b, c.hs)
			path := restore(b, in, nar.RestoreOptions{})
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				if err := nar.Dump(io.Discard, path, nar.DumpOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRestore(b *testing.B) {
	in := write(b, manyFiles(5_000, 2_000))
	folder := b.TempDir()
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		if err := nar.Restore(bytes.NewReader(in), filepath.Join(folder, fmt.Sprint(i)), nar.RestoreOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}
