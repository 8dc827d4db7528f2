package interop_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/narfs/narfs/tests/env"
	"github.com/narfs/narfs/tests/env/closure"
	"github.com/narfs/narfs/tests/env/serve"
)

// TestCopyKilled kills real clients in the middle of copies, beside collections and a reader of the mount. Each time the session and its locks
// are gone, what is there is whole, and what the client had been told is there. Then the same copy is done to its end.
func TestCopyKilled(t *testing.T) {
	paths, large, kills := 120, int64(8<<20), 2
	if env.Long().Err() == nil {
		paths, large, kills = 300, 48<<20, 25
	}
	all, err := closure.Large(paths, large, "killed")
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range releases() {
		t.Run(r.version, func(t *testing.T) {
			c := newClient(t, r)
			full := c.nix(t, env.NewStore(t))
			full.fill(t, all)
			for k, w := range ways() {
				t.Run(w.name, func(t *testing.T) {
					rng := rand.New(rand.NewPCG(uint64(i), uint64(k)))
					copyKilled(t, &local{Nix: full.Nix, client: c, host: env.NewStore(t)}, w, all, kills, rng)
				})
			}
		})
	}
}

func copyKilled(t *testing.T, l *local, w way, all *closure.Closure, kills int, rng *rand.Rand) {
	t.Helper()
	s := l.host
	var stop atomic.Bool
	var beside sync.WaitGroup
	defer beside.Wait()
	defer stop.Store(true)
	var files, vanished, collections atomic.Int64
	m := ownerOf(t, s)
	if m != nil {
		beside.Go(func() {
			if err := env.ReadAll(m.Dir, &stop, &files, &vanished); err != nil {
				t.Errorf("reading the mount: %v", err)
			}
		})
	}
	var collecting sync.Mutex // who has it keeps collections from beginning
	collect := func() {
		collecting.Lock()
		defer collecting.Unlock()
		r := s.Run("gc", "--quiet")
		collections.Add(1)
		// Where each client starts an owner, there may be no store yet.
		if r.Code != 0 && !strings.Contains(r.Stderr, "no store in") {
			t.Errorf("narfs gc exited with %d: %s", r.Code, r.Stderr)
		}
	}
	beside.Go(func() {
		for !stop.Load() {
			collect()
		}
	})

	// By the worker protocol all paths come in one operation: that the client begins with one does not mean that it has been told of the
	// one before.
	eachAcknowledged := w.name != "ssh-ng"
	killed, kept := 0, 0
	for round := range kills {
		rooted := map[string]bool{}
		for _, o := range all.Objects {
			rooted[o.Path] = rng.IntN(3) == 0
		}
		keepOnly(t, s, rooted)
		k := &kill{client: l, way: w, all: all, at: 10 + rng.IntN(len(all.Objects)/2), delay: time.Duration(rng.IntN(20)) * time.Millisecond}
		if round%3 == 1 {
			k.at, k.delay = 0, time.Duration(rng.IntN(80))*time.Millisecond // the large one
		}
		if round%3 < 2 { // what is left of the round before is not to be there
			collect()
		}
		told, ok := k.run(t)
		if !eachAcknowledged {
			told = nil
		}
		if ok {
			killed++
		}
		collecting.Lock()
		there := closureOf(all, func(o *closure.Object) bool { return told[o.Path] && rooted[o.Path] })
		kept += len(there)
		mustBeThere(t, s, there)
		for _, what := range []string{"sessions", "locks"} {
			env.Eventually(t, "no "+what+" are left", func() (bool, error) { return rows(t, s, what) == 0, nil })
		}
		collecting.Unlock()
		if r := s.Run("verify"); r.Code != 0 {
			t.Errorf("round %d: narfs verify exited with %d: %s%s", round, r.Code, r.Stdout, r.Stderr)
		}
	}
	keepOnly(t, s, map[string]bool{all.Top(): true})
	l.must(t, w.to[0], append(w.to[1:], all.Top())...)
	collect()
	stop.Store(true)
	beside.Wait()
	checkHost(t, s, m, all)
	t.Logf("%d of %d copies were killed; %d paths had been acknowledged and have a root, or are referred to; %d collections; %d files read in the mount, %d vanished first",
		killed, kills, kept, collections.Load(), files.Load(), vanished.Load())
	if killed == 0 || eachAcknowledged && kept == 0 || collections.Load() == 0 {
		t.Error("the test shows nothing")
	}
}

