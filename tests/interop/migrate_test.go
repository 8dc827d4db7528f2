package interop_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	iofs "io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/tests/env"
	"github.com/narfs/narfs/tests/env/closure"
	"github.com/narfs/narfs/tests/env/serve"
)

// files describes everything below a folder: types, modes, times, contents.
func files(tb testing.TB, root string) map[string]string {
	tb.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(name string, entry iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		text := fmt.Sprint(info.Mode(), " ", info.ModTime().UnixNano(), " ", info.Size())
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %x", sha256.Sum256(b))
		case info.Mode().Type() == iofs.ModeSymlink:
			to, err := os.Readlink(name)
			if err != nil {
				return err
			}
			text += " -> " + to
		}
		all[strings.TrimPrefix(name, root)] = text
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return all
}

// infosOf takes apart what nix path-info --json prints, by path; narfs info --json-format 0 prints the same.
func infosOf(tb testing.TB, text string, without ...string) map[string]map[string]any {
	tb.Helper()
	var list []map[string]any
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		tb.Fatalf("%v in %.200s", err, text)
	}
	byPath := map[string]map[string]any{}
	for _, info := range list {
		for _, field := range without {
			delete(info, field)
		}
		for _, field := range []string{"signatures", "references"} {
			if values, ok := info[field].([]any); ok {
				slices.SortFunc(values, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
			}
		}
		byPath[fmt.Sprint(info["path"])] = info
	}
	return byPath
}

// sameInfos compares what Nix says about all its paths with what narfs does, and returns their names.
func sameInfos(tb testing.TB, nix *env.Nix, s *env.Store) []string {
	tb.Helper()
	want := infosOf(tb, nix.Must("nix", "path-info", "--json", "--all"))
	paths := slices.Sorted(maps.Keys(want))
	got := infosOf(tb, s.Must(append([]string{"info", "--json", "--json-format", "0"}, paths...)...))
	if diff := cmp.Diff(want, got); diff != "" {
		tb.Errorf("infos (-Nix +narfs):\n%s", diff)
	}
	if r := s.Run("verify"); r.Code != 0 {
		tb.Errorf("narfs verify: %s%s", r.Stdout, r.Stderr)
	}
	return paths
}

// must makes a closure.
func must(tb testing.TB) func(*closure.Closure, error) *closure.Closure {
	tb.Helper()
	return func(c *closure.Closure, err error) *closure.Closure {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return c
	}
}

// give adds objects to a store of Nix through a session of its own.
func give(tb testing.TB, nix *env.Nix, c *closure.Closure, options ...string) {
	tb.Helper()
	session := serve.Start(tb, nix.Command("nix-store", append([]string{"--serve", "--write"}, options...)...))
	for _, o := range c.Objects {
		if err := session.Add(o); err != nil {
			tb.Fatal(session.End(err))
		}
	}
	if err := session.Close(); err != nil {
		tb.Fatal(err)
	}
}

// built has Nix build something of its own, so that there are derivations and what was built here.
func built(nix *env.Nix) string {
	return nix.Must("nix-store", "-r", nix.Must("nix-instantiate", "-E", `derivation {
		name = "built"; system = "builtin"; builder = "builtin:buildenv"; derivations = []; manifest = builtins.toFile "manifest" "none";
	}`))
}

// everything makes a store of Nix hold all that is special, a closure of mixed paths with this name among it. Only that one
// differs between tests: the rest any process of another test may mention.
func everything(tb testing.TB, nix *env.Nix, name string) (mixed *closure.Closure) {
	tb.Helper()
	mixed = must(tb)(closure.Mixed(name))
	give(tb, nix, mixed)
	dir := tb.TempDir()
	write(tb, filepath.Join(dir, "tree", "a"), "a", 0o644)
	nix.Must("nix-store", "--add", filepath.Join(dir, "tree"))
	nix.Must("nix-store", "--add-fixed", "sha1", filepath.Join(dir, "tree", "a"))
	nix.Must("nix-store", "--add-fixed", "--recursive", "sha512", filepath.Join(dir, "tree"))
	built(nix)
	for _, key := range []string{"one-1", "two-1"} {
		file := filepath.Join(nix.Root, "etc", key)
		nix.Must("nix-store", "--generate-binary-cache-key", key, file, file+".pub")
		nix.Must("nix", "store", "sign", "--all", "-k", file)
	}
	return mixed
}

