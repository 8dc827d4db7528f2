package daemon_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/narfs/narfs/tests/env"
)

// workshop is a store whose daemon builds.
type workshop struct {
	*env.Store

	t    *testing.T
	gate string // a folder that builders see as /gate
}

// buildOptions are settings with which builders find a shell.
func buildOptions(gate string) []string {
	return []string{"--option", "system=here", "--option", "sandbox-paths=/bin /usr/bin /lib? /lib64? /usr/lib /usr/lib64? /gate=" + gate}
}

func newWorkshop(t *testing.T) *workshop {
	t.Helper()
	env.Require(t, env.Builds())
	k := &workshop{Store: env.NewStore(t), t: t, gate: env.Dir(t)}
	t.Cleanup(func() { env.UnmountBelow(t, k.State) })
	daemon(t, k.Store, buildOptions(k.gate)...)
	return k
}

// put adds a derivation that runs a script and whose output is addressed by its contents.
func (k *workshop) put(name, script string, inputs ...string) string {
	k.t.Helper()
	var drvs string
	for _, in := range inputs {
		drvs += fmt.Sprintf(`,("%s",["out"])`, in)
	}
	const placeholder = "/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9" // of the output out
	text := fmt.Sprintf(`Derive([("out","","r:sha256","")],[%s],[],"here","/bin/sh",["-e","-c",%q],[("PATH","/bin:/usr/bin"),("out","%s")])`,
		strings.TrimPrefix(drvs, ","), script, placeholder)
	file := filepath.Join(env.Dir(k.t), name+".drv")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		k.t.Fatal(err)
	}
	args := []string{"add", "--text"}
	if len(inputs) > 0 {
		args = append(args, "--refs", strings.Join(inputs, ","))
	}
	return k.Must(append(args, file)...)
}

func (k *workshop) open() {
	k.t.Helper()
	if err := os.WriteFile(filepath.Join(k.gate, "open"), nil, 0o600); err != nil {
		k.t.Fatal(err)
	}
}

const waitForGate = "until [ -e /gate/open ]; do sleep 0.05; done; "

// Twenty builders on a small terminal: each has a line as far as there is room, whatever they say, and at the end only the results are to
// be seen.
func TestBuildScreen(t *testing.T) {
	t.Parallel()
	k := newWorkshop(t)
	args := []string{"build", "-j20"}
	for i := range 20 {
		args = append(args, k.put(fmt.Sprintf("slow-%02d", i), fmt.Sprintf(`echo '@nix {"action":"setPhase","phase":"phase%d"}'; `+
			`printf 'a\033[2J\033]0;title\007 very%%70s\r\033[31mline %d\n' long; %secho %d > $out`, i, i, waitForGate, i)))
	}
	s := newScreen(t, 60, 12)
	cmd := k.Command(args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.terminal, s.terminal, s.terminal
	cmd.Env = append(cmd.Env, "TERM=xterm")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan int, 1)
	go func() {
		_ = cmd.Wait() // its exit code is in ProcessState
		ended <- cmd.ProcessState.ExitCode()
	}()
	shows := func(what string, lines int, last string) (seen []string) {
		t.Helper()
		env.Eventually(t, what, func() (bool, error) {
			select {
			case code := <-ended:
				return false, fmt.Errorf("narfs build exited with %d", code)
			default:
			}
			var gone []string
			seen, gone = s.text(t)
			if len(gone) > 0 {
				return false, fmt.Errorf("lines have left the screen: %q", gone)
			}
			drawn := slices.DeleteFunc(slices.Clone(seen), func(line string) bool {
				return !strings.Contains(line, " (phase") || !strings.Contains(line, ") line ")
			})
			return len(drawn) == lines && strings.HasPrefix(seen[len(seen)-1], last), nil
		})
		return seen
	}
	const status = "build  0 of 20 built  20 running  0:"
	seen := shows("all run", 9, status)
	if want := "       … and 11 more"; len(seen) != 11 || seen[9] != want {
		t.Errorf("the screen shows %q; want nine builders, %q and the status", seen, want)
	}
	s.resize(t, 100, 30)
	if seen := shows("all are seen", 20, status); len(seen) != 21 {
		t.Errorf("the larger screen shows %q", seen)
	}
	s.resize(t, 30, 30) // nothing here wraps what is drawn already, as some terminals do: but above it there is nothing to be spoilt
	shows("it fits again", 20, "build  0 of 20 built  20 runn")
	k.open()
	select {
	case code := <-ended:
		if code != 0 {
			t.Errorf("narfs build exited with %d", code)
		}
	case <-time.After(env.Patience):
		t.Fatal("narfs build does not end")
	}
	env.Eventually(t, "only the results are seen", func() (bool, error) {
		seen, gone := s.text(t)
		paths := slices.DeleteFunc(slices.Clone(seen), func(line string) bool { return !strings.HasPrefix(line, "/nix/store/") })
		return len(gone) == 0 && len(seen) == 21 && len(paths) == 20 && seen[20] == "", nil
	})
	// Elsewhere than on a terminal the log is as it is.
	if got := k.Must("log", args[2]); !strings.Contains(got, "\r\x1b[31mline 0") {
		t.Errorf("log printed %q", got)
	}
	log := newScreen(t, 200, 12)
	cmd = k.Command("log", args[2])
	cmd.Stdout = log.terminal
	cmd.Env = append(cmd.Env, "NO_COLOR=1")
	env.Must(t, cmd)
	env.Eventually(t, "the log is seen", func() (bool, error) {
		seen, _ := log.text(t)
		return len(seen) == 3 && strings.HasPrefix(seen[0], "@nix ") && seen[1] == "line 0", nil
	})
}

