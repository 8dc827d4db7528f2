package casefold_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/casefold"
)

// nixSets is how many sets of names real Nix restores and dumps, all in one NAR.
const nixSets = 100

// nixStore runs nix-store with the case hack on.
func nixStore(t *testing.T, stdin []byte, args ...string) (stdout []byte, err error) {
	t.Helper()
	path, err := exec.LookPath("nix-store")
	if err != nil {
		t.Skip("nix-store is not installed (Debian: nix-bin)")
	}
	var out, problem bytes.Buffer
	cmd := exec.CommandContext(t.Context(), path, append(args, "--option", "use-case-hack", "true")...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &problem
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("nix-store %s: %w: %s", strings.Join(args, " "), err, problem.Bytes())
	}
	return out.Bytes(), nil
}

// testSets returns reproducible sets of names that pass keep.
func testSets(suffix bool, keep func(names []string) bool) [][]string {
	var all [][]string
	gen := genNames(suffix)
	for seed := 0; len(all) < nixSets; seed++ {
		if names := gen.Example(seed); len(names) > 0 && keep(names) {
			all = append(all, names)
		}
	}
	return all
}

// archive writes NARs by hand: this package is below nar.
type archive struct{ bytes.Buffer }

func (a *archive) tokens(all ...string) {
	for _, s := range all {
		_ = binary.Write(a, binary.LittleEndian, uint64(len(s)))
		a.WriteString(s)
		a.Write(make([]byte, -len(s)&7))
	}
}

// node writes what stands for a name in the tests: a file with it in it, a link to it, or a folder that has a link
// to it, so that each kind is hacked and every file tells its original name.
func (a *archive) node(name string, kind int) {
	switch kind % 3 {
	case 0:
		a.tokens("(", "type", "regular", "contents", name, ")")
	case 1:
		a.tokens("(", "type", "symlink", "target", name, ")")
	case 2:
		a.tokens("(", "type", "directory", "entry", "(", "name", "x", "node", "(", "type", "symlink", "target", name, ")", ")", ")")
	}
}

// setsArchive returns the NAR of a folder with a folder for each set.
func setsArchive(sets [][]string) []byte {
	var a archive
	a.tokens("nix-archive-1", "(", "type", "directory")
	for i, names := range sets {
		a.tokens("entry", "(", "name", fmt.Sprintf("%06d", i), "node", "(", "type", "directory")
		for j, name := range names {
			a.tokens("entry", "(", "name", name, "node")
			a.node(name, i+j)
			a.tokens(")")
		}
		a.tokens(")", ")")
	}
	a.tokens(")")
	return a.Bytes()
}

// readSet returns the names on disk by original names.
func readSet(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]string{}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		var orig string
		switch {
		case e.IsDir():
			orig, err = os.Readlink(filepath.Join(path, "x"))
		case e.Type() == os.ModeSymlink:
			orig, err = os.Readlink(path)
		default:
			var data []byte
			data, err = os.ReadFile(path)
			orig = string(data)
		}
		if err != nil {
			t.Fatal(err)
		}
		shown[orig] = e.Name()
	}
	return shown
}

