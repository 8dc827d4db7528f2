package mount_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/narfs/narfs/tests/env"
)

// holdings are what a process that serves mounts holds.
type holdings struct {
	files      int // open descriptors
	goroutines int
	memory     int // resident, KiB
	paths      int // store paths that the kernel knows something of, in all mounts
	trees      int // store paths that are in memory, in all mounts
}

// holdingsAfter adds, reads, deletes and sweeps away that many paths in a store with both views mounted, and then looks what the
// process of the mounts holds.
func holdingsAfter(t *testing.T, rounds int) (h holdings) {
	t.Helper()
	work := env.Dir(t)
	store := env.NewStore(t)
	write(t, filepath.Join(work, "stays"), "something that stays\n", 0o644)
	add(t, store, filepath.Join(work, "stays"))
	mounts := []*env.Mount{store.Mount(), store.Mount("--case-hack=on")}
	file := filepath.Join(work, "tree", "dir", "file")
	for i := range rounds {
		text := strings.Repeat(fmt.Sprintf("round %d\n", i), 1000)
		write(t, file, text, 0o644)
		name := add(t, store, filepath.Join(work, "tree"))
		for k, mount := range mounts {
			if i%2 == k { // one of them knows only the name
				continue
			}
			if got, err := os.ReadFile(filepath.Join(mount.Dir, name, "dir", "file")); err != nil || string(got) != text {
				t.Fatalf("round %d: ReadFile = %d bytes, %v; want %d", i, len(got), err, len(text))
			}
		}
		store.Must("--quiet", "delete", "--compact", name)
	}
	server := mounts[0].Server
	env.Eventually(t, "the kernel has let go of what was deleted", func() (bool, error) {
		store.Must("--quiet", "compact")
		var stats struct {
			Objects int
			Mounts  []struct{ KernelPaths, LoadedTrees int }
		}
		if err := json.Unmarshal([]byte(store.Must("stats", "--json")), &stats); err != nil {
			return false, err
		}
		h.paths, h.trees = 0, 0
		for _, m := range stats.Mounts {
			h.paths += m.KernelPaths
			h.trees += m.LoadedTrees
		}
		return h.paths <= len(mounts) && h.trees <= len(mounts), nil // what stays
	})
	proc := fmt.Sprintf("/proc/%d/", server.PID())
	files, err := os.ReadDir(proc + "fd")
	if err != nil {
		t.Fatal(err)
	}
	h.files = len(files)
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		t.Fatal(err)
	}
	rss := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status)
	if h.memory, err = strconv.Atoi(string(rss[1])); err != nil {
		t.Fatal(err)
	}
	server.Signal(syscall.SIGQUIT) // it tells of all goroutines and ends
	server.Wait()
	h.goroutines = len(regexp.MustCompile(`(?m)^goroutine \d+ `).FindAllString(server.Output(), -1))
	return h
}

// TestLeaks: what a mount holds does not grow with what has come and gone.
func TestLeaks(t *testing.T) {
	env.Require(t, env.Fuse())
	rounds := 40
	if env.Long().Err() == nil {
		rounds = 500
	}
	few, many := holdingsAfter(t, 4), holdingsAfter(t, rounds)
	t.Logf("after 4 rounds %+v, after %d %+v", few, rounds, many)
	// The index has a file more or less, go-fuse a reader; memory is what the last collection of garbage left.
	if many.files > few.files+rounds/4 || many.goroutines > few.goroutines+rounds/4 || many.memory > few.memory+40<<10 {
		t.Errorf("after %d rounds the process of the mounts holds %+v; after 4 rounds it held %+v", rounds, many, few)
	}
}