// builderRuns reports whether there is a process with some text in its command line.
func builderRuns(t *testing.T, text string) bool {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(file string) bool {
		line, err := os.ReadFile(file)
		return err == nil && bytes.Contains(line, []byte(text)) // who has ended meanwhile has none
	})
}

// Who leaves, by Ctrl-C or by force, takes nothing from another who waits for the same; with the last one the builder goes.
func TestBuildInterrupted(t *testing.T) {
	t.Parallel()
	k := newWorkshop(t)
	mark := "marked by " + filepath.Base(k.gate) + filepath.Base(filepath.Dir(k.gate))
	path := k.put("hang", "echo begun; : "+mark+"; while true; do sleep 0.1; done")
	begin := func() *env.Process {
		p := env.Start(t, k.Command("build", path))
		env.Eventually(t, "the builder is heard", func() (bool, error) { return strings.Contains(p.Output(), "hang> begun\n"), nil })
		return p
	}
	first, second := begin(), begin()
	first.Signal(os.Interrupt)
	if code := first.Wait(); code != 130 || !strings.HasSuffix(first.Output(), "narfs: interrupted\n") {
		t.Errorf("the first exited with %d and printed %q", code, first.Output())
	}
	if !builderRuns(t, mark) {
		t.Error("the builder has not outlived the first")
	}
	third := begin()
	for _, p := range []*env.Process{second, third} {
		begun := time.Now()
		if p == second {
			p.Signal(syscall.SIGTERM)
		} else {
			p.Kill()
		}
		p.Wait()
		env.Eventually(t, "the builder lives as long as it should", func() (bool, error) { return builderRuns(t, mark) == (p == second), nil })
		if took := time.Since(begun); took > time.Second {
			t.Errorf("it took %v", took)
		}
	}
	env.Eventually(t, "nothing is left", func() (bool, error) {
		left, err := os.ReadDir(filepath.Join(k.State, "builds"))
		return len(left) == 0 && len(locks(t, k.Store)) == 0 && len(sessions(t, k.Store)) == 0, err
	})
}