// TestMigrate takes a store over, of every release there is, that has everything special: all is known that Nix knows, and
// nothing has changed there.
func TestMigrate(t *testing.T) {
	t.Parallel()
	for _, r := range releases() {
		t.Run(r.version, func(t *testing.T) {
			t.Parallel()
			var nix *env.Nix
			if r.suite == "" {
				nix = env.NewNix(t)
			} else {
				nix = env.NewPeerNix(t, r.suite)
			}
			migrateEverything(t, nix, r.suite == "")
		})
	}
}

func migrateEverything(t *testing.T, nix *env.Nix, oldJSON bool) {
	t.Helper()
	var mixed *closure.Closure
	if oldJSON {
		mixed = everything(t, nix, "migrate")
	} else {
		mixed = must(t)(closure.Mixed("migrate"))
		give(t, nix, mixed)
	}
	s := env.NewStore(t)
	before := files(t, nix.Root)
	s.Must("migrate", "--from", nix.Root)
	if diff := cmp.Diff(before, files(t, nix.Root)); diff != "" {
		t.Errorf("the store of Nix has changed (-before +after):\n%s", diff)
	}
	if oldJSON {
		sameInfos(t, nix, s)
	}
	checkHost(t, s, nil, mixed)
	if got := s.Must("migrate", "--from", nix.Root); got != "" {
		t.Errorf("the second time narfs migrate prints %s", got)
	}

	// Only what one path refers to.
	s = env.NewStore(t)
	if got := strings.Fields(s.Must("migrate", "--from", nix.Root, mixed.Top())); len(got) != len(mixed.Objects) {
		t.Errorf("narfs migrate of the closure prints %d paths; want %d", len(got), len(mixed.Objects))
	}
	checkHost(t, s, nil, mixed)
}

// TestMigrateBack goes the way back: into a new store of Nix, with all but what is of no use in another store.
func TestMigrateBack(t *testing.T) {
	t.Parallel()
	nix, fresh := env.NewNix(t), env.NewNix(t)
	everything(t, nix, "migrate")
	s := env.NewStore(t)
	s.Must("migrate", "--from", nix.Root)
	back := s.Command("copy", "--to", "local?root="+fresh.Root, "--all")
	back.Env = append(fresh.Command("true").Env, "NARFS_STATE_DIR="+s.State)
	paths := strings.Fields(env.Must(t, back))
	fresh.Must("nix-store", "--verify", "--check-contents")
	// That something was built here is a claim about another machine, and the protocol does not tell when it was registered.
	others := []string{"ultimate", "registrationTime"}
	want := infosOf(t, nix.Must("nix", "path-info", "--json", "--all"), others...)
	got := infosOf(t, fresh.Must("nix", "path-info", "--json", "--all"), others...)
	if diff := cmp.Diff(want, got); diff != "" || len(paths) != len(want) {
		t.Errorf("%d paths came back; infos (-before +after):\n%s", len(paths), diff)
	}
	again := env.NewStore(t)
	from := again.Command("copy", "--no-check-sigs", "--from", fresh.Root, paths[len(paths)-1])
	from.Env = append(fresh.Command("true").Env, "NARFS_STATE_DIR="+again.State)
	if got := env.Must(t, from); !strings.Contains(got, paths[len(paths)-1]) {
		t.Errorf("narfs copy --from prints %q; want %s", got, paths[len(paths)-1])
	}
}