// keepOnly makes links in gcroots to some paths, which need not be there yet: clients have no way to make a root of a path before their session
// ends. Others are taken away.
func keepOnly(t *testing.T, s *env.Store, paths map[string]bool) {
	t.Helper()
	dir := filepath.Join(s.State, "gcroots", "test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	links, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if err := os.Remove(filepath.Join(dir, link.Name())); err != nil {
			t.Fatal(err)
		}
	}
	for path, is := range paths {
		if !is {
			continue
		}
		if err := os.Symlink(path, filepath.Join(dir, filepath.Base(path))); err != nil {
			t.Fatal(err)
		}
	}
}

// closureOf returns some objects of a closure and all that they refer to.
func closureOf(c *closure.Closure, is func(o *closure.Object) bool) (objects []*closure.Object) {
	in := map[string]bool{}
	for _, o := range slices.Backward(c.Objects) { // before its references
		if in[o.Path] || is(o) {
			objects = append(objects, o)
			for _, r := range o.References {
				in[r] = true
			}
		}
	}
	return objects
}

// ownerOf starts an owner of a store, with a mount if this machine can.
func ownerOf(t *testing.T, s *env.Store) *env.Mount {
	t.Helper()
	if err := env.Fuse().Err(); err != nil {
		t.Logf("without a mount: %v", err)
		return nil // each client starts an owner
	}
	return s.Mount()
}

// mustBeThere fails the test unless a store has objects, and says what is so about them.
func mustBeThere(t *testing.T, s *env.Store, objects []*closure.Object) {
	t.Helper()
	c := &closure.Closure{Objects: objects}
	session := serve.Start(t, s.Command("serve"))
	infos, err := session.PathInfos(c.Paths())
	if err != nil {
		t.Fatal(session.End(err))
	}
	compareInfos(t, c, infos)
	if err := session.Close(); err != nil {
		t.Error(err)
	}
}

// kill is a copy that is killed.
type kill struct {
	client *local
	way    way
	all    *closure.Closure
	at     int           // after the beginning of so many paths, or of the large one if 0
	delay  time.Duration // and so much time
}

// copying is how all Nix say that they begin with a path.
var copying = regexp.MustCompile(`copying path '(/nix/store/[^']+)'`)

// run copies and reports whether the client was killed in the middle, and of which paths it had been told that they are there: all that a
// path refers to with which it had begun.
func (k *kill) run(t *testing.T) (told map[string]bool, killed bool) {
	t.Helper()
	byPath := map[string]*closure.Object{}
	large := k.all.Objects[0]
	for _, o := range k.all.Objects {
		byPath[o.Path] = o
		if o.Size > large.Size {
			large = o
		}
	}
	cmd := k.client.Command(k.way.to[0], slices.Concat(k.way.to[1:], []string{"-v", k.all.Top()})...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var timer *time.Timer
	told = map[string]bool{}
	begun := 0
	var said strings.Builder
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		fmt.Fprintln(&said, lines.Text())
		match := copying.FindStringSubmatch(lines.Text())
		if match == nil || byPath[match[1]] == nil {
			continue
		}
		begun++
		o := byPath[match[1]]
		for _, r := range o.References {
			told[r] = told[r] || r != o.Path
		}
		if timer == nil && (begun == k.at || k.at == 0 && o == large) {
			timer = time.AfterFunc(k.delay, func() { _ = cmd.Process.Kill() })
		}
	}
	err = cmd.Wait() // all who had its error output are gone
	if timer != nil {
		timer.Stop()
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	killed = ok && status.Signal() == syscall.SIGKILL
	if err != nil && !killed { // it may have been faster
		t.Errorf("the client ends with %v and said:\n%s", err, said.String())
	}
	return told, killed
}
