package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/nar/cas"
)

// faults are the packs' files in memory, whose operations that change something fail from one on, until healed.
type faults struct {
	mu    sync.Mutex
	files map[string]*faultyFile
	left  int // operations until the first that fails
	err   error
}

type faultyFile struct {
	all *faults
	b   []byte
}

func (f *faults) fail() error {
	if f.left--; f.left < 0 {
		return f.err
	}
	return nil
}

func (f *faults) heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left = 1 << 30
}

func (f *faults) Create(name string) (cas.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail(); err != nil {
		return nil, err
	}
	f.files[name] = &faultyFile{all: f}
	return f.files[name], nil
}

func (f *faults) Open(name string) (cas.File, int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	file, ok := f.files[name]
	if !ok {
		return nil, 0, os.ErrNotExist
	}
	return file, int64(len(file.b)), nil
}

func (f *faults) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail(); err != nil {
		return err
	}
	delete(f.files, name)
	return nil
}

func (f *faults) List() (names []string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name := range f.files {
		names = append(names, name)
	}
	return names, nil
}

func (*faults) Free() (int64, error) { return 1 << 40, nil }

func (f *faultyFile) ReadAt(p []byte, off int64) (int, error) {
	f.all.mu.Lock()
	defer f.all.mu.Unlock()
	if off >= int64(len(f.b)) {
		return 0, io.EOF
	}
	n := copy(p, f.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *faultyFile) WriteAt(p []byte, off int64) (int, error) {
	f.all.mu.Lock()
	defer f.all.mu.Unlock()
	err := f.all.fail()
	if err != nil {
		p = p[:len(p)/2] // a part is written before a disk is full
	}
	if end := int(off) + len(p); end > len(f.b) {
		f.b = append(f.b, make([]byte, end-len(f.b))...)
	}
	return copy(f.b[off:], p), err
}

func (f *faultyFile) Truncate(size int64) error {
	f.all.mu.Lock()
	defer f.all.mu.Unlock()
	if err := f.all.fail(); err != nil {
		return err
	}
	f.b = append(f.b[:min(len(f.b), int(size))], make([]byte, max(0, int(size)-len(f.b)))...)
	return nil
}

func (f *faultyFile) PunchHole(off, n int64) error {
	f.all.mu.Lock()
	defer f.all.mu.Unlock()
	clear(f.b[off : off+n])
	return f.all.fail()
}

func (f *faultyFile) Sync() error {
	f.all.mu.Lock()
	defer f.all.mu.Unlock()
	return f.all.fail()
}

func (*faultyFile) Close() error { return nil }

// Whatever write or sync fails: what was acknowledged is there afterwards, and the rest is whole or absent.
func TestFaults(t *testing.T) {
	t.Parallel()
	step := 4
	if os.Getenv("NARFS_TEST_LONG") != "" {
		step = 1
	}
	for at, more := 0, true; more; at += step {
		more = failingAt(t, at, []error{syscall.ENOSPC, syscall.EIO}[at/step%2])
	}
}

// failingAt works with a store whose disk fails from one operation on, and reports whether it came that far.
func failingAt(t *testing.T, at int, fault error) (failed bool) {
	t.Helper()
	disk := &faults{files: map[string]*faultyFile{}, left: 1 << 30, err: fault}
	o := options()
	o.Content.Files = disk
	dir := t.TempDir()
	s, err := store.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	disk.mu.Lock()
	disk.left = at
	disk.mu.Unlock()
	valid := map[int]bool{}
	var refs []nix.StorePath
	for i := range 5 {
		archive := makeNAR(t, seeded(i))
		err := s.Import(t.Context(), infoOf(somePath(t, i, "p"), archive, refs...), bytes.NewReader(archive), store.ImportOptions{})
		failed = failed || err != nil
		valid[i] = err == nil
		if err == nil && i < 2 {
			refs = append(refs, somePath(t, i, "p"))
		} else if err != nil && !errors.Is(err, disk.err) && !errors.Is(err, store.ErrNotValid) {
			t.Errorf("failing at %d: Import = %v; want %v", at, err, disk.err)
		}
	}
	for _, i := range []int{4, 3} {
		err := s.Delete(t.Context(), somePath(t, i, "p"))
		failed = failed || err != nil
		valid[i] = false // after an error one cannot know
		if _, err := s.Sweep(t.Context(), store.SweepOptions{}); err != nil {
			failed = true
		}
	}
	if locks := s.Locks(); len(locks) > 0 {
		t.Errorf("failing at %d: locks are left: %v", at, locks)
	}
	_ = s.Close() // may say that it could not write
	disk.heal()
	if s, err = store.Open(dir, o); err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, s)
	mustVerify(t, s)
	for i := range 5 {
		ok, err := s.IsValid(somePath(t, i, "p"))
		if err != nil || valid[i] && !ok {
			t.Errorf("failing at %d: acknowledged path %d is valid: %v, %v", at, i, ok, err)
		}
		if ok && !bytes.Equal(readNAR(t, s, somePath(t, i, "p")), makeNAR(t, seeded(i))) {
			t.Errorf("failing at %d: path %d has other contents", at, i)
		}
	}
	return failed
}

