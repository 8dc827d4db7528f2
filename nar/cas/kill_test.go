package cas_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/narfs/narfs/nar/cas"
)

// childEnv names the folder of the store in which a test binary that is started again works
// until it is killed.
const childEnv = "NARFS_CAS_TEST_CHILD"

func TestMain(m *testing.M) {
	dir := os.Getenv(childEnv)
	if dir == "" {
		m.Run()
		return
	}
	if err := child(dir, os.Stdout); err != nil {
		panic(err)
	}
}

// child imports, deletes and sweeps for ever. It tells what it begins and what was acknowledged.
func child(dir string, out io.Writer) error {
	seed, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64)
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(seed, 9))
	o := small()
	o.PackSize = 24 << 10
	s, err := cas.Open(dir, o)
	if err != nil {
		return err
	}
	var t childTB
	w := newWorkload(t)
	for i, a := range w.archives {
		_, err := s.Object(a.hash)
		w.state[i] = err == nil
	}
	for step := 0; ; step++ {
		i := rng.IntN(len(w.archives))
		if step%9 == 8 {
			if _, err := s.Sweep(t.Context(), cas.SweepOptions{Compress: step%2 == 0}); err != nil {
				return err
			}
			continue
		}
		if _, err := fmt.Fprintln(out, "begin", i); err != nil {
			return err
		}
		if err := w.toggle(t, s, i); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(out, "done", i, w.state[i]); err != nil {
			return err
		}
	}
}

// childTB stands for a test where there is none.
type childTB struct{ testing.TB }

func (childTB) Helper()                  {}
func (childTB) Context() context.Context { return context.Background() }
func (childTB) Fatal(args ...any)        { panic(fmt.Sprint(args...)) }

// victim is a child process and what it said.
type victim struct {
	cmd   *exec.Cmd
	begun chan struct{} // closed when it said something
	lines chan []string // all it said, once it has ended
}

func startVictim(tb testing.TB, dir string, seed int) *victim {
	tb.Helper()
	v := &victim{cmd: exec.Command(os.Args[0]), begun: make(chan struct{}), lines: make(chan []string, 1)}
	v.cmd.Env = append(os.Environ(), childEnv+"="+dir, "SEED="+strconv.Itoa(seed))
	out, err := v.cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := v.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() {
		var all []string
		in := bufio.NewScanner(out)
		for in.Scan() {
			if all = append(all, in.Text()); len(all) == 1 {
				close(v.begun)
			}
		}
		if len(all) == 0 {
			close(v.begun)
		}
		v.lines <- all
	}()
	<-v.begun
	return v
}

// kill ends the child without warning, takes over what it acknowledged, and returns the number of
// changes. A child whose disk failed may have ended itself.
func (v *victim) kill(tb testing.TB, w *workload) (changes int) {
	tb.Helper()
	_ = v.cmd.Process.Kill()
	all := <-v.lines
	if err := v.cmd.Wait(); err == nil {
		tb.Fatal("the child ended by itself and without an error")
	}
	w.unsure = -1
	for _, line := range all {
		var i int
		var there bool
		if _, err := fmt.Sscanf(line, "done %d %t", &i, &there); err == nil {
			w.state[i], w.unsure = there, -1
			changes++
		} else if _, err := fmt.Sscanf(line, "begin %d", &i); err == nil {
			w.unsure = i
		}
	}
	return changes
}

// settle makes what is there the state to expect: the change under way is decided now.
func (w *workload) settle(s *cas.Store) {
	for i, a := range w.archives {
		_, err := s.Object(a.hash)
		w.state[i] = err == nil
	}
	w.unsure = -1
}

// A process is killed at a random moment, again and again in one store: what it acknowledged
// is there, nothing is there in part, and its successor goes on.
func TestKill(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	w := newWorkload(t)
	rng := rand.New(rand.NewPCG(1, 2))
	changes := 0
	for run := range longRuns(300, 12) {
		v := startVictim(t, dir, run)
		time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
		changes += v.kill(t, w)
		o := small()
		o.PackSize = 24 << 10
		s := open(t, dir, o)
		w.holds(t, s)
		w.settle(s)
		closeStore(t, s)
	}
	if changes == 0 {
		t.Error("no child came to change anything")
	}
	t.Logf("%d changes were acknowledged", changes)
}
