package mount_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/narfs/narfs/tests/env"
)

func TestMain(m *testing.M) { env.Main(m) }

// mkdir makes a folder and what is missing above it.
func mkdir(tb testing.TB, elem ...string) string {
	tb.Helper()
	dir := filepath.Join(elem...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	return dir
}

// write makes a file and the folder for it.
func write(tb testing.TB, file, text string, mode os.FileMode) {
	tb.Helper()
	mkdir(tb, filepath.Dir(file))
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		tb.Fatal(err)
	}
}

// makeTree makes a tree with something of everything: many small files, some large ones, programs, links, empty files and
// folders, odd names.
func makeTree(tb testing.TB, dir string, files int) string {
	tb.Helper()
	rnd := rand.New(rand.NewPCG(1, uint64(files)))
	for i := range files {
		size := int(rnd.ExpFloat64() * 3000)
		if i%101 == 0 {
			size = 300_000 + rnd.IntN(700_000)
		}
		var text bytes.Buffer
		for text.Len() < size {
			_, _ = fmt.Fprintf(&text, "%x line %d of file %d\n", rnd.Uint64(), text.Len(), i)
		}
		mode := os.FileMode(0o644)
		if i%17 == 0 {
			mode = 0o755
		}
		write(tb, filepath.Join(dir, fmt.Sprintf("d%d", i%23), fmt.Sprintf("e%d", i%7), fmt.Sprintf("file%d", i)), text.String(), mode)
	}
	odd := mkdir(tb, dir, "odd")
	for _, name := range []string{" ", "-rf", "a\nb", "*", "ü", "\xff\xfe", `back\slash`, "'", `"`, "~nix~case~hack~1", ".hidden", strings.Repeat("x", 255)} {
		write(tb, filepath.Join(odd, name), name, 0o644)
	}
	mkdir(tb, dir, "empty", "very")
	write(tb, filepath.Join(dir, "nothing"), "", 0o644)
	for from, to := range map[string]string{"link": "d1/e1/file1", "dangling": "no/where", "loop": "loop", "up": "../..", "folder": "d2"} {
		if err := os.Symlink(to, filepath.Join(dir, from)); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

// add adds a tree and returns the base name of its store path.
func add(tb testing.TB, s *env.Store, args ...string) string {
	tb.Helper()
	return filepath.Base(s.Must(append([]string{"add"}, args...)...))
}

// shell runs a script for its exit code and returns its output.
func shell(tb testing.TB, script string, args ...string) string {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), "sh", append([]string{"-ec", script, "sh"}, args...)...)
	return env.Must(tb, cmd)
}
