package interop_test

import (
	"cmp"
	"encoding/base64"
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

// builder is a machine that builds for others: an OpenSSH server with a store behind it.
type builder struct {
	*server

	store *env.Store // nil for one of the real Nix
	bin   string     // the folder of narfs, if that is there
	meet  string     // a folder that its builders share with others'
}

// builderConf is the nix.conf of a machine.
const builderConf = `build-users-group =
auto-allocate-uids = false
sandbox = true
substituters =
experimental-features = nix-command ca-derivations
extra-system-features = ca-derivations
max-jobs = 4
sandbox-paths = ` + hostPrograms + " "

// newBuilder makes a machine with narfs, or with the real Nix of this one.
func newBuilder(t *testing.T, isNarfs bool, meet string) *builder {
	t.Helper()
	b := &builder{meet: meet}
	dir := env.Dir(t)
	variables := []string{"NIX_CONF_DIR=" + dir, "NARFS_CONF=/nonexistent", "NIX_USER_CONF_FILES=", "HOME=" + dir}
	write(t, filepath.Join(dir, "nix.conf"), builderConf+meet+"\n", 0o644)
	if isNarfs {
		variables = append(variables, b.startNarfs(t, variables)...)
	} else {
		variables = append(variables, "NIX_REMOTE="+env.NewNix(t).Root)
	}
	b.server = newServerFor(t, "env "+strings.Join(variables, " ")+` sh -c "exec $SSH_ORIGINAL_COMMAND"`)
	return b
}

// startNarfs starts a daemon of narfs and returns what leads its clients to it.
func (b *builder) startNarfs(t *testing.T, variables []string) []string {
	t.Helper()
	b.store = env.NewStore(t)
	b.bin = env.Dir(t)
	copyFile(t, env.Binary(t), filepath.Join(b.bin, "nix-store"))
	if err := os.Symlink("nix-store", filepath.Join(b.bin, "nix-daemon")); err != nil {
		t.Fatal(err)
	}
	daemon := b.store.Command("daemon", "--ready")
	daemon.Env = append(daemon.Env, variables...)
	daemon.Cancel = func() error { return nil }
	p := env.Start(t, daemon)
	env.Eventually(t, "the daemon of the machine is ready", func() (bool, error) { return strings.Contains(p.Output(), "ready"), nil })
	return []string{"NARFS_STATE_DIR=" + b.store.State, "PATH=" + b.bin + ":$PATH"}
}

// newWary makes a machine that does not trust who logs in: with the Nix of a peer, or narfs if that is "".
func newWary(t *testing.T, suite string) *builder {
	t.Helper()
	b := &builder{}
	dir := env.Dir(t)
	write(t, filepath.Join(dir, "nix.conf"), builderConf+"\nextra-experimental-features = daemon-trust-override\n", 0o644)
	if suite == "" {
		variables := []string{"NIX_CONF_DIR=" + dir, "NARFS_CONF=/nonexistent"}
		variables = append(variables, b.startNarfs(t, variables)...)
		env.OpenTo(t, dir, b.store.State, b.bin)
		b.server = newServerFor(t, "env "+strings.Join(variables, " ")+` setpriv --reuid=65534 --regid=65534 --clear-groups sh -c "exec $SSH_ORIGINAL_COMMAND"`)
		return b
	}
	nix := env.NewPeerNix(t, suite, dir)
	args := nix.Command("nix-daemon", "--stdio", "--force-untrusted").Args
	b.server = newServerFor(t, fmt.Sprintf("env NIX_CONF_DIR=%s NIX_USER_CONF_FILES= HOME=%s NIX_REMOTE=%s %s", dir, dir, nix.Root, strings.Join(args, " ")))
	return b
}

// line is the machine in the setting builders.
func (b *builder) line(scheme string, jobs int, features string) string {
	return fmt.Sprintf("%s://%s:%d - %s %d 1 %s - %s", scheme, b.login, b.port, b.key, jobs, cmp.Or(features, "-"), base64.StdEncoding.EncodeToString([]byte(b.hostKey)))
}

// logins counts how often somebody has logged in.
func (b *builder) logins() int { return strings.Count(b.Output(), "Accepted publickey") }

// far is the daemon that has others build, and a client of it. It must end, with its connections, before the others do.
func far(t *testing.T, c *client) (*served, *local) {
	t.Helper()
	t.Setenv("NIX_SSHOPTS", "-F none -oIdentitiesOnly=yes")
	s := serveStore(t)
	return s, s.client(t, c)
}

// build runs nix-build on an expression with a function mk, and returns what it prints, and all that it says.
func build(t *testing.T, l *local, expression string, options ...string) env.Result {
	t.Helper()
	r := env.Run(t, l.Command("nix-build", buildArgs(expression, options...)...))
	r.Stderr = strings.ReplaceAll(plain(r.Stderr), "\n       ", "\n") // as nix-build shows an error of several lines
	return r
}

func buildArgs(expression string, options ...string) []string {
	const mk = `let mk = name: script: attrs: derivation ({ inherit name; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/bin:/usr/bin";
args = [ "-e" "-c" script ]; } // attrs); in `
	return append([]string{"--no-out-link", "-E", mk + expression}, options...)
}

// TestElsewhere has all of testdata/builds.nix built by other machines, of narfs and of the real Nix, by both protocols: what comes of it is
// the same as where Nix builds itself.
func TestElsewhere(t *testing.T) {
	env.Require(t, env.Program("nix-store"), env.Root())
	c := newClient(t, releases()[0])
	var want map[string]outcome
	t.Run("nix", func(t *testing.T) { want = buildAll(t, c.nix(t, env.NewStore(t))) })
	for name, isNarfs := range map[string]bool{"narfs": true, "nix": false} {
		for _, scheme := range []string{"ssh", "ssh-ng"} {
			t.Run(scheme+"-"+name, func(t *testing.T) {
				b := newBuilder(t, isNarfs, "")
				s, l := far(t, c)
				got := buildAll(t, l, "--max-jobs", "0", "--builders", b.line(scheme, 2, "ca-derivations"))
				compareBuilds(t, c.version, want, got, map[string]string{
					"otherSystem": "Failed to find a machine for remote build!", "feature": "it lacks the features no-such-feature",
				})
				if b.logins() == 0 {
					t.Error("nobody has logged in")
				}
				if r := s.Run("verify"); r.Code != 0 {
					t.Errorf("narfs verify exited with %d: %s%s", r.Code, r.Stdout, r.Stderr)
				}
			})
		}
	}
}

// TestElsewhereUntrusted has machines build that do not trust us: from the derivations, with all below them, and with those inputs built
// there that they did not take.
func TestElsewhereUntrusted(t *testing.T) {
	env.Require(t, env.Program("nix-store"), env.Root(), env.Program("setpriv"))
	c := newClient(t, releases()[0])
	const expression = `let below = mk "below" "echo below is built; echo below > $out" { }; fixed = mk "fixed" "echo fixed > $out" {
		outputHashAlgo = "sha256"; outputHashMode = "flat"; outputHash = builtins.hashString "sha256" "fixed\n"; };
		floating = mk "floating" "cat $below; echo floating; cat $below > $out" { inherit below; __contentAddressed = true; outputHashAlgo = "sha256"; outputHashMode = "recursive"; };
		text = builtins.toFile "text" "a text\n";
		deferred = mk "deferred" "echo deferred; cat $floating > $out" { inherit floating; };
		top = mk "top" "echo says something; cat $below $fixed $text > $out; echo ${below} > $more" { inherit below fixed text; outputs = [ "out" "more" ]; };
		in { inherit below fixed floating deferred top; }`
	experimental := []string{"--extra-experimental-features", "ca-derivations"}
	for _, suite := range []string{"", "trixie", "sid"} {
		t.Run(cmp.Or(suite, "narfs"), func(t *testing.T) {
			b := newWary(t, suite)
			_, l := far(t, c)
			// Nobody has signed what is built here.
			if r := build(t, l, expression, "-A", "below", "--option", "sandbox-paths", hostPrograms); r.Code != 0 {
				t.Fatal(r.Stderr)
			}
			for _, name := range []string{"fixed", "floating", "deferred", "top"} {
				r := build(t, l, expression, append(experimental, "-A", name, "--max-jobs", "0", "--builders", b.line("ssh-ng", 1, "ca-derivations"))...)
				if said := map[string]string{"floating": "below is built", "top": "says something"}[name]; r.Code != 0 || !strings.Contains(r.Stderr, said) {
					t.Fatalf("nix-build of %s exited with %d, and should say %q: %s", name, r.Code, said, r.Stderr)
				}
				out := strings.Fields(r.Stdout)[0]
				want := map[string]string{"fixed": "fixed\n", "floating": "below\n", "deferred": "below\n", "top": "below\nfixed\na text\n"}[name]
				if got := output(t, l, "nix", "--extra-experimental-features", "nix-command", "store", "cat", out); got != want {
					t.Errorf("%s is %q; want %q", name, got, want)
				}
			}
		})
	}
}

// One connection is used for one build after the other; logs are told live, and kept, each with its own.
func TestElsewhereReuse(t *testing.T) {
	c := newClient(t, releases()[0])
	b := newBuilder(t, true, "")
	_, l := far(t, c)
	r := build(t, l, `builtins.foldl' (below: n: mk "chain-${toString n}" "echo says ${toString n}; head -c 20000 /dev/zero | tr '\\0' x; echo; echo ends ${toString n}; echo ${below} > $out" { })
"" (builtins.genList (n: n) 12)`, "--max-jobs", "0", "--builders", b.line("ssh", 1, ""))
	if r.Code != 0 {
		t.Fatal(r.Stderr)
	}
	for drv := range strings.FieldsSeq(output(t, l, "nix-store", "-qR", strings.TrimSpace(output(t, l, "nix-store", "-qd", strings.TrimSpace(r.Stdout))))) {
		_, n, _ := strings.Cut(strings.TrimSuffix(drv, ".drv"), "chain-")
		log := output(t, l, "nix-store", "-l", drv)
		if want := "says " + n + "\n" + strings.Repeat("x", 20000) + "\nends " + n + "\n"; log != want {
			t.Errorf("the log of %s has %d bytes, want %d: %.40q", drv, len(log), len(want), log)
		}
		if !strings.Contains(r.Stderr, "ends "+n+"\n") {
			t.Errorf("nix-build did not tell the log of %s", drv)
		}
	}
	if n := b.logins(); n != 1 {
		t.Errorf("%d logins; want 1", n)
	}
}

// Builds that wait for each other: on two machines, or two on one.
func TestElsewhereConcurrent(t *testing.T) {
	c := newClient(t, releases()[0])
	meet := env.Dir(t)
	const pair = `[ (mk "a" "touch $meet/a; while [ ! -e $meet/b ]; do sleep .1; done; echo a > $out" { inherit meet; })
(mk "b" "touch $meet/b; while [ ! -e $meet/a ]; do sleep .1; done; echo b > $out" { inherit meet; }) ]`
	for _, jobs := range []int{1, 2} {
		first, second := newBuilder(t, true, meet), newBuilder(t, false, meet)
		_, l := far(t, c)
		machines := first.line("ssh", jobs, "")
		if jobs == 1 {
			machines += ";" + second.line("ssh", 1, "")
		}
		dir := filepath.Join(meet, fmt.Sprint(jobs))
		if err := os.Mkdir(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		if r := build(t, l, "let meet = \""+dir+"\"; in "+pair, "--max-jobs", "0", "--builders", machines); r.Code != 0 {
			t.Errorf("%d jobs: nix-build exited with %d: %s", jobs, r.Code, r.Stderr)
		}
		if got, want := []int{first.logins(), second.logins()}, []int{jobs, 2 - jobs}; !slices.Equal(got, want) {
			t.Errorf("%d jobs: logins are %v; want %v", jobs, got, want)
		}
	}
}

// What cannot be built anywhere says why, machine by machine; a machine that is dead is passed by.
func TestElsewhereReasons(t *testing.T) {
	c := newClient(t, releases()[0])
	b := newBuilder(t, true, "")
	_, l := far(t, c)
	dead := fmt.Sprintf("ssh://nobody@127.0.0.1:%d", freePort(t))
	impostor := *b.server
	impostor.hostKey = read(t, b.key+".pub")
	wrong := builder{server: &impostor}
	machines := strings.Join([]string{
		dead, "elsewhere mips-linux", "choosy - - 1 1 - big", "idle - - 0", "/a/store", wrong.line("ssh", 1, ""),
	}, "\n")
	r := build(t, l, `mk "nowhere" "echo x > $out" { }`, "--max-jobs", "0", "--builders", machines)
	for _, text := range []string{
		"Failed to find a machine for remote build!", "nowhere.drv\nrequired (system, features): (", "\n6 available machines:\n(systems, maxjobs, supportedFeatures, mandatoryFeatures)\n",
		"([mips-linux], 1, [], [])", "'" + dead + "' is not taken: ", "cannot connect: ssh: connect to host", "'ssh://elsewhere' is not taken: it builds for mips-linux",
		"'ssh://choosy' is not taken: it is for derivations that require the features big", "'ssh://idle' is not taken: its number of jobs is 0",
		"'/a/store' is not taken: narfs reaches builders by ssh:// and ssh-ng:// only", "Host key verification failed", "and not here: local builds are disabled (max-jobs = 0)",
	} {
		if !strings.Contains(r.Stderr, text) {
			t.Errorf("nix-build does not say %q", text)
		}
	}
	if r.Code == 0 || t.Failed() {
		t.Errorf("nix-build exited with %d: %s", r.Code, r.Stderr)
	}
	r = build(t, l, `mk "somewhere" "echo x > $out" { }`, "--max-jobs", "0", "--builders", machines+"\n"+b.line("ssh", 1, ""))
	if r.Code != 0 || !strings.Contains(r.Stderr, "cannot build on '"+dead+"'") {
		t.Errorf("with a machine that lives nix-build exited with %d: %s", r.Code, r.Stderr)
	}
	r = build(t, l, `mk "here" "echo x > $out" { }`, "--max-jobs", "1", "--option", "sandbox", "true", "--option", "sandbox-paths", "/bin /usr/bin /usr/lib /lib /lib64",
		"--builders", machines)
	if r.Code != 0 {
		t.Errorf("where it can be built here, nix-build exited with %d: %s", r.Code, r.Stderr)
	}
	file := filepath.Join(env.Dir(t), "machines")
	write(t, file, "# none\nhost - - many\n", 0o644)
	r = build(t, l, `mk "bad" "echo x > $out" { }`, "--builders", "@/nonexistent;@"+file)
	if want := file + ":2: bad machine specification 'host - - many'"; r.Code == 0 || !strings.Contains(r.Stderr, want) {
		t.Errorf("nix-build exited with %d and should say %q: %s", r.Code, want, r.Stderr)
	}
	r = build(t, l, `mk "none" "echo x > $out" { }`, "--max-jobs", "0", "--builders", "")
	if want := "unable to start any build; either increase '--max-jobs' or enable remote builds"; r.Code == 0 || !strings.Contains(r.Stderr, want) {
		t.Errorf("nix-build exited with %d and should say %q: %s", r.Code, want, r.Stderr)
	}
}

// processes returns those that have something in their command line.
func processes(t *testing.T, text string) (pids []int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err == nil && strings.Contains(strings.ReplaceAll(string(line), "\x00", " "), text) {
			var pid int
			if _, err := fmt.Sscanf(file, "/proc/%d/", &pid); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// hidden writes the command for an expression so that who evaluates that does not have it on his command line.
func hidden(nap string) string { return strings.Replace(nap, ".", `${"."}`, 1) }

// endsSoon waits for the end of a builder.
func endsSoon(t *testing.T, nap string) {
	t.Helper()
	begun := time.Now()
	env.Eventually(t, "the builder ends", func() (bool, error) { return len(processes(t, nap)) == 0, nil })
	took := time.Since(begun)
	if t.Logf("the builder ended after %v", took); took > time.Second {
		t.Errorf("the builder ended after %v; want a second at most", took)
	}
}

// An input that cannot be read here ends the build, by either protocol, and nobody waits for the rest of it.
func TestElsewhereDamaged(t *testing.T) {
	env.Require(t, env.Root())
	c := newClient(t, releases()[0])
	for _, scheme := range []string{"ssh", "ssh-ng"} {
		b := newBuilder(t, true, "")
		s, l := far(t, c)
		const expression = `let big = mk "big" "seq 1 60000 | sha512sum > $out; seq 1 60000 | cksum >> $out; seq 1 50000 >> $out" { }; in { inherit big; top = mk "top" "ls ${big} > $out" { }; }`
		if r := build(t, l, expression, "-A", "big", "--option", "sandbox-paths", hostPrograms); r.Code != 0 {
			t.Fatal(r.Stderr)
		}
		s.Stop()
		s.damage(t)
		s.start(t, "--allow-other", "--mount", s.mnt)
		r := build(t, l, expression, "-A", "top", "--max-jobs", "0", "--builders", b.line(scheme, 1, ""))
		if r.Code == 0 || !strings.Contains(r.Stderr, "copying the inputs: ") {
			t.Errorf("%s: nix-build exited with %d: %s", scheme, r.Code, r.Stderr)
		}
	}
}

// A connection that ends in the middle: the build is done on another machine, once; and what the first one was doing ends.
func TestElsewhereCut(t *testing.T) {
	env.Require(t, env.Root())
	c := newClient(t, releases()[0])
	meet := env.Dir(t)
	first, second := newBuilder(t, true, meet), newBuilder(t, true, meet)
	_, l := far(t, c)
	lines := []string{first.line("ssh", 1, ""), second.line("ssh", 1, "")}
	cut := func(b *builder) {
		t.Helper()
		for _, pid := range processes(t, fmt.Sprintf("-p %d", b.port)) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
	}
	for n, machines := range [][]string{{lines[0]}, lines} {
		dir := filepath.Join(meet, fmt.Sprint(n))
		if err := os.Mkdir(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		done := make(chan env.Result, 1)
		nap := fmt.Sprintf("sleep 1000.%d%d", os.Getpid(), n) // not as nix-build has it on its command line
		go func() {
			r := env.Run(t, l.Command("nix-build", buildArgs(fmt.Sprintf(
				`mk "cut" "if [ ! -e %[1]s/begun ]; then touch %[1]s/begun; %[2]s; fi; echo x > $out" { }`, dir, hidden(nap)),
				"--max-jobs", "0", "--builders", strings.Join(machines, ";"))...))
			done <- r
		}()
		env.Eventually(t, "the build has begun", func() (bool, error) {
			_, err := os.Stat(filepath.Join(dir, "begun"))
			return err == nil && len(processes(t, nap)) > 0, nil
		})
		cut(first)
		endsSoon(t, nap)
		r := <-done
		text := plain(r.Stderr)
		if !strings.Contains(text, "cannot build on '"+strings.Fields(machines[0])[0]+"': the connection has ended") {
			t.Errorf("of %d machines one fails, and nix-build says: %s", len(machines), text)
		}
		if (r.Code == 0) != (len(machines) > 1) {
			t.Errorf("of %d machines one fails, and nix-build exits with %d: %s", len(machines), r.Code, text)
		}
	}
}

// The last who wants a build is gone: the other machine's builder ends, within a second.
func TestElsewhereLeave(t *testing.T) {
	env.Require(t, env.Root())
	c := newClient(t, releases()[0])
	for name, isNarfs := range map[string]bool{"narfs": true, "nix": false} {
		for _, scheme := range []string{"ssh", "ssh-ng"} {
			t.Run(scheme+"-"+name, func(t *testing.T) {
				b := newBuilder(t, isNarfs, "")
				_, l := far(t, c)
				nap := fmt.Sprintf("sleep 2000.%d%d%d", os.Getpid(), len(scheme), len(name))
				p := env.Start(t, l.Command("nix-build", buildArgs(`mk "left" "`+hidden(nap)+`" { }`, "--max-jobs", "0", "--builders", b.line(scheme, 1, ""))...))
				env.Eventually(t, "the build has begun", func() (bool, error) { return len(processes(t, nap)) > 0, nil })
				p.Kill()
				p.Wait()
				endsSoon(t, nap)
			})
		}
	}
}
