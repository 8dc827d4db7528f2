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

// contentAddressed are derivations whose outputs have paths that follow from their contents, which are others each time they are built:
// only who knows the realisations finds them.
const contentAddressed = `let
  mk = name: script: derivation {
    inherit name;
    system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ];
    __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; outputs = [ "out" "dev" ];
  };
  first = mk "first" "read id < /proc/sys/kernel/random/uuid; echo $id > $out; echo $out > $dev";
in { inherit first; second = mk "second" "echo ${first.dev} > $out; echo second > $dev"; }
`

// TestMigrateRealisations takes over what Nix built from content-addressed derivations: narfs knows the outputs without building.
func TestMigrateRealisations(t *testing.T) {
	t.Parallel()
	env.Require(t, env.Root())
	eachRelease(t, func(t *testing.T, c *client) {
		t.Helper()
		s := serveStore(t)
		settings := []string{"--option", "experimental-features", "nix-command ca-derivations"}
		nix, remote := c.nix(t, s.Store), s.client(t, c)
		var files [2]string
		for i, l := range []*local{nix, remote} {
			files[i] = filepath.Join(l.Root, "ca.nix")
			write(t, files[i], contentAddressed, 0o644)
		}
		args := append([]string{"--no-out-link", files[0]}, settings...)
		build := nix.Command("nix-build", append(args, "--option", "sandbox", "true", "--option", "sandbox-paths", "/bin /usr/bin /usr/lib /lib /lib64")...)
		if c.suite != "" {
			// Its root is a changed one already, so that there can be no sandbox: builders write to /nix/store.
			objects := filepath.Join(nix.Root, "nix", "store")
			if err := os.MkdirAll(objects, 0o755); err != nil {
				t.Fatal(err)
			}
			build = nix.Command("sh", append([]string{"-ec", `mount --bind "$0" /nix/store; exec nix-build --option sandbox false "$@"`, objects}, args...)...)
		}
		want := env.Must(t, build)

		migrate := func(args ...string) (result struct{ Realisations int }) {
			text := s.Must(append([]string{"migrate", "--json", "--from", nix.Root}, args...)...)
			if err := json.Unmarshal([]byte(text), &result); err != nil {
				t.Fatal(err)
			}
			return result
		}
		// Those of both outputs of both; also some of the second with the path of its input in the place of that, as each Nix has it.
		all := migrate("--dry-run").Realisations
		if all < 4 {
			t.Errorf("narfs migrate --dry-run finds %d realisations; want 4 or more", all)
		}
		if got := migrate().Realisations; got != all {
			t.Errorf("narfs migrate takes %d realisations over; want %d", got, all)
		}
		if again, dry := migrate().Realisations, migrate("--dry-run").Realisations; again != 0 || dry != 0 {
			t.Errorf("the second time narfs migrate takes %d realisations over, and would take %d; want none", again, dry)
		}
		if got := env.Must(t, remote.Command("nix-build", append([]string{"--no-out-link", files[1]}, settings...)...)); got != want {
			t.Errorf("with narfs nix-build makes %s; want what is there: %s", got, want)
		}
		info := func(l *local) any {
			out := env.Must(t, l.Command("nix", slices.Concat([]string{"realisation", "info", "--json"}, settings, strings.Fields(want))...))
			var list any
			if err := json.Unmarshal([]byte(out), &list); err != nil {
				t.Fatal(err)
			}
			return list
		}
		if diff := cmp.Diff(info(nix), info(remote)); diff != "" {
			t.Errorf("nix realisation info (-Nix +narfs):\n%s", diff)
		}

		// Back, by the real Nix.
		back := *remote
		back.variables = append(slices.Clone(remote.variables), "NIX_REMOTE=local?root="+filepath.Join(remote.Root, "back"))
		env.Must(t, remote.Command("nix", slices.Concat([]string{"copy", "--no-check-sigs", "--to", "local?root=" + filepath.Join(remote.Root, "back")},
			settings, []string{"-f", files[1], "first", "second"})...))
		if diff := cmp.Diff(info(nix), info(&back)); diff != "" {
			t.Errorf("nix realisation info after nix copy (-before +after):\n%s", diff)
		}

		// Where an output is damaged, all others are taken over.
		second := strings.Fields(want)[1]
		if err := os.Remove(nix.Real(second)); err != nil {
			t.Fatal(err)
		}
		r := env.NewStore(t).Run("migrate", "--json", "--from", nix.Root)
		var result struct {
			Realisations int
			Failed       []struct{ Path, Realisation, Error string }
		}
		if err := json.Unmarshal([]byte(r.Stdout), &result); err != nil {
			t.Fatal(err)
		}
		failed := 0
		for _, f := range result.Failed {
			if f.Realisation != "" && strings.Contains(f.Error, second) {
				failed++
			}
		}
		if r.Code != 1 || failed == 0 || len(result.Failed) != failed+1 || result.Realisations != all-failed {
			t.Errorf("narfs migrate of a damaged store exited with %d: %+v; want 1 with errors for %s and its realisations", r.Code, result, second)
		}
	})
}

// TestRealisationsOfInputAddressed: clients with ca-derivations want the realisation of whatever they have had built, also where the path
// follows from the derivation, and whoever built it.
func TestRealisationsOfInputAddressed(t *testing.T) {
	t.Parallel()
	env.Require(t, env.Root())
	eachRelease(t, func(t *testing.T, c *client) {
		t.Helper()
		s := serveStore(t, forBuilds()...)
		l := s.client(t, c)
		expression := `let mk = name: script: attrs: derivation ({ inherit name; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/bin:/usr/bin"; args = [ "-c" script ]; } // attrs);
			fixed = mk "fixed" "echo fixed > $out" { outputHashAlgo = "sha256"; outputHashMode = "flat"; outputHash = builtins.hashString "sha256" "fixed\n"; };
			in mk "addressed" "cat ${fixed} > $out; echo > $dev" { outputs = [ "out" "dev" ]; }`
		file := filepath.Join(l.Root, "addressed.nix")
		write(t, file, expression, 0o644)
		nix := func(args ...string) string {
			t.Helper()
			return l.must(t, "nix", append([]string{"--extra-experimental-features", "nix-command ca-derivations"}, args...)...)
		}
		out := strings.Fields(output(t, l, "nix-build", "--no-out-link", file))[0] // by one who does not know of realisations
		if got := nix("path-info", "-f", file); !slices.Contains(strings.Fields(got), out) {
			t.Errorf("path-info prints %s; want %s", got, out)
		}
		var infos []struct{ ID, OutPath string }
		if err := json.Unmarshal([]byte(nix("realisation", "info", "--json", "-f", file)), &infos); err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(infos, func(i struct{ ID, OutPath string }) bool { return i.OutPath == filepath.Base(out) }) {
			t.Errorf("realisation info prints %+v; want one with %s", infos, out)
		}
		nix("copy", "--to", "file://"+filepath.Join(l.Root, "cache"), "-f", file)
	})
}
