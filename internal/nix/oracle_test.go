package nix_test

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"github.com/narfs/narfs/internal/nix"
)

// runNix gives the output lines of one of Nix's programs, which are asked for nothing that needs a store. It skips the test without them.
func runNix(t *testing.T, env, program string, args ...string) []string {
	t.Helper()
	file, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("no real Nix: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), file, args...)
	// The dummy store has no files: not everybody may make a /nix/store.
	cmd.Env = append(cmd.Environ(), "NIX_REMOTE=dummy://", "NIX_STATE_DIR="+t.TempDir(), env)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", cmd, err)
	}
	return strings.Fields(string(out))
}

// Random hashes and names, asked of the Nix that is installed.
func TestOracleFixedPaths(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	const alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-._?="
	for _, dir := range []nix.StoreDir{nix.DefaultStoreDir, "/opt/a-b/store"} {
		for _, method := range []nix.Method{nix.MethodFlat, nix.MethodNAR} {
			args := []string{"--print-fixed-path"}
			if method == nix.MethodNAR {
				args = append(args, "--recursive")
			}
			for algo := nix.MD5; algo <= nix.SHA512; algo++ {
				digest := make([]byte, algo.Size())
				for i := range digest {
					digest[i] = byte(random.Uint32())
				}
				h, err := nix.NewHash(algo, digest)
				if err != nil {
					t.Fatal(err)
				}
				name := []byte{'n'}
				for range random.IntN(40) {
					name = append(name, alphabet[random.IntN(len(alphabet))])
				}
				want, err := nix.MakePathFromCA(dir, string(name), nix.ContentAddress{Method: method, Hash: h}, nil, false)
				if err != nil {
					t.Fatal(err)
				}
				got := runNix(t, "NIX_STORE_DIR="+string(dir), "nix-store", append(args, algo.String(), h.Nix32(), string(name))...)
				if fmt.Sprint(got) != fmt.Sprint([]string{dir.Path(want)}) {
					t.Errorf("nix-store %v %s %s %s = %v; MakePathFromCA() = %s", args, algo, h.Nix32(), name, got, dir.Path(want))
				}
			}
		}
	}
}

func TestOracleHashes(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for algo := nix.MD5; algo <= nix.SHA512; algo++ {
		var want []nix.Hash
		var base16, nix32 []string
		for range 50 {
			digest := make([]byte, algo.Size())
			for i := range digest {
				digest[i] = byte(random.Uint32())
			}
			h, err := nix.NewHash(algo, digest)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, h)
			base16 = append(base16, h.Base16())
			nix32 = append(nix32, h.Nix32())
		}
		for _, tt := range []struct {
			to   string
			args []string
		}{{"--to-base16", nix32}, {"--to-base32", base16}} {
			got := runNix(t, "", "nix-hash", append([]string{"--type", algo.String(), tt.to}, tt.args...)...)
			if len(got) != len(want) {
				t.Fatalf("nix-hash %s: %d lines; want %d", tt.to, len(got), len(want))
			}
			for i, line := range got {
				if h, err := nix.ParseHash(line, algo); h != want[i] || err != nil {
					t.Errorf("nix-hash --type %s %s %s = %s; ParseHash() = %v, %v; want %v", algo, tt.to, tt.args[i], line, h, err, want[i])
				}
			}
		}
	}
}