// What becomes of a build is told by the exit code, by JSON, and by what is said once.
func TestBuildResults(t *testing.T) {
	t.Parallel()
	k := newWorkshop(t)
	base := k.put("base", "echo base > $out")
	good := k.put("good", "echo good > $out", base)
	bad := k.put("bad", `echo why; printf 'a\033[2J\n'; exit 3`)
	onBad := k.put("on-bad", "echo never", bad)
	random := k.put("random", "head -c 8 /dev/urandom | od > $out")
	r := k.Run("build", "--json", "-k", "-j3", good+"^out", onBad, bad)
	if r.Code != 100 {
		t.Errorf("build exited with %d", r.Code)
	}
	var list []struct {
		DrvPath, Status, ErrorMsg string
		Success                   bool
		Outputs                   map[string]string
		TimesBuilt                int
		StartTime, StopTime       int64
	}
	if err := json.Unmarshal([]byte(r.Stdout), &list); err != nil || len(list) != 3 {
		t.Fatalf("build --json printed %q: %v", r.Stdout, err)
	}
	if got := list[0]; got.DrvPath != good || got.Status != "Built" || !got.Success || got.TimesBuilt != 1 || got.Outputs["out"] == "" || got.StartTime == 0 || got.StopTime < got.StartTime {
		t.Errorf("the good one: %+v", got)
	}
	if got := list[1]; got.Success || got.Status != "DependencyFailed" || !strings.Contains(got.ErrorMsg, "failed with exit code 3") {
		t.Errorf("the one on the bad: %+v", got)
	}
	if got := list[2]; got.Success || got.Status != "PermanentFailure" || !strings.Contains(got.ErrorMsg, "run 'narfs log "+bad+"'") {
		t.Errorf("the bad one: %+v", got)
	}
	why := "narfs: builder for '" + bad + "' failed with exit code 3;\nlast 2 log lines:\n> why\n> a\nFor full logs, run 'narfs log " + bad + "'.\n"
	if strings.Count(r.Stderr, why) != 1 || strings.Count(r.Stderr, "exit code 3") != 1 || !strings.Contains(r.Stderr, "bad> why\n") ||
		!strings.HasSuffix(r.Stderr, "narfs: 1 dependencies of derivation '"+onBad+"' failed to build\n") {
		t.Errorf("build said %q; want once in it %q", r.Stderr, why)
	}
	if r := k.Run("-q", "build", bad, good); r.Code != 100 || r.Stderr != why || r.Stdout != list[0].Outputs["out"]+"\n" {
		t.Errorf("a quiet build exited with %d: %q, %q", r.Code, r.Stderr, r.Stdout)
	}
	if got := k.Must("build", random, list[0].Outputs["out"]); strings.Count(got, "\n") != 1 {
		t.Errorf("build printed %q; want two paths", got)
	}
	if r := k.Run("build", "--check", random); r.Code != 104 || !strings.Contains(r.Stderr, "may not be deterministic") {
		t.Errorf("--check exited with %d: %s", r.Code, r.Stderr)
	}
	hang := k.put("hang", "sleep 3; echo > $out")
	if r := k.Run("build", "--check", hang); r.Code != 1 || !strings.Contains(r.Stderr, "some outputs of '"+hang+"' are not valid, so checking is not possible") {
		t.Errorf("--check of what was never built exited with %d: %s", r.Code, r.Stderr)
	}
	for _, flag := range []string{"--timeout", "--max-silent-time"} {
		if r := k.Run("build", flag, "1", hang); r.Code != 101 || !strings.Contains(r.Stderr, "timed out after 1 seconds") {
			t.Errorf("%s exited with %d: %s", flag, r.Code, r.Stderr)
		}
	}
	// The logs of what is gone are there still.
	k.Must("build", "--out-link", filepath.Join(k.gate, "link"), good)
	k.Must("gc")
	if got := k.Must("log", bad); got != "why\na\x1b[2J" {
		t.Errorf("log of what is gone printed %q", got)
	}
	k.Must("log", filepath.Join(k.gate, "link"))
	if r := k.Run("log", hang[:len(hang)-5]+"x.drv"); r.Code != 1 || !strings.Contains(r.Stderr, "no log is kept\nhint: ") {
		t.Errorf("log of nothing exited with %d: %s", r.Code, r.Stderr)
	}
}

