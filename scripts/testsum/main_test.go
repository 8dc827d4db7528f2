package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
)

// Each testdata/*.txtar holds what go test -json printed, and what testsum
// makes of it: shown, and the tally.
func TestRun(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no testdata: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			parts := map[string]string{}
			for _, f := range archive.Files {
				parts[f.Name] = string(f.Data)
			}
			tally := filepath.Join(t.TempDir(), "tally")
			var stdout, stderr bytes.Buffer
			code := run([]string{"-o", tally}, strings.NewReader(parts["input"]), &stdout, &stderr)
			if want := strings.Contains(parts["tally"], "failed\t0\n"); want != (code == 0) || stderr.Len() > 0 {
				t.Errorf("run = %d, %q; want 0: %v", code, &stderr, want)
			}
			if diff := cmp.Diff(parts["shown"], stdout.String()); diff != "" {
				t.Errorf("shown (-want +got):\n%s", diff)
			}
			got, err := os.ReadFile(tally)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(parts["tally"], string(got)); diff != "" {
				t.Errorf("tally (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRunUsage(t *testing.T) {
	var out bytes.Buffer
	if code := run([]string{"-x"}, strings.NewReader(""), &out, &out); code != 2 {
		t.Errorf("run(-x) = %d; want 2", code)
	}
}
