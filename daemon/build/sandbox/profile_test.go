package sandbox_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/daemon/build/sandbox"
)

var update = flag.Bool("update", false, "rewrite the expected output in testdata")

func TestProfile(t *testing.T) {
	base := sandbox.Spec{
		Sandboxed: true, StoreDir: "/nix/store", Inputs: []string{"a-folder", "b-file"},
		Outputs: "/private/var/narfs/out", BuildDir: "/private/tmp/b",
		Binds: []sandbox.Bind{{Source: `/usr/"odd\name`}, {Source: "/bin/sh", ReadOnly: true}},
	}
	network, open := base, base
	network.Network = true
	open.Sandboxed = false
	for name, s := range map[string]sandbox.Spec{"sandboxed": base, "network": network, "open": open} {
		got := sandbox.Profile(s, func(path string) bool { return path == "/nix/store/a-folder" })
		file := filepath.Join("testdata", name+".sb")
		want, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Error(err)
				}
			}
		}
		if strings.Count(got, "(") != strings.Count(got, ")") {
			t.Errorf("%s: parentheses do not match", name)
		}
	}
}
