package stress_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/narfs/narfs/tests/env"
)

// The owner is killed at any point, during copies and collections: what was acknowledged and has a root is there and whole when the next
// one begins, nothing half is visible, and a collection takes the rest.
func TestKilledOwner(t *testing.T) {
	t.Parallel()
	kills := count(t, "NARFS_STRESS_KILLS", 10, 300)
	s := env.NewStore(t)
	acked := map[string]bool{}
	var mu sync.Mutex // guards acked
	acknowledged, collections := 0, 0
	rng := rand.New(rand.NewPCG(uint64(kills), 11))
	for round := range kills {
		p := start(t, s)
		// What was acknowledged before, but for what the collector may have taken: that has no root.
		mu.Lock()
		var all []string
		for path := range acked {
			all = append(all, path)
		}
		mu.Unlock()
		mustBeIn(t, s, all)
		if got := s.Run("verify"); got.Code != 0 {
			t.Fatalf("after kill %d: verify: %s%s", round, got.Stdout, got.Stderr)
		}

		var stop atomic.Bool
		var work sync.WaitGroup
		for worker := range 2 {
			work.Go(func() {
				for i := 0; !stop.Load(); i++ {
					c := many(t, 12, fmt.Sprintf("kill %d %d %d", round, worker, i))
					// Links in gcroots, made before: they keep what will be there.
					for _, o := range c.Objects {
						keep(t, s, o.Path)
					}
					session, err := upload(&stop, s, c.Objects, func(path string) {
						mu.Lock()
						defer mu.Unlock()
						acked[path] = true
						acknowledged++
					})
					if err != nil {
						return // the owner is gone
					}
					_ = session.Close()
					rubbish := many(t, 6, fmt.Sprintf("rubbish %d %d %d", round, worker, i))
					if session, err = upload(&stop, s, rubbish.Objects, func(string) {}); err != nil {
						return
					}
					_ = session.Close()
				}
			})
		}
		work.Go(func() {
			for !stop.Load() {
				if got := s.Run("gc", "--quiet"); got.Code != 0 {
					return // the owner is gone
				}
				collections++
			}
		})
		timer := time.NewTimer(time.Duration(50+rng.IntN(400)) * time.Millisecond)
		<-timer.C
		p.Kill()
		p.Wait()
		stop.Store(true)
		work.Wait()
	}
	t.Logf("%d kills; %d paths were acknowledged, %d collections ended", kills, acknowledged, collections)
	if acknowledged == 0 {
		t.Error("nothing was acknowledged: the test shows nothing")
	}
	// Without roots all space comes back.
	if err := os.RemoveAll(filepath.Join(s.State, "gcroots")); err != nil {
		t.Fatal(err)
	}
	s.Must("gc")
	if got := s.Must("ls", "-1"); strings.TrimSpace(got) != "" {
		t.Errorf("after the last collection ls prints %q", got)
	}
	if got := s.Run("verify"); got.Code != 0 {
		t.Errorf("verify: %s%s", got.Stdout, got.Stderr)
	}
	if size := packs(t, s); size > 1<<20 {
		t.Errorf("the packs of an empty store still have %d bytes", size)
	}
}

// keep makes a root of a path that need not be there yet.
func keep(t *testing.T, s *env.Store, path string) {
	t.Helper()
	link := filepath.Join(s.State, "gcroots", "kept", filepath.Base(path))
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		t.Error(err)
	}
	if err := os.Symlink(path, link); err != nil && !os.IsExist(err) {
		t.Error(err)
	}
}

// packs returns the sum of the sizes of a store's packs.
func packs(t *testing.T, s *env.Store) (size int64) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(s.State, "store/packs/*.pack"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	return size
}