// Where there is no owner one is started.
func TestBuildStartsOwner(t *testing.T) {
	t.Parallel()
	env.Require(t, env.Builds())
	k := &workshop{Store: env.NewStore(t), t: t}
	t.Cleanup(func() { env.UnmountBelow(t, k.State) })
	if r := k.Run("build", "x"); r.Code != 1 || !strings.Contains(r.Stderr, "no store in "+k.State) {
		t.Errorf("without a store build exited with %d: %s", r.Code, r.Stderr)
	}
	path := k.put("x", "echo x > $out")
	cmd := k.Command("build", path)
	cmd.Env = append(cmd.Env, "NIX_CONF_DIR=/nonexistent", "NARFS_CONF=/nonexistent", "NIX_CONFIG=system = here\nsandbox-paths = /bin /usr/bin /lib? /lib64? /usr/lib /usr/lib64?")
	k.Must("info", env.Must(t, cmd))
	env.Eventually(t, "the owner has left", func() (bool, error) {
		_, err := os.Lstat(filepath.Join(k.State, "daemon.sock"))
		return os.IsNotExist(err), nil
	})
}

// Another user may build, read logs, and have links to outputs, which his own process makes, and which are roots.
func TestBuildGuest(t *testing.T) {
	t.Parallel()
	env.Require(t, env.Root())
	k := newWorkshop(t)
	g := newGuest(t, k.Store)
	path := k.put("x", "echo said; echo $NIX_BUILD_CORES > $out")
	r := g.run("build", "--cores", "7", "--option", "sandbox=false", path)
	if r.Code != 0 || !strings.Contains(r.Stderr, "x> said\n") || !strings.Contains(r.Stderr, "ignoring the client-specified setting 'sandbox'") {
		t.Errorf("build exited with %d: %s", r.Code, r.Stderr)
	}
	if got := k.Must("cat", strings.TrimSpace(r.Stdout)); got != "7" {
		t.Errorf("the builder was told to use %s processors", got)
	}
	if r := g.run("log", path); r.Code != 0 || r.Stdout != "said\n" {
		t.Errorf("log exited with %d: %q, %s", r.Code, r.Stdout, r.Stderr)
	}
	out := strings.TrimSpace(r.Stdout)
	home := filepath.Join(g.dir, "home")
	g.mkdir(home)
	in := func(args ...string) env.Result {
		t.Helper()
		cmd := g.command(args...)
		cmd.Dir = home
		return env.Run(t, cmd)
	}
	other := k.put("other", "echo other > $out")
	r = in("build", "-o", "result", path, other)
	outputs := strings.Fields(r.Stdout)
	if r.Code != 0 || len(outputs) != 2 || outputs[0] != out {
		t.Fatalf("build --out-link exited with %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	for i, name := range []string{"result", "result-2"} {
		link := filepath.Join(home, name)
		info, err := os.Lstat(link)
		if err != nil {
			t.Fatal(err)
		}
		if to, err := os.Readlink(link); err != nil || to != outputs[i] || info.Sys().(*syscall.Stat_t).Uid != nobody {
			t.Errorf("%s of user %d leads to %s: %v; want %s", name, info.Sys().(*syscall.Stat_t).Uid, to, err, outputs[i])
		}
		if roots := k.Must("roots"); !strings.Contains(roots, "indirect  "+link+" -> "+outputs[i]) {
			t.Errorf("roots are %s", roots)
		}
	}
	k.Must("gc")
	k.Must(append([]string{"info"}, outputs...)...)
	// The links may be named, too, and what is in them, and one of a derivation with outputs.
	if r := in("cat", "result-2"); r.Code != 0 || r.Stdout != "other\n" {
		t.Errorf("cat of a link exited with %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	if err := os.Symlink(k.put("third", "echo third > $out"), filepath.Join(home, "third.drv")); err != nil {
		t.Fatal(err)
	}
	r = in("build", "third.drv^out", "--json", "--out-link", "third")
	if r.Code != 0 || !strings.Contains(r.Stdout, `"status":"Built"`) || strings.Count(r.Stdout, "\n") != 1 {
		t.Errorf("build of a link exited with %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	// What cannot be had changes nothing.
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(home, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("file", "text")
	if r := in("build", "third.drv", "--out-link", "file"); r.Code != 1 || !strings.Contains(r.Stderr, "it is there already, and no link") {
		t.Errorf("build with a file in the place of the link exited with %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	if r := in("build", k.put("fails", "exit 3"), "--out-link", "failed"); r.Code != 100 {
		t.Errorf("a build that fails exited with %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	if _, err := os.Lstat(filepath.Join(home, "failed")); err == nil {
		t.Error("a build that has failed has left a link")
	}
}
