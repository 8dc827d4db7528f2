package interop_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/narfs/narfs/tests/env"
)

// buildWay is how a client has narfs build.
type buildWay struct {
	name    string
	builder bool // narfs is a remote builder of a client that has a store of its own
	command []string
}

func buildWays() []buildWay {
	return []buildWay{
		{"nix-build", false, []string{"nix-build", "--no-out-link"}},
		{"nix build", false, []string{"nix", "build", "--no-link", "--impure", "--print-build-logs", "-f"}},
		{"nix-build --builders", true, []string{"nix-build", "--no-out-link"}},
		{"nix build --builders", true, []string{"nix", "build", "--no-link", "--impure", "--print-build-logs", "-f"}},
	}
}

// forBuilds are settings of a daemon whose clients cannot say which.
func forBuilds() []string {
	return []string{"sandbox = true", "sandbox-paths = " + hostPrograms, "max-jobs = 4"}
}

// building is a client that builds.
type building struct {
	*local

	way buildWay
}

func (s *served) building(t *testing.T, c *client, w buildWay) *building {
	t.Helper()
	if w.builder {
		return &building{c.nix(t, s.Store), w}
	}
	return &building{s.client(t, c), w}
}

// build prepares a build of what an expression is. The derivations in it are made by mk NAME SCRIPT ATTRIBUTES.
func (b *building) build(t *testing.T, expression string, options ...string) *exec.Cmd {
	t.Helper()
	file := filepath.Join(b.Root, fmt.Sprintf("%d.nix", rand.Uint64()))
	write(t, file, `let mk = name: script: attrs: derivation ({
		inherit name; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/bin:/usr/bin"; args = [ "-e" "-c" script ];
	} // attrs); in `+expression, 0o644)
	args := append(b.way.command[1:len(b.way.command):len(b.way.command)], file)
	args = append(args, options...)
	if b.way.builder {
		args = append(args, "--max-jobs", "0", "--builders", "ssh://"+host+" "+system(t)+" - 4 1")
	}
	return b.Command(b.way.command[0], args...)
}

// system is what Nix calls this machine.
func system(t *testing.T) string {
	t.Helper()
	machine, err := exec.Command("uname", "-m").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(machine)) + "-linux"
}

// idle fails the test unless no build, no session but the daemon's own and no lock is left, and the daemon serves.
func (s *served) idle(t *testing.T) {
	t.Helper()
	env.Eventually(t, "the sessions have ended", func() (bool, error) { return rows(t, s.Store, "sessions") == 0, nil })
	if n := rows(t, s.Store, "locks"); n > 0 {
		t.Errorf("narfs locks shows %d; want none", n)
	}
	if left, err := os.ReadDir(filepath.Join(s.State, "builds")); err != nil || len(left) > 0 {
		t.Errorf("left of builds: %v, %v", left, err)
	}
}

