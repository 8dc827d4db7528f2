package stress_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/narfs/narfs/tests/env"
)

// Copies that share much, a collector in a loop, clients that are killed, and a reader in the mount: nothing is lost that a root or
// a session keeps, and nothing is left of those who are gone.
func TestCopiesBesideCollector(t *testing.T) {
	t.Parallel()
	copies := count(t, "NARFS_STRESS_COPIES", 20, 200)
	s := env.NewStore(t)
	var args []string
	dir := ""
	if env.Fuse().Err() == nil {
		dir = filepath.Join(env.Dir(t), "mnt")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		args = []string{"--mount", dir}
		t.Cleanup(func() { env.UnmountBelow(t, dir) })
	} else {
		t.Logf("without a mount: %v", env.Fuse().Err())
	}
	p := start(t, s, args...)
	base := many(t, 60, "shared")
	warm, err := upload(&atomic.Bool{}, s, base.Objects[:10], func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := warm.Close(); err != nil {
		t.Fatal(err)
	}
	s.Must("gc")
	before := countsOf(t, s)

	var stop atomic.Bool
	defer stop.Store(true)
	var beside sync.WaitGroup
	var collections, reads, vanished, killed atomic.Int64
	beside.Go(func() {
		for !stop.Load() {
			if got := s.Run("gc", "--quiet"); got.Code != 0 {
				t.Errorf("gc exited with %d: %s", got.Code, got.Stderr)
				return
			}
			collections.Add(1)
		}
	})
	if dir != "" {
		beside.Go(func() {
			if err := env.ReadAll(dir, &stop, &reads, &vanished); err != nil {
				t.Errorf("reading the mount: %v", err)
			}
		})
	}
	// Three at a time; each sends some of the shared objects, and a few of its own.
	var rooted sync.Map // path → all that must be there
	queue := make(chan int)
	var workers sync.WaitGroup
	for range 3 {
		workers.Go(func() {
			for i := range queue {
				rng := rand.New(rand.NewPCG(uint64(i), 3))
				own := many(t, 8, fmt.Sprint("own ", i))
				objects := slices.Concat(base.Objects[:20+rng.IntN(40)], own.Objects)
				var kill atomic.Bool
				var timer *time.Timer
				if rng.IntN(3) == 0 { // this client is killed in the middle
					killed.Add(1)
					timer = time.AfterFunc(time.Duration(rng.IntN(60))*time.Millisecond, func() { kill.Store(true) })
				}
				session, err := upload(&kill, s, objects, func(string) {})
				if err == nil {
					// A root is made while the session keeps what it sent.
					s.Must("roots", "add", "--name", fmt.Sprint("copy-", i), own.Top())
					rooted.Store(own.Top(), own.Paths())
					if rng.IntN(2) == 0 {
						session.Kill()
					}
					_ = session.Close()
				} else if !kill.Load() {
					t.Errorf("copy %d: %v", i, err)
				}
				if timer != nil {
					timer.Stop()
				}
			}
		})
	}
	for i := range copies {
		queue <- i
	}
	close(queue)
	workers.Wait()
	stop.Store(true)
	beside.Wait()

	kept := 0
	rooted.Range(func(_, paths any) bool {
		kept++
		mustBeIn(t, s, paths.([]string))
		return true
	})
	if got := s.Run("verify"); got.Code != 0 {
		t.Errorf("verify: %s%s", got.Stdout, got.Stderr)
	}
	nothingLeft(t, s, before)
	t.Logf("%d copies, of which %d were to be killed and %d have roots; %d collections; %d files read in the mount, %d vanished first",
		copies, killed.Load(), kept, collections.Load(), reads.Load(), vanished.Load())
	if kept == 0 || collections.Load() == 0 {
		t.Error("the test shows nothing")
	}
	if code := p.Stop(); code != 0 {
		t.Errorf("the daemon exited with %d: %s", code, p.Output())
	}
}

// nothingLeft checks that clients who are gone have left nothing in the owner.
func nothingLeft(t *testing.T, s *env.Store, before counts) {
	t.Helper()
	for _, what := range []string{"locks", "sessions"} {
		env.Eventually(t, "no "+what+" are left", func() (bool, error) {
			var list []any
			err := json.Unmarshal([]byte(s.Must(what, "--json")), &list)
			return len(list) == 0, err
		})
	}
	const slack = 4 // goroutines of Badger and of the runtime come and go
	env.Eventually(t, fmt.Sprintf("counts as before, %+v", before), func() (bool, error) {
		now := countsOf(t, s)
		if now.Goroutines <= before.Goroutines+slack && now.descriptors <= before.descriptors+slack && now.Budget == 0 {
			t.Logf("goroutines %d before and %d after, descriptors %d and %d", before.Goroutines, now.Goroutines, before.descriptors, now.descriptors)
			return true, nil
		}
		return false, nil
	})
}
