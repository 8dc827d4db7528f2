//go:build unix

package nar_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/casefold"
	"github.com/narfs/narfs/nar"
)

// nix gives a function that runs a command of the real Nix in a store of its
// own and returns its output.
func nix(t *testing.T) func(stdin []byte, name string, args ...string) ([]byte, error) {
	t.Helper()
	if _, err := exec.LookPath("nix-store"); err != nil {
		t.Skip("nix-store is not installed (Debian: nix-bin)")
	}
	home := t.TempDir()
	env := append(os.Environ(), "HOME="+home, "NIX_REMOTE=", "NIX_CONF_DIR="+home)
	for _, v := range []string{"STORE_DIR", "STATE_DIR", "LOG_DIR", "LOCALSTATE_DIR"} {
		env = append(env, "NIX_"+v+"="+filepath.Join(home, strings.ToLower(v)))
	}
	return func(stdin []byte, name string, args ...string) ([]byte, error) {
		c := exec.CommandContext(t.Context(), name, args...)
		c.Env, c.Stdin = env, bytes.NewReader(stdin)
		var errs bytes.Buffer
		c.Stderr = &errs
		out, err := c.Output()
		if err != nil {
			return out, fmt.Errorf("%s %q: %w: %s", name, args, err, errs.Bytes())
		}
		return out, nil
	}
}

// realTrees are trees of this machine with odd names, links and permissions.
func realTrees(t *testing.T) []string {
	t.Helper()
	all := []string{"/usr/include/linux", "/usr/share/terminfo", "/usr/share/zoneinfo"}
	if long() {
		all = append(all, "/usr/include", "/usr/share/perl", "/etc", "/usr/bin", "/usr/share/doc")
	}
	var trees []string
	for _, path := range all {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			trees = append(trees, path)
		}
	}
	return trees
}

func TestDumpAsNix(t *testing.T) {
	run := nix(t)
	made := restore(t, write(t, append(sample()[:8], file(3, "z", 1<<20), link(2, "\xff", "../\xfe"))), nar.RestoreOptions{})
	if err := os.Link(filepath.Join(made, "A"), filepath.Join(made, "hardlink")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(made, "others-execute"), []byte("x"), 0o611); err != nil {
		t.Fatal(err)
	}
	for _, path := range append(realTrees(t), made, filepath.Join(made, "\xff"), filepath.Join(made, "A")) {
		want, err := run(nil, "nix-store", "--dump", path)
		if err != nil {
			t.Logf("skip %s: %v", path, err) // something of this machine that Nix cannot dump
			continue
		}
		got := dump(t, path, nar.DumpOptions{})
		if sha256.Sum256(got) != sha256.Sum256(want) {
			t.Errorf("Dump(%s) = %d bytes; want the %d of nix-store --dump", path, len(got), len(want))
		}
		tree, err := nar.ReadTree(bytes.NewReader(want), nar.Limits{})
		if err != nil || nar.Size(tree) != int64(len(want)) {
			t.Errorf("ReadTree of the dump of %s: %v, Size = %d; want %d", path, err, nar.Size(tree), len(want))
		}
	}
}

// caseTree makes folders with sets of names that collide under ASCII, of all
// types of files. Nix loses none of them.
func caseTree(n int) []nar.Header {
	rnd := rand.New(rand.NewPCG(1, 2))
	hs := []nar.Header{dir(1, "")}
	for i := range n {
		hs = append(hs, dir(2, fmt.Sprintf("%04d", i)))
		names := map[string]bool{}
		for range rnd.IntN(12) {
			b := []byte([]string{"a", "foo", "Makefile", "é", "x_y", "x-y.h"}[rnd.IntN(6)])
			for j, c := range b {
				if c|0x20 >= 'a' && c|0x20 <= 'z' && c < 0x80 && rnd.IntN(2) == 0 {
					b[j] ^= 0x20
				}
			}
			names[string(b)] = true
		}
		var list []string
		for name := range names {
			list = append(list, name)
		}
		for _, name := range sorted(list) {
			switch rnd.IntN(4) {
			case 0:
				hs = append(hs, link(3, name, name))
			case 1:
				hs = append(hs, dir(3, name), file(4, "in", 3), file(4, "IN~", 3))
				hs[len(hs)-2], hs[len(hs)-1] = hs[len(hs)-1], hs[len(hs)-2]
			default:
				h := file(3, name, rnd.Int64N(20))
				h.Executable = rnd.IntN(2) == 0
				hs = append(hs, h)
			}
		}
	}
	return hs
}

func TestRestoreAsNix(t *testing.T) {
	run := nix(t)
	sets := 40
	if long() {
		sets = 5_000
	}
	for name, in := range map[string][]byte{
		"sample":     write(t, append(sample()[:8], file(3, "z", 1<<20), link(2, "ÿ", "../þ"))),
		"file":       write(t, []nar.Header{file(1, "", 100)}),
		"symlink":    write(t, []nar.Header{link(1, "", "to")}),
		"case pairs": write(t, caseTree(sets)),
	} {
		for _, hack := range []bool{false, true} {
			theirs := filepath.Join(t.TempDir(), "theirs")
			option := []string{"--option", "use-case-hack", fmt.Sprint(hack)}
			if _, err := run(in, "nix-store", append(option, "--restore", theirs)...); err != nil {
				t.Fatal(err)
			}
			ours := restore(t, in, nar.RestoreOptions{CaseHack: hack, Rule: casefold.ASCII})
			if diff := cmp.Diff(listDisk(t, theirs), listDisk(t, ours)); diff != "" {
				t.Errorf("%s, case hack %v: restored (-nix +ours):\n%s", name, hack, diff)
			}
			out, err := run(nil, "nix-store", append(option, "--dump", ours)...)
			if err != nil || !bytes.Equal(out, in) {
				t.Errorf("%s, case hack %v: nix-store --dump of what we restored: %v, or another NAR", name, hack, err)
			}
			if !bytes.Equal(dump(t, theirs, nar.DumpOptions{CaseHack: hack}), in) {
				t.Errorf("%s, case hack %v: our dump of what Nix restored is another NAR", name, hack)
			}
		}
	}
}

func TestListingAsNix(t *testing.T) {
	run := nix(t)
	exe := file(2, "run", 10)
	exe.Executable = true
	for name, hs := range map[string][]nar.Header{
		"file":    {file(1, "", 3)},
		"symlink": {link(1, "", "to\"\\")},
		"directory": {
			dir(1, ""), file(2, "a\x01\x1f\x7f\n\t\r\b\f\"\\é€😀", 0), dir(2, "b"), dir(3, "empty"), link(3, "l", "../é/"), exe, file(2, "z<&>", 70_000),
		},
		"case pairs": caseTree(50),
	} {
		in := write(t, hs)
		path := filepath.Join(t.TempDir(), "x.nar")
		if err := os.WriteFile(path, in, 0o600); err != nil {
			t.Fatal(err)
		}
		want, err := run(nil, "nix", "--extra-experimental-features", "nix-command", "nar", "ls", "--json", "--recursive", path, "")
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if err := nar.WriteListing(&got, build(t, hs)); err != nil {
			t.Fatal(err)
		}
		wrapped := `{"version":1,"root":` + strings.TrimSpace(string(want)) + "}"
		if diff := cmp.Diff(wrapped, got.String()); diff != "" {
			t.Errorf("listing of %s (-nix +ours):\n%s", name, diff)
		}
		if !json.Valid(got.Bytes()) {
			t.Errorf("listing of %s is not JSON", name)
		}
	}
}