// peak is the most memory that the daemon has had resident.
func (s *served) peak(t *testing.T) int64 {
	t.Helper()
	match := regexp.MustCompile(`VmHWM:\s*(\d+) kB`).FindStringSubmatch(read(t, fmt.Sprintf("/proc/%d/status", s.PID())))
	if match == nil {
		t.Fatal("the kernel does not tell the daemon's memory")
	}
	kib, err := strconv.ParseInt(match[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// chain is an expression for so many derivations, each of which reads the one before.
func chain(n int) string {
	return fmt.Sprintf(`builtins.foldl' (before: i: mk "link-${toString i}" "{ cat ${before}; echo ${toString i}; } > $out" { })
		(builtins.toFile "begin" "") (builtins.genList (i: i) %d)`, n)
}

// TestBuildWays builds a chain of derivations by all ways.
func TestBuildWays(t *testing.T) {
	t.Parallel()
	eachRelease(t, func(t *testing.T, c *client) {
		t.Helper()
		s := serveStore(t, forBuilds()...)
		for i, w := range buildWays() {
			n := 200
			if env.Long().Err() != nil && (c.version != "2.34.8" || w.builder || i > 0) {
				n = 10
			}
			begun := time.Now()
			b := s.building(t, c, w)
			// Each builds derivations of its own.
			expression := strings.ReplaceAll(chain(n), `"link-`, fmt.Sprintf(`"%d-`, i))
			if got := env.Run(t, b.build(t, expression)); got.Code != 0 {
				t.Fatalf("%s exited with %d: %s", w.name, got.Code, got.Stderr)
			}
			t.Logf("%6.2f s  %s, a chain of %d", time.Since(begun).Seconds(), w.name, n)
			r := env.Run(t, b.build(t, expression, "-v"))
			if r.Code != 0 || strings.Contains(r.Stderr, "building") {
				t.Errorf("%s once more exited with %d: %s", w.name, r.Code, r.Stderr)
			}
			var want strings.Builder
			for k := range n {
				fmt.Fprintln(&want, k)
			}
			out := ""
			for path := range strings.FieldsSeq(s.Must("ls")) {
				if strings.HasSuffix(path, fmt.Sprintf("-%d-%d", i, n-1)) {
					out = path
				}
			}
			if out == "" {
				t.Fatalf("%s: narfs has not built the last one", w.name)
			}
			if got := read(t, filepath.Join(s.mnt, filepath.Base(out))); got != want.String() {
				t.Errorf("%s built %q", w.name, got)
			}
			if w.builder && read(t, b.Real(filepath.Join("/nix/store", filepath.Base(out)))) != want.String() {
				t.Errorf("%s: the client's copy is another", w.name)
			}
		}
		s.idle(t)
		if r := s.Run("verify"); r.Code != 0 {
			t.Errorf("narfs verify exited with %d: %s%s", r.Code, r.Stdout, r.Stderr)
		}
	})
}

// TestBuildTrouble: builds that fail, hang, or say too much end as they should, and the daemon goes on, without taking more memory.
func TestBuildTrouble(t *testing.T) {
	t.Parallel()
	eachRelease(t, func(t *testing.T, c *client) {
		t.Helper()
		s := serveStore(t, forBuilds()...)
		for i, w := range buildWays() {
			if i%2 == 1 {
				continue // the same for the daemon
			}
			b := s.building(t, c, w)
			flood := 4 << 20
			if env.Long().Err() == nil {
				flood = 64 << 20
				if c.version == "2.34.8" {
					flood = 1 << 30 // minutes
				}
			}
			for _, trouble := range []struct {
				script  string
				options []string
				want    string // in what the client says; "" if the build ends well
			}{
				{"echo that is all; exit 3", nil, "that is all"},
				{"echo begun; sleep 1000", []string{"--timeout", "1"}, "timed out after 1 seconds"},
				{"while true; do echo x; sleep 0.1; done", []string{"--timeout", "2", "--max-silent-time", "1"}, "timed out after 2 seconds"},
				{"echo begun; exec sleep 1000", []string{"--max-silent-time", "1"}, "timed out after 1 seconds of silence"},
				{"yes", []string{"--option", "max-build-log-size", "100000"}, "killed after writing more than 100000 bytes of log output"},
				{fmt.Sprintf("yes a line of a log that says too much | head -c %d; echo > $out", flood), nil, ""},
				{fmt.Sprintf("head -c %d /dev/zero | tr '\\\\0' x; echo > $out", flood), nil, ""},
				{"echo > $out", nil, ""},
			} {
				begun := time.Now()
				cmd := b.build(t, fmt.Sprintf(`mk "trouble-%d" "%s" { }`, i, trouble.script), trouble.options...)
				heard := &ends{}
				cmd.Stderr = heard
				r := env.Run(t, cmd)
				if (r.Code != 0) != (trouble.want != "") || !strings.Contains(heard.String(), trouble.want) {
					t.Errorf("%s of %q exited with %d: %s", w.name, trouble.script, r.Code, heard.String())
				}
				took := time.Since(begun)
				t.Logf("%6.2f s  %s of %.60q; the daemon has had %d MiB", took.Seconds(), w.name, trouble.script, s.peak(t)>>20)
			}
			s.idle(t)
		}
		const limit = 400 << 20
		if peak := s.peak(t); peak > limit {
			t.Errorf("the daemon has had %d MiB; want at most %d", peak>>20, limit>>20)
		}
	})
}

// ends keeps the beginning and the end of what is written.
type ends struct{ first, last bytes.Buffer }

const endSize = 64 << 10

// Write implements io.Writer.
func (e *ends) Write(p []byte) (int, error) {
	n := len(p)
	if room := endSize - e.first.Len(); room > 0 {
		e.first.Write(p[:min(room, n)])
	}
	e.last.Write(p)
	if extra := e.last.Len() - endSize; extra > endSize {
		e.last.Next(extra)
	}
	return n, nil
}

func (e *ends) String() string { return plain(e.first.String() + "…" + e.last.String()) }

// TestBuildKilled: of a client that is interrupted or killed in the middle of a build, the builder is gone within a second, and nothing else
// is left.
func TestBuildKilled(t *testing.T) {
	t.Parallel()
	eachRelease(t, func(t *testing.T, c *client) {
		t.Helper()
		s := serveStore(t, forBuilds()...)
		for _, w := range buildWays() {
			for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
				b := s.building(t, c, w)
				token := strconv.Itoa(1_000_000 + rand.IntN(1_000_000_000))
				cmd := b.build(t, `mk "long" "(sleep `+token+` &); setsid sleep `+token+` & sleep `+token+`" { }`)
				cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
				p := env.Start(t, cmd)
				env.Eventually(t, "the builder runs", func() (bool, error) {
					select {
					case <-p.Done():
						return false, fmt.Errorf("%s exited with %d: %s", w.name, p.Wait(), p.Output())
					default:
					}
					return sleepers(t, token) == 3, nil
				})
				if n := rows(t, s.Store, "sessions"); n == 0 {
					t.Errorf("%s: narfs sessions shows none", w.name)
				}
				begun := time.Now()
				to := p.PID()
				if signal == syscall.SIGINT {
					to = -to // as a terminal does: to all in the foreground
				}
				if err := syscall.Kill(to, signal); err != nil {
					t.Fatal(err)
				}
				env.Eventually(t, "the builder is gone", func() (bool, error) { return sleepers(t, token) == 0, nil })
				if took := time.Since(begun); took > time.Second {
					t.Errorf("%s, %v: the builder is gone after %v; want a second at most", w.name, signal, took)
				} else {
					t.Logf("%s, %v: the builder is gone after %v", w.name, signal, took)
				}
				p.Wait()
				env.Eventually(t, "what it held is free", func() (bool, error) {
					var locks []any
					if err := json.Unmarshal([]byte(s.Must("locks", "--json")), &locks); err != nil {
						return false, err
					}
					left, err := os.ReadDir(filepath.Join(s.State, "builds"))
					return len(locks) == 0 && len(left) == 0, err
				})
				if took := time.Since(begun); took > 2*time.Second {
					t.Errorf("%s, %v: all is free after %v", w.name, signal, took)
				}
				s.idle(t)
			}
		}
	})
}

// sleepers counts the processes that sleep for so many seconds.
func sleepers(t *testing.T, token string) (n int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		if line, err := os.ReadFile(name); err == nil && string(line) == "sleep\x00"+token+"\x00" {
			n++
		}
	}
	return n
}

// TestBuildLargeInput builds something that reads a file of a GiB in the store.
func TestBuildLargeInput(t *testing.T) {
	t.Parallel()
	env.Require(t, env.Long())
	eachRelease(t, func(t *testing.T, c *client) {
		t.Helper()
		s := serveStore(t, forBuilds()...)
		large := filepath.Join(env.Dir(t), "large")
		env.Must(t, exec.CommandContext(t.Context(), "sh", "-c", "head -c 1073741824 /dev/urandom > "+large))
		want := strings.Fields(env.Must(t, exec.CommandContext(t.Context(), "sha256sum", large)))[0]
		path := s.Must("-q", "add", large)
		for i, w := range buildWays() {
			b := s.building(t, c, w)
			if w.builder {
				env.Must(t, b.Command("nix-store", "--add", "/etc/hostname")) // makes the store
				copied := exec.CommandContext(t.Context(), "cp", large, filepath.Join(b.Root, "large"))
				env.Must(t, copied)
				if got := b.must(t, "nix-store", "--add", filepath.Join(b.Root, "large")); got != path {
					t.Fatalf("added as %s; want %s", got, path)
				}
			}
			begun := time.Now()
			expression := fmt.Sprintf(`mk "sum-%d" "sha256sum < ${builtins.storePath %s} | tee $out" { }`, i, path)
			if r := env.Run(t, b.build(t, expression)); r.Code != 0 || !strings.Contains(r.Stderr, want) {
				t.Errorf("%s exited with %d: %s", w.name, r.Code, r.Stderr)
			}
			t.Logf("%6.2f s  %s; the daemon has had %d MiB", time.Since(begun).Seconds(), w.name, s.peak(t)>>20)
		}
		s.idle(t)
	})
}
