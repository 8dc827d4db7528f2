package interop_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/tests/env"
)

// TestSignatures: keys of either program sign the same in both, and a Nix that is told to trust the key accepts what narfs
// has signed.
func TestSignatures(t *testing.T) {
	nix, store := env.NewNix(t), env.NewStore(t)
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }

	public := store.Must("-q", "keys", "generate", "--out", file("ours"), "ours-1")
	nix.Must("nix-store", "--generate-binary-cache-key", "theirs-1", file("theirs"), file("theirs.pub"))
	theirs, err := os.ReadFile(file("theirs.pub"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := store.Must("keys", "public", file("theirs")), strings.TrimSpace(string(theirs)); got != want {
		t.Errorf("narfs keys public of Nix's key = %s; want %s", got, want)
	}
	secret, err := os.Open(file("ours"))
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close() //nolint:errcheck // only read
	convert := nix.Command("nix", "key", "convert-secret-to-public")
	convert.Stdin = secret
	if got := env.Must(t, convert); got != public {
		t.Errorf("nix key convert-secret-to-public of narfs' key = %s; want %s", got, public)
	}

	write(t, file("tree/a"), "hello", 0o644)
	write(t, file("tree/b/c"), "world", 0o755)
	path := store.Must("add", file("tree"))
	if got := nix.Must("nix-store", "--add", file("tree")); got != path {
		t.Fatalf("nix-store --add = %s; want %s", got, path)
	}
	for _, key := range []string{"ours", "theirs"} {
		nix.Must("nix", "store", "sign", "-k", file(key), path)
		store.Must("sign", "-k", file(key), path)
	}
	var want []struct{ Signatures []string }
	if err := json.Unmarshal([]byte(nix.Must("nix", "path-info", "--json", path)), &want); err != nil || len(want) != 1 {
		t.Fatalf("nix path-info = %v, %v", want, err)
	}
	var got map[string]struct{ Signatures []string }
	if err := json.Unmarshal([]byte(store.Must("info", "--json", path)), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(want[0].Signatures)), got[path].Signatures); diff != "" {
		t.Errorf("signatures (-Nix +narfs):\n%s", diff)
	}
	nix.Must("nix", "store", "verify", "--sigs-needed", "2", "--trusted-public-keys", public+" "+string(theirs), path)
}