// TestMigrateRoots: what keeps paths in Nix keeps them in narfs.
func TestMigrateRoots(t *testing.T) {
	t.Parallel()
	nix := env.NewNix(t)
	everything(t, nix, "migrate-roots")
	dir := env.Dir(t)
	result, gone := filepath.Join(dir, "result"), filepath.Join(dir, "gone")
	path := built(nix)
	for _, link := range []string{result, gone} {
		nix.Must("nix-store", "--add-root", link, "--indirect", "-r", path)
	}
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	profile := filepath.Join(nix.Root, "nix", "var", "nix", "profiles", "per-user", "me", "profile")
	if err := os.MkdirAll(filepath.Dir(profile), 0o755); err != nil {
		t.Fatal(err)
	}
	nix.Must("nix-env", "-p", profile, "--set", path)
	write(t, filepath.Join(nix.Root, "nix", "var", "nix", "gcroots", filepath.Base(path)), "", 0o644)
	s := env.NewStore(t)
	for range 2 { // the second time changes nothing
		before := files(t, nix.Root)
		s.Must("migrate", "--from", nix.Root, "--roots")
		if diff := cmp.Diff(before, files(t, nix.Root)); diff != "" {
			t.Errorf("the store of Nix has changed (-before +after):\n%s", diff)
		}
		var roots []struct{ Path, Kind, Name string }
		if err := json.Unmarshal([]byte(s.Must("roots", "--json")), &roots); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{result: "indirect"}
		for _, name := range []string{"gcroots/" + filepath.Base(path), "profiles/per-user/me/profile-1-link"} {
			want[filepath.Join(s.State, "gcroots", "migrated", name)] = "direct"
		}
		got := map[string]string{}
		for _, r := range roots {
			if r.Kind == "process" { // of another test, with a path of the same name
				continue
			}
			if got[r.Name] = r.Kind; r.Path != path {
				t.Errorf("%s keeps %s; want %s", r.Name, r.Path, path)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("roots (-want +got):\n%s", diff)
		}
	}
	// Of all the paths those are left that the roots keep, and those from which they were built.
	want := strings.Fields(nix.Must("nix-store", "-qR", path))
	s.Must("gc")
	left := strings.Fields(s.Must("ls", "-1"))
	for _, p := range want {
		if !slices.Contains(left, p) && !slices.Contains(left, filepath.Base(p)) {
			t.Errorf("narfs gc has deleted %s", p)
		}
	}
	if len(left) >= 10 {
		t.Errorf("narfs gc has left %d paths", len(left))
	}
}

// TestMigrateHacked reads files whose names Nix has mangled, as it does on macOS.
func TestMigrateHacked(t *testing.T) {
	t.Parallel()
	nix := env.NewNix(t)
	mixed := must(t)(closure.Mixed("hacked"))
	give(t, nix, mixed, "--option", "use-case-hack", "true")
	hacked, err := filepath.Glob(filepath.Join(nix.Root, "nix", "store", "*", "*~nix~case~hack~1"))
	if err != nil || len(hacked) == 0 {
		t.Fatalf("no mangled names: %v", err)
	}
	s := env.NewStore(t)
	if r := s.Run("migrate", "--from", nix.Root); r.Code != 1 || !strings.Contains(r.Stderr, "hash mismatch") {
		t.Errorf("without --case-hack narfs migrate exits with %d: %s", r.Code, r.Stderr)
	}
	s.Must("migrate", "--from", nix.Root, "--case-hack=on")
	checkHost(t, s, nil, mixed)
}

// TestMigrateKilled kills a migration again and again: what was printed is there, and the next one goes on from it.
func TestMigrateKilled(t *testing.T) {
	t.Parallel()
	nix := env.NewNix(t)
	const all, each = 600, 90
	give(t, nix, must(t)(closure.Many(all, "killed")))
	s := env.NewStore(t)
	before := files(t, nix.Root)
	printed := map[string]bool{}
	kills := 0
	for len(printed) < all {
		cmd := s.Command("migrate", "--from", nix.Root)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); {
			if printed[lines.Text()] {
				t.Errorf("%s is printed again", lines.Text())
			}
			printed[lines.Text()] = true
			if n++; n == each {
				_ = cmd.Process.Kill()
				kills++
			}
		}
		_ = cmd.Wait()
		valid := map[string]bool{}
		for p := range strings.FieldsSeq(s.Must("ls", "-1")) {
			valid["/nix/store/"+filepath.Base(p)] = true
		}
		for p := range printed {
			if !valid[p] {
				t.Fatalf("after %d kills: %s was printed and is not valid", kills, p)
			}
		}
		printed = valid // some may have become valid without a word
	}
	t.Logf("%d kills", kills)
	if kills == 0 {
		t.Error("nothing was killed")
	}
	if diff := cmp.Diff(before, files(t, nix.Root)); diff != "" {
		t.Errorf("the store of Nix has changed (-before +after):\n%s", diff)
	}
	sameInfos(t, nix, s)
}

