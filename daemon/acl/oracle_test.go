package acl_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/daemon/acl"
)

// showConfig has the real Nix print its settings with a nix.conf.
func showConfig(t *testing.T, dir, config string) (settings map[string]struct{ Value, DefaultValue any }, err error) {
	t.Helper()
	nix, err := exec.LookPath("nix")
	if err != nil {
		t.Skipf("no real Nix: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), nix, "--extra-experimental-features", "nix-command", "show-config", "--json")
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "NIX_CONF_DIR=" + dir, "NIX_USER_CONF_FILES=", "NIX_CONFIG=" + config,
		"NIX_REMOTE=dummy://", "NIX_STATE_DIR=" + t.TempDir(),
	}
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(out, &settings); err != nil {
		t.Fatal(err)
	}
	return settings, nil
}

// TestOracle compares what Nix makes of texts with what we make of them.
func TestOracle(t *testing.T) {
	if _, err := showConfig(t, t.TempDir(), ""); err != nil {
		t.Skipf("this Nix has no show-config: %v", err)
	}
	for _, test := range []struct{ text, config string }{
		{},
		{text: "trusted-users = a b\nextra-trusted-users = b c\nallowed-users =\n"},
		{text: "require-sigs = no\nkeep-outputs = 1\nkeep-derivations = 0\nkeep-outputs = false"},
		{text: "require-sigs = True"},
		{text: "require-sigs ="},
		{text: "build-users-group = a  b"},
		{text: "build-users-group =\ngc-keep-outputs = true\ngc-keep-derivations = no"},
		{text: "extra-require-sigs = false"},
		{text: "binary-cache-public-keys = cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=\nextra-trusted-public-keys =\n"},
		{text: "# x\r\n\tallowed-users\t=\ta\vb \u00a0 c # d\r\n"},
		{text: "include"},
		{text: "!include a b"},
		{text: "!include nope"},
		{text: "include nope"},
		{text: "include inc\nextra-allowed-users = b"},
		{text: "allowed-users = a\n!include inc"},
		{text: "allowed-users a"},
		{text: "allowed-users= a"},
		{text: "allowed-users =a"},
		{text: "allowed-users = = a = b"},
		{text: "allowed-users = a\\\ntrusted-users = \"b c\" 'd'"},
		{text: "= = a"},
		{text: "include = x"},
		{text: "Allowed-Users = x"},
		{text: "keep-outputs = true false"},
		{text: "secret-key-files = /a /b"},
		{text: "allowed-users = a\ntrusted-users = a", config: "allowed-users = b\nextra-trusted-users = b"},
		{config: "allowed-users"},
		{config: "include inc"},
		{text: "allowed-users = a\x00b"},
	} {
		dir := t.TempDir()
		for name, text := range map[string]string{"nix.conf": test.text, "inc": "allowed-users = inc\n"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		env := map[string]string{"NIX_CONF_DIR": dir, "NARFS_CONF": filepath.Join(dir, "no"), "NIX_CONFIG": test.config}
		s, err := acl.Load(acl.LoadOptions{Getenv: func(name string) string { return env[name] }})
		want, wantErr := showConfig(t, dir, test.config)
		if (err != nil) != (wantErr != nil) {
			t.Errorf("Load of %+v = %v; Nix says %v", test, err, wantErr)
		}
		if err != nil || wantErr != nil {
			continue
		}
		keys := make([]string, 0, len(s.TrustedPublicKeys))
		for _, key := range s.TrustedPublicKeys {
			keys = append(keys, key.String())
		}
		for name, value := range map[string]any{
			"allowed-users": list(s.AllowedUsers), "trusted-users": list(s.TrustedUsers), "build-users-group": s.BuildUsersGroup,
			"require-sigs": s.RequireSigs, "keep-derivations": s.KeepDerivations, "keep-outputs": s.KeepOutputs,
			"secret-key-files": list(s.SecretKeyFiles), "trusted-public-keys": list(keys),
		} {
			if diff := cmp.Diff(want[name].Value, value); diff != "" {
				t.Errorf("%s in %+v (-Nix +narfs):\n%s", name, test, diff)
			}
		}
	}
}

// list is what JSON makes of words.
func list(words []string) any {
	all := []any{}
	for _, word := range words {
		all = append(all, word)
	}
	return all
}

// No name that Nix knows is taken for a mistake.
func TestOracleNames(t *testing.T) {
	dir := t.TempDir()
	settings, err := showConfig(t, dir, "")
	if err != nil {
		t.Skipf("this Nix has no show-config: %v", err)
	}
	ours := map[string]bool{}
	for _, v := range load(t).Values() {
		ours[v.Name] = true
	}
	known := 0
	for name := range settings {
		if ours[name] {
			known++
		} else if like := acl.Similar(name); like != "" {
			t.Errorf("%s is taken for %s", name, like)
		}
	}
	if known != 26 {
		t.Errorf("%d of Nix's settings are known; want 26", known)
	}
}