const crashEnv = "NARFS_TEST_CRASH"

// TestCrashChild is not a test: it is the process that TestCrash kills. It imports and deletes, and says what is done.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv(crashEnv)
	if dir == "" {
		t.Skip("is run by TestCrash")
	}
	s, err := store.Open(dir, options())
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	say := func(what string, i int) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = fmt.Fprintln(os.Stdout, what, i)
	}
	var wg sync.WaitGroup
	for g := range 2 {
		wg.Go(func() {
			for i := g; ; i += 2 {
				p := somePath(t, i, "p")
				archive := makeNAR(t, seeded(i%50))
				if err := s.Import(context.Background(), infoOf(p, archive), bytes.NewReader(archive), store.ImportOptions{}); err != nil { //nolint:usetesting // it never ends
					panic(err)
				}
				say("valid", i)
				if i%3 == 0 {
					say("deleting", i)
					if err := s.Delete(context.Background(), p); err != nil { //nolint:usetesting // as above
						panic(err)
					}
					say("gone", i)
				}
			}
		})
	}
	wg.Go(func() {
		for {
			if _, err := s.Sweep(context.Background(), store.SweepOptions{}); err != nil { //nolint:usetesting // as above
				panic(err)
			}
		}
	})
	wg.Wait()
}

// A process is killed at random: what it had acknowledged is there afterwards, and nothing else is seen.
func TestCrash(t *testing.T) {
	t.Parallel()
	runs := 4
	if os.Getenv("NARFS_TEST_LONG") != "" {
		runs = 300
	}
	dir := filepath.Join(t.TempDir(), "state")
	state := map[int]string{} // the last word about each path of this run
	for run := range runs {
		ctx, cancel := context.WithCancel(t.Context())
		cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestCrashChild$", "-test.timeout=1m")
		cmd.Env = append(os.Environ(), crashEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(time.Duration(50+run*7919%400)*time.Millisecond, cancel)
		said, err := io.ReadAll(out)
		if err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		timer.Stop()
		clear(state)
		for line := range strings.Lines(string(said)) {
			what, n, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			if i, err := strconv.Atoi(n); ok && err == nil && slices.Contains([]string{"valid", "deleting", "gone"}, what) && strings.HasSuffix(line, "\n") {
				state[i] = what
			} else if strings.Contains(line, "panic") {
				t.Fatalf("the child failed: %s", said)
			}
		}
		s, err := store.Open(dir, options())
		if err != nil {
			t.Fatal(err)
		}
		mustVerify(t, s)
		for i, what := range state {
			ok, err := s.IsValid(somePath(t, i, "p"))
			if err != nil || ok && what == "gone" || !ok && what == "valid" {
				t.Errorf("run %d: path %d was said to be %s; it is valid: %v, %v", run, i, what, ok, err)
			}
		}
		for _, p := range allPaths(t, s) {
			readNAR(t, s, p)
		}
		// The next run imports the same paths.
		if err := s.Delete(t.Context(), allPaths(t, s)...); err != nil {
			t.Fatal(err)
		}
		mustClose(t, s)
	}
}
