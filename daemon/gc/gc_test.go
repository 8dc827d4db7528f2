package gc_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/narfs/narfs/daemon/gc"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
	"github.com/narfs/narfs/internal/wire"
)

func open(tb testing.TB) *store.Store {
	tb.Helper()
	s, err := store.Open(tb.TempDir(), store.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	if err := gc.MakeLayout(s.StateDir()); err != nil {
		tb.Fatal(err)
	}
	return s
}

func path(tb testing.TB, name string) nix.StorePath {
	tb.Helper()
	sum := sha256.Sum256([]byte(name))
	p, err := nix.ParseBaseName(nix.EncodeNix32(sum[:20]) + "-" + name)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// put adds a path with references to others.
// narOf is the NAR of a file.
func narOf(text string) []byte {
	var b bytes.Buffer
	w := wire.NewWriter(&b)
	for _, token := range []string{"nix-archive-1", "(", "type", "regular", "contents", text, ")"} {
		_ = w.String(token)
	}
	_ = w.Flush()
	return b.Bytes()
}

func put(tb testing.TB, s *store.Store, name string, change func(*nix.PathInfo), refs ...nix.StorePath) nix.StorePath {
	tb.Helper()
	info := nix.PathInfo{Path: path(tb, name), References: refs}
	if change != nil {
		change(&info)
	}
	if err := s.Import(tb.Context(), info, bytes.NewReader(narOf("contents of "+name)), store.ImportOptions{}); err != nil {
		tb.Fatal(err)
	}
	return info.Path
}

// derive adds a derivation with an output that has a path of its own, or none before it is built.
func derive(tb testing.TB, s *store.Store, name string, addressed bool, inputs ...nix.StorePath) (path, out nix.StorePath) {
	tb.Helper()
	d := &drv.Derivation{BasicDerivation: drv.BasicDerivation{
		Name: name, Outputs: map[string]drv.Output{"out": {Kind: drv.Floating, Method: nix.MethodNAR, Algo: nix.SHA256}},
		Platform: "x", Builder: "/bin/sh", Env: map[string]string{"out": ""},
	}, InputDrvs: map[nix.StorePath][]string{}}
	for _, input := range inputs {
		d.InputDrvs[input] = []string{"out"}
	}
	if addressed {
		d.Outputs["out"] = drv.Output{Kind: drv.Deferred}
		modulo, err := s.Modulo(tb.Context(), d)
		if err == nil {
			out, err = drv.OutputPath(s.Dir(), name, "out", modulo.Hash)
		}
		if err != nil {
			tb.Fatal(err)
		}
		d.Outputs["out"], d.Env["out"] = drv.Output{Kind: drv.InputAddressed, Path: out}, s.Dir().Path(out)
	}
	file, err := d.File(s.Dir())
	if err != nil {
		tb.Fatal(err)
	}
	info, err := s.Add(tb.Context(), bytes.NewReader(file.Text), store.AddOptions{
		Name: name + drv.Extension, Method: nix.MethodText, References: file.References,
	})
	if err != nil || info.Path != file.Path {
		tb.Fatal(info.Path, err)
	}
	return info.Path, out
}

func link(tb testing.TB, target, name string) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.Symlink(target, name); err != nil {
		tb.Fatal(err)
	}
}

func begin(tb testing.TB, s *store.Store, o gc.Options) *gc.Collector {
	tb.Helper()
	c, err := gc.Begin(tb.Context(), s, o)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// dead returns the names of what a collection would delete.
func dead(tb testing.TB, s *store.Store, o gc.Options) []string {
	tb.Helper()
	c := begin(tb, s, o)
	defer c.Close()
	plan, err := c.Plan(tb.Context(), false)
	if err != nil {
		tb.Fatal(err)
	}
	names := []string{}
	for _, p := range plan.Dead {
		names = append(names, p.Name())
	}
	slices.Sort(names)
	return names
}

// Every kind of root in its place.
func TestRoots(t *testing.T) {
	t.Parallel()
	s := open(t)
	state, elsewhere := s.StateDir(), t.TempDir()
	names := []string{"direct", "below", "profile", "indirect", "inside", "file", "mount", "pinned", "session", "dead", "relative"}
	all := map[string]nix.StorePath{}
	for _, name := range names {
		all[name] = put(t, s, name, nil)
	}
	in := func(name string) string { return s.Dir().Path(all[name]) }
	link(t, in("direct"), state+"/gcroots/direct")
	link(t, in("below"), state+"/gcroots/per-user/alice/x/below")
	link(t, in("profile"), state+"/profiles/per-user/alice/profile-1-link")
	link(t, "profile-1-link", state+"/profiles/per-user/alice/profile")
	link(t, in("indirect"), elsewhere+"/result")
	if err := gc.AddIndirect(state, elsewhere+"/result"); err != nil {
		t.Fatal(err)
	}
	link(t, in("inside")+"/bin/x", state+"/gcroots/inside")
	if err := os.WriteFile(filepath.Join(state, "gcroots", all["file"].BaseName()), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link(t, "/mnt/nix/"+all["mount"].BaseName(), state+"/gcroots/mount")
	link(t, in("relative"), elsewhere+"/a/relative")
	link(t, "../../"+strings.Repeat("../", 20)+elsewhere+"/a/relative", state+"/gcroots/to-relative")
	if err := gc.Pin(state, "mine", in("pinned")); err != nil {
		t.Fatal(err)
	}
	pins := s.Pin("session 5")
	pins.Add(all["session"], path(t, "not-valid"))
	// What is none.
	link(t, in("dead"), elsewhere+"/dir/link")
	link(t, elsewhere+"/dir", state+"/gcroots/a-folder")             // links to folders are not followed
	link(t, elsewhere+"/gone", state+"/gcroots/auto/dangling")       // removed
	link(t, elsewhere+"/gone", state+"/gcroots/dangling")            // stays, as with Nix
	link(t, s.Dir().Path(path(t, "not-valid")), state+"/gcroots/no") // names nothing
	link(t, "/gnu/store/"+all["dead"].BaseName(), state+"/gcroots/other-store")
	link(t, ".", state+"/gcroots/loop")

	opts := gc.Options{Shown: []string{"/mnt/nix"}}
	if diff := cmp.Diff([]string{"dead"}, dead(t, s, opts)); diff != "" {
		t.Errorf("dead, -want +got:\n%s", diff)
	}
	if _, err := os.Lstat(state + "/gcroots/auto/dangling"); err != nil {
		t.Errorf("a dry run has removed a link: %v", err)
	}
	c := begin(t, s, opts)
	plan, err := c.Plan(t.Context(), true)
	c.Close()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(state + "/gcroots/auto/dangling"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the dangling link in auto: %v; want it gone", err)
	}
	if _, err := os.Lstat(state + "/gcroots/dangling"); err != nil {
		t.Errorf("the dangling link elsewhere: %v; want it left", err)
	}
	kinds := map[string]gc.Kind{}
	for _, r := range plan.Roots {
		if r.Kind != gc.Runtime {
			kinds[r.Path.Name()] = r.Kind
		}
	}
	want := map[string]gc.Kind{
		"direct": gc.Direct, "below": gc.Direct, "profile": gc.Direct, "indirect": gc.Indirect, "inside": gc.Direct, "file": gc.Direct,
		"mount": gc.Direct, "pinned": gc.Direct, "session": gc.Temp, "relative": gc.Indirect,
	}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("roots, -want +got:\n%s", diff)
	}
	pins.Release()
	if err := gc.Unpin(state, "mine"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(elsewhere + "/result"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"dead", "indirect", "pinned", "session"}, dead(t, s, opts)); diff != "" {
		t.Errorf("dead after some roots are gone, -want +got:\n%s", diff)
	}
	for _, name := range []string{"mine", "../auto", "", state + "/store"} {
		if err := gc.Unpin(state, name); err == nil {
			t.Errorf("Unpin(%q) = nil", name)
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", ".hidden"} {
		if err := gc.Pin(state, name, in("dead")); err == nil {
			t.Errorf("Pin(%q) = nil", name)
		}
	}
}

func TestUnreadableRoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("needs a user who is not root: root can read everything")
	}
	s := open(t)
	locked := filepath.Join(s.StateDir(), "gcroots/locked")
	if err := os.Mkdir(locked, 0); err != nil {
		t.Fatal(err)
	}
	c := begin(t, s, gc.Options{})
	_, err := c.Plan(t.Context(), true)
	c.Close()
	var unreadable *gc.UnreadableError
	if !errors.As(err, &unreadable) || unreadable.Name != locked {
		t.Errorf("Plan = %v; want *UnreadableError about %s", err, locked)
	}
	told := 0
	c = begin(t, s, gc.Options{IgnoreUnreadable: true, Unreadable: func(error) { told++ }})
	defer c.Close()
	if _, err := c.Plan(t.Context(), true); err != nil || told != 1 {
		t.Errorf("Plan = %v, told %d times", err, told)
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	s := open(t)
	old := func(i *nix.PathInfo) { i.RegistrationTime = 1000 }
	only, _ := derive(t, s, "only", false)
	deriver, _ := derive(t, s, "x", false, only)
	derived := func(i *nix.PathInfo) { i.RegistrationTime, i.Deriver = 1000, deriver }
	base := put(t, s, "base", old)
	lib := put(t, s, "lib", old, base)
	app := put(t, s, "app", derived, lib, path(t, "app"))
	doc := put(t, s, "doc", derived)
	young := put(t, s, "young", nil, base)
	root := filepath.Join(s.StateDir(), "gcroots/app")
	link(t, s.Dir().Path(app), root)
	tests := []struct {
		name string
		opts gc.Options
		want []string
	}{
		{"nothing kept", gc.Options{}, []string{"doc", "only.drv", "x.drv", "young"}},
		{"derivations", gc.Options{KeepDerivations: true}, []string{"doc", "young"}},
		{"derivations and outputs", gc.Options{KeepDerivations: true, KeepOutputs: true}, []string{"young"}},
		{"outputs of a derivation that is not needed", gc.Options{KeepOutputs: true}, []string{"doc", "only.drv", "x.drv", "young"}},
		{"young", gc.Options{KeepSince: time.Now().Add(-time.Hour)}, []string{"doc"}},
		{"all is young", gc.Options{KeepSince: time.Unix(1000, 0)}, []string{}},
	}
	for _, test := range tests {
		if diff := cmp.Diff(test.want, dead(t, s, test.opts)); diff != "" {
			t.Errorf("%s, -want +got:\n%s", test.name, diff)
		}
	}
	c := begin(t, s, gc.Options{})
	defer c.Close()
	plan, err := c.Plan(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if i, j := slices.Index(plan.Dead, deriver), slices.Index(plan.Dead, only); i > j {
		t.Errorf("the order is %v; want referrers first", plan.Dead)
	}
	if by, chain := plan.Why(base); by == nil || by.Name != root || !slices.Equal(chain, []nix.StorePath{app, lib, base}) {
		t.Errorf("Why(base) = %v, %v", by, chain)
	}
	if by, chain := plan.Why(doc); by != nil || chain != nil {
		t.Errorf("Why(doc) = %v, %v; want nothing", by, chain)
	}
	var alive *gc.AliveError
	for _, wanted := range [][]nix.StorePath{{base}, {app}, {only}} {
		if _, err := c.Choose(plan, wanted); !errors.As(err, &alive) || !strings.Contains(err.Error(), "Cannot delete path") || !strings.Contains(err.Error(), "since it is still alive") {
			t.Errorf("Choose(%v) = %v; want *AliveError in Nix's words", wanted, err)
		}
	}
	if got, err := c.Choose(plan, []nix.StorePath{only, deriver}); err != nil || !slices.Equal(got, []nix.StorePath{deriver, only}) {
		t.Errorf("Choose = %v, %v", got, err)
	}
	if got := len(plan.Living()); got != 3 || plan.Live != 3 {
		t.Errorf("living: %d, %d; want 3", got, plan.Live)
	}
	_ = young
}

// What a derivation says that it will make is an output of it, whatever made it.
func TestOutputs(t *testing.T) {
	t.Parallel()
	s := open(t)
	deriver, out := derive(t, s, "made", true)
	if outs, err := s.Outputs(deriver); err != nil || !slices.Equal(outs, []nix.StorePath{out}) {
		t.Fatalf("Outputs = %v, %v; want %v", outs, err, out)
	}
	if got, err := s.Derivers(out); err != nil || !slices.Equal(got, []nix.StorePath{deriver}) {
		t.Errorf("Derivers of what is not there yet = %v, %v; want %v", got, err, deriver)
	}
	if err := s.Import(t.Context(), nix.PathInfo{Path: out}, bytes.NewReader(narOf("made")), store.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	link(t, s.Dir().Path(deriver), filepath.Join(s.StateDir(), "gcroots/made"))
	if got := dead(t, s, gc.Options{}); !slices.Equal(got, []string{"made"}) {
		t.Errorf("dead without keep-outputs: %v", got)
	}
	if got := dead(t, s, gc.Options{KeepOutputs: true}); len(got) != 0 {
		t.Errorf("dead with keep-outputs: %v", got)
	}
}

// What this process runs and mentions is found, whatever folder the store is seen in.
func TestRuntimeRoots(t *testing.T) {
	t.Parallel()
	s := open(t)
	kept := []string{"exe", "cwd", "fd", "environ", "url", "long"}
	dir := t.TempDir()
	at := map[string]string{}
	for _, name := range append(kept, "dead") {
		at[name] = filepath.Join(dir, put(t, s, name, nil).BaseName())
		if err := os.MkdirAll(at[name], 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip("needs sleep")
	}
	program, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at["exe"]+"/sleep", program, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(at["fd"] + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only for this
	cmd := exec.CommandContext(t.Context(), at["exe"]+"/sleep", "1000")
	cmd.Dir = at["cwd"]
	cmd.Env = []string{"X=a:" + at["environ"] + "/lib:b", "U=file://" + at["url"] + "?rev=1", "L=" + at["long"] + "=" + strings.Repeat("a", 300)}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close() //nolint:errcheck // only for this
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	// Between fork and exec it is still this program.
	for begun := time.Now(); !slices.Equal(dead(t, s, gc.Options{}), []string{"dead"}); {
		if time.Since(begun) > 20*time.Second {
			t.Fatalf("dead: %v; want only what no process mentions", dead(t, s, gc.Options{}))
		}
	}
}

// graph has a derivation with two outputs that needs another one, which needs a source; and one that is not built.
const graph = `
let
  sh = name: more: derivation ({ inherit name; system = builtins.currentSystem; builder = "/bin/sh"; } // more);
  source = builtins.toFile "source" "text";
  dep = sh "dep" { args = [ "-c" "echo ${source} > $out" ]; };
in [
  (sh "app" { args = [ "-c" "echo ${dep} $out > $out; echo doc > $doc" ]; outputs = [ "out" "doc" ]; })
  (sh "other" { args = [ "-c" "echo ${dep} > $out" ]; })
]`

// The same roots and paths as Nix sees them.
func TestAsNix(t *testing.T) {
	if _, err := exec.LookPath("nix-store"); err != nil {
		t.Skip("needs nix-store, as in Debian's package nix-bin")
	}
	root := t.TempDir()
	t.Cleanup(func() { // the store is read-only
		_ = filepath.WalkDir(root, func(name string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				return os.Chmod(name, 0o700)
			}
			return err
		})
	})
	if os.Geteuid() != 0 {
		t.Skip("needs root, for building with Nix")
	}
	file := filepath.Join(root, "graph.nix")
	if err := os.WriteFile(file, []byte(graph), 0o600); err != nil {
		t.Fatal(err)
	}
	instantiate := exec.CommandContext(t.Context(), "nix-instantiate", file)
	instantiate.Env = append(os.Environ(), "NIX_REMOTE="+root, "HOME="+root)
	out, err := instantiate.Output()
	if err != nil {
		t.Fatal(err)
	}
	drvs := strings.Fields(string(out))
	for _, settings := range [][2]bool{{true, false}, {false, false}, {true, true}} {
		t.Run(fmt.Sprintf("keep-derivations %v keep-outputs %v", settings[0], settings[1]), func(t *testing.T) {
			nixStore := func(stdin io.Reader, args ...string) string {
				t.Helper()
				cmd := exec.CommandContext(t.Context(), "nix-store", append(args,
					"--option", "keep-derivations", fmt.Sprint(settings[0]), "--option", "keep-outputs", fmt.Sprint(settings[1]), "--option", "build-users-group", "")...)
				cmd.Env = append(os.Environ(), "NIX_REMOTE="+root, "HOME="+root)
				cmd.Stdin = stdin
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				out, err := cmd.Output()
				if err != nil {
					t.Fatalf("%v: %v: %s", args, err, stderr.String())
				}
				return string(out)
			}
			s := open(t)
			built := strings.Fields(nixStore(nil, "--realise", drvs[0], "--option", "sandbox", "true", "--option", "sandbox-paths", "/bin /usr/bin /usr/lib /lib /lib64", "--option", "substitute", "false"))
			all := strings.Fields(nixStore(nil, append([]string{"-qR", "--include-outputs"}, drvs...)...))
			source := strings.TrimSpace(nixStore(nil, "--add", file))
			if err := s.ImportStream(t.Context(), strings.NewReader(nixStore(nil, append([]string{"--export", source}, all...)...)), store.ImportOptions{}, nil); err != nil {
				t.Fatal(err)
			}
			base := func(full string) string { return strings.TrimPrefix(full, "/nix/store/") }
			state := filepath.Join(root, "nix/var/nix")
			for _, dir := range []string{state, s.StateDir()} {
				_ = os.RemoveAll(dir + "/gcroots/r")
				link(t, built[0], dir+"/gcroots/r/built")
				link(t, root+"/result", dir+"/gcroots/r/auto")
				link(t, "/nowhere/"+base(source), dir+"/gcroots/r/nowhere")
				if err := os.WriteFile(dir+"/gcroots/r/"+base(drvs[1]), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := os.Lstat(root + "/result"); err != nil {
				link(t, built[len(built)-1]+"/inside", root+"/result")
			}
			var want []string
			for name := range strings.FieldsSeq(nixStore(nil, "--gc", "--print-dead")) {
				want = append(want, name[len("/nix/store/")+33:])
			}
			slices.Sort(want)
			if diff := cmp.Diff(want, dead(t, s, gc.Options{KeepDerivations: settings[0], KeepOutputs: settings[1]})); diff != "" {
				t.Errorf("dead, -Nix +narfs:\n%s", diff)
			}
		})
	}
}

// Whatever sessions announce, add and let go while collections run: nothing that is held or referred to is lost.
func TestAgainstSessions(t *testing.T) {
	t.Parallel()
	s := open(t)
	base := put(t, s, "base", nil)
	link(t, s.Dir().Path(base), filepath.Join(s.StateDir(), "gcroots/base"))
	stop := make(chan struct{})
	var collectors, sessions sync.WaitGroup
	var collected atomic.Int64
	collectors.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			c, err := gc.Begin(t.Context(), s, gc.Options{})
			if err != nil {
				t.Error(err)
				return
			}
			plan, err := c.Plan(t.Context(), true)
			if err == nil {
				err = c.Delete(t.Context(), plan.Dead, store.CollectReport{Deleted: func(infos []nix.PathInfo) { collected.Add(int64(len(infos))) }})
			}
			c.Close()
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	for worker := range 4 {
		sessions.Go(func() {
			for i := range 60 {
				put(t, s, fmt.Sprintf("rubbish%d-%d", worker, i), nil) // nobody asks for it again
				name := fmt.Sprintf("p%d", (worker+i)%5)               // workers meet
				pins := s.Pin(fmt.Sprint("session ", worker))
				first, second := path(t, name), path(t, name+"-user")
				pins.Add(first, second)
				put(t, s, name, nil, base)
				put(t, s, name+"-user", nil, first)
				// Made a root before it is let go: it must be there for good.
				if i%10 == 9 {
					own := put(t, s, fmt.Sprintf("root%d-%d", worker, i), nil, second)
					rootPins := s.Pin("root")
					if valid, err := rootPins.AddValid([]nix.StorePath{own}); err == nil && len(valid) == 1 {
						link(t, s.Dir().Path(own), filepath.Join(s.StateDir(), "gcroots", own.BaseName()))
					}
					rootPins.Release()
				}
				for _, p := range []nix.StorePath{first, second} {
					if ok, err := s.IsValid(p); err != nil || !ok {
						t.Errorf("%s was lost while it was held: %v", p, err)
					}
				}
				pins.Release()
			}
		})
	}
	sessions.Wait()
	close(stop)
	collectors.Wait()
	// What lingered during one collection the next one takes.
	c := begin(t, s, gc.Options{})
	plan, err := c.Plan(t.Context(), true)
	if err == nil {
		err = c.Delete(t.Context(), plan.Dead, store.CollectReport{Deleted: func(infos []nix.PathInfo) { collected.Add(int64(len(infos))) }})
	}
	c.Close()
	if err != nil || collected.Load() == 0 {
		t.Errorf("%d paths were collected, %v", collected.Load(), err)
	}
	entries, err := os.ReadDir(filepath.Join(s.StateDir(), "gcroots"))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if p, err := nix.ParseBaseName(entry.Name()); err == nil {
			if ok, err := s.IsValid(p); err != nil || !ok {
				t.Errorf("root %s was lost: %v", p, err)
			}
		}
	}
	if err := s.Verify(t.Context(), store.VerifyOptions{Contents: true}, func(p store.Problem) { t.Error(p.Err) }); err != nil {
		t.Error(err)
	}
	t.Logf("%d paths were collected meanwhile", collected.Load())
}

// For any graph and roots: what a collection leaves is what the roots lead to.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		s, err := store.Open(filepath.Join(t.TempDir(), "s"), store.Options{})
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		n := rapid.IntRange(1, 12).Draw(rt, "paths")
		var all []nix.StorePath
		refs := map[int][]int{}
		for i := range n {
			var to []nix.StorePath
			for j := range i {
				if rapid.IntRange(0, 3).Draw(rt, "refers") == 0 {
					refs[i] = append(refs[i], j)
					to = append(to, all[j])
				}
			}
			all = append(all, put(t, s, fmt.Sprint("n", i), nil, to...))
		}
		live := map[int]bool{}
		var mark func(i int)
		mark = func(i int) {
			if !live[i] {
				live[i] = true
				for _, j := range refs[i] {
					mark(j)
				}
			}
		}
		if err := gc.MakeLayout(s.StateDir()); err != nil {
			rt.Fatal(err)
		}
		for i := range n {
			if rapid.IntRange(0, 3).Draw(rt, "root") == 0 {
				mark(i)
				if err := gc.Pin(s.StateDir(), all[i].BaseName(), s.Dir().Path(all[i])); err != nil {
					rt.Fatal(err)
				}
			}
		}
		c, err := gc.Begin(t.Context(), s, gc.Options{})
		if err != nil {
			rt.Fatal(err)
		}
		defer c.Close()
		plan, err := c.Plan(t.Context(), true)
		if err == nil {
			err = c.Delete(t.Context(), plan.Dead, store.CollectReport{Kept: func(p nix.StorePath, why error) { rt.Errorf("%s was kept: %v", p, why) }})
		}
		if err != nil {
			rt.Fatal(err)
		}
		for i, p := range all {
			if ok, err := s.IsValid(p); err != nil || ok != live[i] {
				rt.Errorf("%s is valid: %v, %v; want %v", p, ok, err, live[i])
			}
		}
	})
}

// 100,000 dead paths among 200,000.
func BenchmarkCollect(b *testing.B) {
	const n = 200_000
	for b.Loop() {
		b.StopTimer()
		s, err := store.Open(b.TempDir(), store.Options{})
		if err != nil {
			b.Fatal(err)
		}
		fill(b, s, n)
		b.StartTimer()
		c := begin(b, s, gc.Options{KeepDerivations: true})
		planned := time.Now()
		plan, err := c.Plan(b.Context(), true)
		if err != nil || len(plan.Dead) != n/2 {
			b.Fatalf("%d dead, %v", len(plan.Dead), err)
		}
		b.ReportMetric(time.Since(planned).Seconds(), "plan-s")
		deleting := time.Now()
		if err := c.Delete(b.Context(), plan.Dead, store.CollectReport{}); err != nil {
			b.Fatal(err)
		}
		c.Close()
		b.ReportMetric(time.Since(deleting).Seconds(), "delete-s")
		sweeping := time.Now()
		if _, err := s.Sweep(b.Context(), store.SweepOptions{}); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(sweeping).Seconds(), "sweep-s")
		b.StopTimer()
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// fill adds paths in chains of ten, of which every other one has a root.
func fill(b *testing.B, s *store.Store, n int) {
	b.Helper()
	if err := gc.MakeLayout(s.StateDir()); err != nil {
		b.Fatal(err)
	}
	r, w := io.Pipe()
	go func() {
		ww := wire.NewWriter(w)
		last := ""
		for i := range n {
			p := s.Dir().Path(path(b, fmt.Sprint("p", i)))
			_ = ww.Uint64(1)
			for _, token := range []string{"nix-archive-1", "(", "type", "regular", "contents", fmt.Sprint("contents of ", i), ")"} {
				_ = ww.String(token)
			}
			_ = ww.Uint64(0x4558494e)
			_ = ww.String(p)
			if i%10 == 0 {
				_ = ww.Uint64(0)
			} else {
				_, _ = ww.Uint64(1), ww.String(last)
			}
			_, _ = ww.String(""), ww.Uint64(0)
			last = p
			if i%20 == 9 {
				if err := os.Symlink(p, filepath.Join(s.StateDir(), "gcroots", fmt.Sprint(i))); err != nil {
					b.Error(err)
				}
			}
		}
		_ = ww.Uint64(0)
		_ = w.CloseWithError(ww.Flush())
	}()
	if err := s.ImportStream(b.Context(), r, store.ImportOptions{}, nil); err != nil {
		b.Fatal(err)
	}
}

func TestUserLayout(t *testing.T) {
	t.Parallel()
	s := open(t)
	uid := uint32(os.Geteuid())
	if uid == 0 {
		uid = 1234
	}
	dir := filepath.Join(s.StateDir(), "profiles/per-user/alice")
	for range 2 {
		if err := gc.MakeUserLayout(s.StateDir(), "alice", uid); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if owner := info.Sys().(*syscall.Stat_t).Uid; owner != uid || info.Mode().Perm() != 0o755 {
			t.Errorf("owner %d, mode %v; want %d, 0755", owner, info.Mode(), uid)
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", ".hidden"} {
		if err := gc.MakeUserLayout(s.StateDir(), name, uid); err == nil {
			t.Errorf("MakeUserLayout(%q) = nil", name)
		}
	}
	// A link is not followed: it would give somebody else's folder away.
	target := t.TempDir()
	link(t, target, filepath.Join(s.StateDir(), "gcroots/per-user/bob"))
	if err := gc.MakeUserLayout(s.StateDir(), "bob", uid); err == nil {
		t.Error("MakeUserLayout follows a link")
	}
}