// TestMigrateWhileWriting takes over a store to which its daemon and another process add all the time.
func TestMigrateWhileWriting(t *testing.T) {
	t.Parallel()
	env.Require(t, env.Program("nix-store"), env.Program("nix-daemon"), env.Root())
	nix := env.NewNix(t)
	give(t, nix, must(t)(closure.Many(50, "first")))
	socket := filepath.Join(nix.Root, "socket")
	daemon := nix.Command("nix-daemon")
	daemon.Env = append(daemon.Env, "NIX_DAEMON_SOCKET_PATH="+socket)
	env.Start(t, daemon)
	env.Eventually(t, "the daemon listens", func() (bool, error) {
		_, err := os.Stat(socket)
		return err == nil, nil
	})

	var writers sync.WaitGroup
	defer writers.Wait()
	stop := make(chan struct{})
	ended := func() bool {
		select {
		case <-stop:
			return true
		default:
			return false
		}
	}
	dir := env.Dir(t)
	writers.Go(func() { // through the daemon
		for i := 0; !ended(); i++ {
			name := filepath.Join(dir, fmt.Sprint("file-", i))
			if err := os.WriteFile(name, []byte(name), 0o600); err != nil {
				t.Error(err)
				return
			}
			if out, err := nix.Command("nix-store", "--store", "unix://"+socket, "--add", name).CombinedOutput(); err != nil {
				t.Errorf("nix-store --add through the daemon: %v: %s", err, out)
				return
			}
		}
	})
	more, err := closure.Many(4000, "more")
	if err != nil {
		t.Fatal(err)
	}
	writers.Go(func() { // by itself
		session, err := serve.Run(nix.Command("nix-store", "--serve", "--write"))
		if err != nil {
			t.Error(err)
			return
		}
		for _, o := range more.Objects {
			if ended() {
				break
			}
			if err := session.Add(o); err != nil {
				t.Error(session.End(err))
				return
			}
		}
		if err := session.Close(); err != nil {
			t.Error(err)
		}
	})

	s := env.NewStore(t)
	total := 0
	for begun := time.Now(); time.Since(begun) < 3*time.Second; {
		r := s.Run("migrate", "--from", nix.Root)
		if r.Code != 0 {
			t.Errorf("narfs migrate exits with %d: %s", r.Code, r.Stderr)
			break
		}
		total += len(strings.Fields(r.Stdout))
	}
	close(stop)
	writers.Wait()
	t.Logf("%d paths were taken over meanwhile", total)
	s.Must("migrate", "--from", nix.Root)
	sameInfos(t, nix, s)
}

// TestMigrateReadOnly takes over what a killed Nix has left in its WAL, from a file system that cannot be written to.
func TestMigrateReadOnly(t *testing.T) {
	t.Parallel()
	env.Require(t, env.Program("nix-store"), env.Root(), env.Program("unshare"), env.Program("mount"))
	nix := env.NewNix(t)
	some := must(t)(closure.Many(60, "read-only"))
	session := serve.Start(t, nix.Command("nix-store", "--serve", "--write"))
	for _, o := range some.Objects {
		if err := session.Add(o); err != nil {
			t.Fatal(session.End(err))
		}
	}
	session.Kill()
	if info, err := os.Stat(filepath.Join(nix.Root, "nix", "var", "nix", "db", "db.sqlite-wal")); err != nil || info.Size() == 0 {
		t.Fatalf("the killed Nix has left no WAL: %v, %v", info, err)
	}
	s := env.NewStore(t)
	run := func(command string) env.Result {
		cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", "sh", "-ec",
			`mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"; `+command, "sh", nix.Root, env.Binary(t))
		cmd.Env = append(os.Environ(), "NARFS_STATE_DIR="+s.State)
		return env.Run(t, cmd)
	}
	if r := run("! touch \"$1\"/x 2>/dev/null"); r.Code != 0 {
		t.Skipf("needs read-only mounts in a namespace: %s", r.Stderr)
	}
	before := files(t, nix.Root)
	if r := run(`"$2" migrate --from "$1"`); r.Code != 0 || len(strings.Fields(r.Stdout)) != len(some.Objects) {
		t.Errorf("narfs migrate exits with %d and prints %d paths; want %d: %s", r.Code, len(strings.Fields(r.Stdout)), len(some.Objects), r.Stderr)
	}
	if diff := cmp.Diff(before, files(t, nix.Root)); diff != "" {
		t.Errorf("the store of Nix has changed (-before +after):\n%s", diff)
	}
	checkHost(t, s, nil, some)
}
