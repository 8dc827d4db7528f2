package mount_test

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/narfs/narfs/tests/env"
)

func testTime() time.Time { return time.Unix(1_000_000_000, 0) }

// churn is a tree whose files all tell which tree it is, so that a reader can see whether he reads what he asked for.
func churn(tb testing.TB, dir string, i int) string {
	tb.Helper()
	tree := mkdir(tb, dir, fmt.Sprintf("churn%d", i))
	line := fmt.Sprintf("this is tree %d\n", i)
	for k := range 20 {
		write(tb, filepath.Join(tree, fmt.Sprintf("d%d", k%3), fmt.Sprintf("f%d", k)), strings.Repeat(line, 1+k*k*8), 0o644)
	}
	return tree
}

// readChurn reads a mounted churn tree and returns how many files that were. What is gone meanwhile is no error.
func readChurn(path string, i int) (files int, err error) {
	line := fmt.Sprintf("this is tree %d\n", i)
	err = filepath.WalkDir(path, func(name string, d iofs.DirEntry, err error) error {
		if isGone(err) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(name)
		if isGone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		k := 0
		if _, err := fmt.Sscanf(filepath.Base(name), "f%d", &k); err != nil {
			return fmt.Errorf("unknown file %s", name)
		}
		if string(b) != strings.Repeat(line, 1+k*k*8) {
			return fmt.Errorf("%s has %d bytes that are not its own", name, len(b))
		}
		files++
		return nil
	})
	return files, err
}

// isGone is true for what may happen to a reader when a path is deleted.
func isGone(err error) bool { return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESTALE) }

// TestChanges: sixteen readers go on reading, and read the right thing, while paths are added, deleted and swept away.
// What was added can be seen as soon as the command is done, what was deleted cannot.
func TestChanges(t *testing.T) {
	env.Require(t, env.Fuse())
	rounds := 12
	if env.Long().Err() == nil {
		rounds = 200
	}
	work := env.Dir(t)
	store := env.NewStore(t)
	const stable = 5
	var stays [stable]string
	for i := range stays {
		stays[i] = add(t, store, churn(t, work, i))
	}
	one, other := store.Mount(), store.Mount("--case-hack=on")

	var stop atomic.Bool
	var reads atomic.Int64
	var readers sync.WaitGroup
	for r := range 16 {
		readers.Go(func() {
			rnd := rand.New(rand.NewPCG(7, uint64(r)))
			mount := []string{one.Dir, other.Dir}[r%2]
			for !stop.Load() && !t.Failed() {
				i := rnd.IntN(stable)
				n, err := readChurn(filepath.Join(mount, stays[i]), i)
				if err != nil || n != 20 {
					t.Errorf("reading a path that stays gave %d files, %v; want 20", n, err)
				}
				reads.Add(int64(n))
				if err := readAny(mount, rnd); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := stable; i < stable+rounds && !t.Failed(); i++ {
		name := add(t, store, churn(t, work, i))
		for _, mount := range []*env.Mount{one, other} {
			if n, err := readChurn(filepath.Join(mount.Dir, name), i); err != nil || n != 20 {
				t.Errorf("reading what was just added gave %d files, %v; want 20", n, err)
			}
		}
		args := []string{"--quiet", "delete"}
		if i%4 == 0 {
			args = append(args, "--compact")
		}
		store.Must(append(args, name)...)
		for _, mount := range []*env.Mount{one, other} {
			if _, err := os.Lstat(filepath.Join(mount.Dir, name)); !isGone(err) {
				t.Errorf("Lstat of what was just deleted = %v; want that it does not exist", err)
			}
		}
	}
	stop.Store(true)
	readers.Wait()
	t.Logf("%d rounds, %d files read meanwhile", rounds, reads.Load())
	store.Must("verify")
	other.Unmount()
	one.Unmount()
}

// readAny reads whatever is in the store by now.
func readAny(mount string, rnd *rand.Rand) error {
	entries, err := os.ReadDir(mount)
	if err != nil {
		return err
	}
	e := entries[rnd.IntN(len(entries))]
	i := 0
	_, tail, _ := strings.Cut(e.Name(), "-churn")
	if _, err := fmt.Sscanf(tail, "%d", &i); err != nil {
		return fmt.Errorf("unknown path %s", e.Name())
	}
	_, err = readChurn(filepath.Join(mount, e.Name()), i)
	return err
}

// TestOpenFile: who has a file open, mapped or is in a folder when that is deleted, is not disturbed.
func TestOpenFile(t *testing.T) {
	env.Require(t, env.Fuse())
	work := env.Dir(t)
	tree := makeTree(t, mkdir(t, work, "tree"), 200)
	store := env.NewStore(t)
	name := add(t, store, tree)
	mount := store.Mount()
	const file = "d9/e3/file101" // large
	want, err := sum(filepath.Join(tree, file))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(mount.Dir, name, file))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read
	dir, err := os.Open(filepath.Join(mount.Dir, name, "d1"))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close() //nolint:errcheck // only read
	store.Must("--quiet", "delete", "--compact", name)
	for range 3 {
		write(t, filepath.Join(work, "other"), strings.Repeat("another one\n", 100_000), 0o644)
		add(t, store, filepath.Join(work, "other"))
	}
	if got, err := sum(fmt.Sprintf("/dev/fd/%d", f.Fd())); err != nil || got != want {
		t.Errorf("the open file reads as %s, %v; want %s", got, err, want)
	}
	if names, err := dir.Readdirnames(-1); err != nil || len(names) != 7 {
		t.Errorf("the open folder has %d names, %v; want 7", len(names), err)
	}
	_, _ = f.Close(), dir.Close()
	// Let go by everybody, its space comes back.
	env.Eventually(t, "the space comes back", func() (bool, error) {
		result := store.Run("--quiet", "compact", "--json")
		return result.Code == 0 && strings.Contains(store.Must("stats", "--json"), `"objects":1,`), nil
	})
	mount.Unmount()
}