// writeSet writes what readSet reads.
func writeSet(t *testing.T, dir string, i int, names, shown []string) {
	t.Helper()
	err := os.Mkdir(dir, 0o755)
	for j, name := range names {
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, shown[j])
		switch (i + j) % 3 {
		case 0:
			err = os.WriteFile(path, []byte(name), 0o644)
		case 1:
			err = os.Symlink(name, path)
		case 2:
			if err = os.Mkdir(path, 0o755); err == nil {
				err = os.Symlink(name, filepath.Join(path, "x"))
			}
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestRestoreByNix compares the names that Nix gives with the reference of the tests and with Hack.
func TestRestoreByNix(t *testing.T) {
	t.Parallel()
	for _, suffix := range []bool{false, true} {
		t.Run(fmt.Sprintf("suffix=%v", suffix), func(t *testing.T) {
			t.Parallel()
			all := testSets(suffix, func(names []string) bool {
				nix := clean(nixNames(names)) // valid and distinct by bytes, or Nix fails
				return len(nix) == len(names) && len(slices.MaxFunc(nix, byLen)) <= casefold.MaxName
			})
			disk := filepath.Join(t.TempDir(), "restored")
			if _, err := nixStore(t, setsArchive(all), "--restore", disk); err != nil {
				t.Fatal(err)
			}
			same := 0
			for i, names := range all {
				nix, got := map[string]string{}, map[string]string{}
				reference, shown := nixNames(names), casefold.Hack(casefold.ASCII, names)
				for j, name := range names {
					nix[name], got[name] = reference[j], shown[j]
				}
				onDisk := readSet(t, filepath.Join(disk, fmt.Sprintf("%06d", i)))
				if diff := cmp.Diff(onDisk, nix); diff != "" {
					t.Errorf("set %+q (-real +reference):\n%s", names, diff)
				}
				if holdsSuffix(names) || !storable(casefold.ASCII, reference) {
					continue
				}
				if !slices.Equal(names, shown) {
					same++
				}
				if diff := cmp.Diff(onDisk, got); diff != "" {
					t.Errorf("set %+q (-nix +hack):\n%s", names, diff)
				}
			}
			t.Logf("%d of %d sets hacked by Hack as by Nix", same, len(all))
			if same < nixSets/10 {
				t.Error("too few")
			}
		})
	}
}

// byLen orders strings by length.
func byLen(a, b string) int { return len(a) - len(b) }

// TestDumpByNix: what narfs hacked under any rule Nix dumps as it was, if no name is of the kinds that Nix loses.
func TestDumpByNix(t *testing.T) {
	t.Parallel()
	for _, rule := range rules {
		t.Run(rule.String(), func(t *testing.T) {
			t.Parallel()
			all := testSets(false, func(names []string) bool {
				_, err := casefold.Unhack(casefold.Hack(rule, names))
				return err == nil
			})
			disk := t.TempDir()
			changed := 0
			for i, names := range all {
				shown := casefold.Hack(rule, names)
				writeSet(t, filepath.Join(disk, fmt.Sprintf("%06d", i)), i, names, shown)
				if !slices.Equal(names, shown) {
					changed++
				}
			}
			got, err := nixStore(t, nil, "--dump", disk)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, setsArchive(all)) {
				t.Error("nix-store --dump differs from the original NAR")
			}
			t.Logf("%d of %d sets hacked", changed, len(all))
			if changed < nixSets/10 {
				t.Error("too few")
			}
		})
	}
}

// TestStripAsNix lets Nix dump names with the suffix that narfs did not make, and the collisions that it refuses.
func TestStripAsNix(t *testing.T) {
	t.Parallel()
	strange := map[string]bool{}
	for _, names := range testSets(true, holdsSuffix) {
		for _, name := range names {
			cut, _, _ := strings.Cut(name, s)
			if orig, _ := casefold.Strip(name); orig == cut && orig != "" && orig != "." && orig != ".." {
				strange[name] = true
			}
		}
	}
	var a archive
	a.tokens("nix-archive-1", "(", "type", "directory")
	disk := t.TempDir()
	for i, name := range slices.Sorted(maps.Keys(strange)) {
		orig, _ := casefold.Strip(name)
		dir := fmt.Sprintf("%06d", i)
		writeSet(t, filepath.Join(disk, dir), 0, []string{orig}, []string{name})
		a.tokens("entry", "(", "name", dir, "node", "(", "type", "directory", "entry", "(", "name", orig, "node")
		a.node(orig, 0)
		a.tokens(")", ")", ")")
	}
	a.tokens(")")
	got, err := nixStore(t, nil, "--dump", disk)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, a.Bytes()) {
		t.Errorf("nix-store --dump strips one of %d names otherwise", len(strange))
	}

	for _, onDisk := range [][]string{{"a", "a" + s + "1"}, {"b" + s + "1", "b" + s + "2"}, {"c" + s, "c" + s + "x"}} {
		dir := filepath.Join(t.TempDir(), "set")
		writeSet(t, dir, 0, onDisk, onDisk)
		_, nixErr := nixStore(t, nil, "--dump", dir)
		_, err := casefold.Unhack(onDisk)
		if nixErr == nil || !strings.Contains(nixErr.Error(), "file name collision") {
			t.Errorf("nix-store --dump of %q: %v; want a file name collision", onDisk, nixErr)
		}
		if err == nil || !strings.Contains(err.Error(), "file name collision") {
			t.Errorf("Unhack(%q): %v; want a file name collision", onDisk, err)
		}
	}
}

// TestNixLoses: what the package comment says of Nix is so.
func TestNixLoses(t *testing.T) {
	t.Parallel()
	for _, names := range [][]string{{"a" + s + "1"}, {"X" + s[:14], "x" + s[:14]}} {
		disk := filepath.Join(t.TempDir(), "set")
		nar := setsArchive([][]string{names})
		if _, err := nixStore(t, nar, "--restore", disk); err != nil {
			t.Fatal(err)
		}
		got, err := nixStore(t, nil, "--dump", disk)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(got, nar) {
			t.Errorf("nix-store dumps %q as it was; the package comment says otherwise", names)
		}
	}
}
