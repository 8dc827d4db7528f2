package gc_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/daemon/gc"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

// Anybody may have a link of his own taken up as an indirect root. None leads so far astray that no garbage is collected any more.
func TestLinksAstray(t *testing.T) {
	t.Parallel()
	s := open(t)
	dead(t, s, gc.Options{})
	dir := t.TempDir()
	link(t, dir+"/a", dir+"/b")
	link(t, dir+"/b", dir+"/a")
	for _, name := range []string{dir + "/a", dir + "/a/b/c", dir + "/" + strings.Repeat("n", 300)} {
		if err := gc.AddIndirect(s.StateDir(), name); err != nil {
			t.Fatal(err)
		}
	}
	put(t, s, "dead", nil)
	c := begin(t, s, gc.Options{})
	defer c.Close()
	if plan, err := c.Plan(t.Context(), true); err != nil || len(plan.Dead) != 1 {
		t.Errorf("Plan = %+v, %v; want one dead path", plan, err)
	}
	// What only cannot be looked at is not gone.
	if entries, err := os.ReadDir(s.StateDir() + "/gcroots/auto"); err != nil || len(entries) != 3 {
		t.Errorf("gcroots/auto has %v, %v; want that the 3 links are left", entries, err)
	}
}

// Roots of paths with the longest names there are, made and made again by several at once. What a crash leaves is no root.
func TestPin(t *testing.T) {
	t.Parallel()
	s := open(t)
	state := s.StateDir()
	p := put(t, s, strings.Repeat("n", 211), nil)
	other := put(t, s, "other", nil)
	var pinning sync.WaitGroup
	for i := range 8 {
		pinning.Go(func() {
			for range 20 {
				target := []nix.StorePath{p, other}[i%2]
				if err := gc.Pin(state, p.BaseName(), s.Dir().Path(target)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	pinning.Wait()
	if err := gc.Pin(state, p.BaseName(), s.Dir().Path(p)); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(state + "/gcroots/pinned")
	if err != nil || len(entries) != 1 {
		t.Errorf("gcroots/pinned has %v, %v; want one link", entries, err)
	}
	link(t, s.Dir().Path(other), state+"/gcroots/pinned/.narfs-new-123")
	if diff := cmp.Diff([]string{"other"}, dead(t, s, gc.Options{})); diff != "" {
		t.Errorf("dead, -want +got:\n%s", diff)
	}
}

// A link that is gone, and made a root again while the collector takes its name away, is a root.
func TestPruneAgainstAdd(t *testing.T) {
	t.Parallel()
	s := open(t)
	p := put(t, s, "p", nil)
	result := t.TempDir() + "/result"
	stop := make(chan struct{})
	var pruning sync.WaitGroup
	for range 2 {
		pruning.Go(func() {
			f := gc.Finder{StateDir: s.StateDir(), StoreDir: s.Dir(), Prune: true}
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := f.Find(func(gc.Root) {}, func(e *gc.UnreadableError) error { return e }); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	runs := 300
	if os.Getenv("NARFS_TEST_LONG") != "" {
		runs = 5000
	}
	for range runs {
		link(t, s.Dir().Path(p), result)
		if err := gc.AddIndirect(s.StateDir(), result); err != nil {
			t.Fatal(err)
		}
		if entries, err := os.ReadDir(s.StateDir() + "/gcroots/auto"); err != nil || len(entries) != 1 {
			t.Fatalf("gcroots/auto has %v, %v; want the link that was just put there", entries, err)
		}
		if err := os.Remove(result); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	pruning.Wait()
}

// Folders that other users need are theirs to read whatever umask the owner has.
func TestLayoutModes(t *testing.T) { //nolint:paralleltest // the umask is that of the process
	state := filepath.Join(t.TempDir(), "state")
	old := syscall.Umask(0o077)
	err := errors.Join(os.Mkdir(state, 0o755), gc.MakeLayout(state))
	syscall.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"gcroots/per-user", "profiles/per-user"} {
		if info, err := os.Stat(filepath.Join(state, dir)); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v; want mode 0755", dir, info.Mode(), err)
		}
	}
}

// TestRootsAsNix: in one layout of links the same are roots for Nix and for us, and the same are taken away.
func TestRootsAsNix(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("nix-store"); err != nil {
		t.Skip("needs nix-store, as in Debian's package nix-bin")
	}
	root, elsewhere := t.TempDir(), t.TempDir()
	t.Cleanup(func() { _ = exec.Command("chmod", "-R", "u+w", root).Run() })
	nixStore := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "nix-store", append(args, "--option", "build-users-group", "")...)
		cmd.Env = append(os.Environ(), "NIX_REMOTE="+root, "HOME="+root)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("nix-store %v: %v", args, err)
		}
		return strings.TrimSpace(string(out))
	}
	s := open(t)
	const absent = "/nix/store/00000000000000000000000000000000-absent"
	var paths []string // as many as the layout needs
	for i := range 16 {
		name := filepath.Join(elsewhere, "object"+string(rune('a'+i)))
		if err := os.WriteFile(name, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, nixStore("--add", name))
	}
	cmd := exec.CommandContext(t.Context(), "nix-store", append([]string{"--export"}, paths...)...)
	cmd.Env = append(os.Environ(), "NIX_REMOTE="+root, "HOME="+root)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		err = s.ImportStream(t.Context(), out, store.ImportOptions{}, nil)
	}
	if err = errors.Join(err, cmd.Wait()); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(elsewhere, name) }
	link(t, paths[0], at("result"))
	link(t, at("result"), at("to-result")) // one link too many
	link(t, paths[1], at("folder/link"))
	link(t, paths[2], at("relative"))
	link(t, absent, at("to-absent"))
	if err := os.WriteFile(at("file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	states := []string{filepath.Join(root, "nix/var/nix"), s.StateDir()}
	for _, state := range states {
		for name, target := range map[string]string{
			"gcroots/direct":                             paths[3],
			"gcroots/sub/dir/deep":                       paths[4],
			"gcroots/per-user/alice/x":                   paths[5],
			"gcroots/inside":                             paths[6] + "/bin/x",
			"gcroots/slash":                              paths[7] + "/",
			"gcroots/.hidden":                            paths[8],
			"gcroots/absent":                             absent,
			"gcroots/dots":                               "/nix/store/../store/" + filepath.Base(paths[9]),
			"gcroots/slashes":                            "/nix/store//" + filepath.Base(paths[9]),
			"gcroots/store":                              "/nix/store",
			"gcroots/relative":                           strings.Repeat("../", 20) + at("relative")[1:],
			"gcroots/to-folder":                          at("folder"),
			"gcroots/dangling":                           at("gone"),
			"gcroots/loop":                               "loop",
			"gcroots/auto/result":                        at("result"),
			"gcroots/auto/to-result":                     at("to-result"),
			"gcroots/auto/dangling":                      at("gone"),
			"gcroots/auto/below-file":                    at("file/gone"),
			"gcroots/auto/sub/dangling":                  at("gone"),
			"gcroots/auto/file":                          at("file"),
			"gcroots/auto/folder":                        at("folder"),
			"gcroots/auto/to-absent":                     at("to-absent"),
			"gcroots/auto/direct":                        paths[10],
			"profiles/default-1-link":                    paths[11],
			"profiles/default":                           "default-1-link",
			"profiles/per-user/bob/profile-7-link":       paths[12],
			"profiles/per-user/bob/" + "channels":        "channels-1-link",
			"gcroots/per-user/alice/" + "current-system": at("result"),
		} {
			link(t, target, filepath.Join(state, name))
		}
		for _, name := range []string{"gcroots/" + filepath.Base(paths[13]), "profiles/" + filepath.Base(paths[14]), "gcroots/note", "gcroots/" + filepath.Base(absent)} {
			if err := os.WriteFile(filepath.Join(state, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	var want, got []string
	for line := range strings.Lines(nixStore("--gc", "--print-roots")) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "/proc/") && !strings.HasPrefix(line, "{") {
			want = append(want, strings.Replace(line, states[0], "STATE", 1))
		}
	}
	roots, err := gc.FindRoots(t.Context(), s, gc.Options{}, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range roots {
		if r.Kind != gc.Runtime {
			got = append(got, strings.Replace(r.Name, states[1], "STATE", 1)+" -> "+s.Dir().Path(r.Path))
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" || len(want) < 12 {
		t.Errorf("roots, -Nix +narfs:\n%s", diff)
	}
	left := func(state string) (names []string) {
		err := filepath.WalkDir(filepath.Join(state, "gcroots/auto"), func(name string, _ os.DirEntry, err error) error {
			names = append(names, strings.TrimPrefix(name, state))
			return err
		})
		if err != nil {
			t.Error(err)
		}
		return names
	}
	if diff := cmp.Diff(left(states[0]), left(states[1])); diff != "" {
		t.Errorf("left in gcroots/auto, -Nix +narfs:\n%s", diff)
	}
}

// Roots that keep their names, also if these have slashes.
func TestKeep(t *testing.T) {
	t.Parallel()
	s := open(t)
	p, other := put(t, s, "p", nil), put(t, s, "other", nil)
	if err := gc.MakeLayout(s.StateDir()); err != nil {
		t.Fatal(err)
	}
	var link string
	for _, target := range []nix.StorePath{other, p, p} {
		var err error
		if link, err = gc.Keep(s.StateDir(), "profiles/per-user/me/x-1-link", s.Dir().Path(target)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.Readlink(link); err != nil || got != s.Dir().Path(p) {
		t.Errorf("%s leads to %s, %v; want %s", link, got, err, s.Dir().Path(p))
	}
	for _, name := range []string{"", ".", "..", "../x", "/x", "a/../b", "a//b"} {
		if _, err := gc.Keep(s.StateDir(), name, s.Dir().Path(p)); err == nil {
			t.Errorf("Keep(%q) works", name)
		}
	}
	c := begin(t, s, gc.Options{})
	if plan, err := c.Plan(t.Context(), true); err != nil || !slices.Equal(plan.Dead, []nix.StorePath{other}) {
		t.Errorf("Plan = %+v, %v; want %v dead", plan, err, other)
	}
	c.Close()
	if err := gc.Unpin(s.StateDir(), link); err != nil {
		t.Error(err)
	}
}
