package mount_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
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

// churnFiles is how many files a churn tree has.
const churnFiles = 20

// churn is a tree whose files all tell which tree it is, so that a reader can see whether he reads what he asked for. Four
// trees in a row share most of their chunks.
func churn(tb testing.TB, dir string, i int) string {
	tb.Helper()
	tree := mkdir(tb, dir, fmt.Sprintf("churn%d", i))
	for k := range churnFiles {
		write(tb, filepath.Join(tree, fmt.Sprintf("d%d", k%3), fmt.Sprintf("f%d", k)), string(churnText(i, k)), 0o644)
	}
	return tree
}

// churnText is what file k of churn tree i holds.
func churnText(i, k int) []byte {
	text := make([]byte, k*k*k*40)
	_, _ = rand.NewChaCha8([32]byte{byte(i / 4), byte(k)}).Read(text)
	return append(text, fmt.Sprintf("this is file %d of tree %d\n", k, i)...)
}

// isGone is true for what may happen to who looks for something that was deleted.
func isGone(err error) bool { return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESTALE) }

// opened is an open file of a churn tree.
type opened struct {
	*os.File

	want []byte
}

// check reads the file to its end, and closes it.
func (f opened) check() error {
	defer f.Close() //nolint:errcheck // only read
	got, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, f.want) {
		return fmt.Errorf("%s has %d bytes that are not its own %d", f.Name(), len(got), len(f.want))
	}
	return nil
}

// openChurn opens a file of a churn tree by its name. What is gone meanwhile is no error.
func openChurn(name string, i int) (f opened, ok bool, err error) {
	k := 0
	if _, err := fmt.Sscanf(filepath.Base(name), "f%d", &k); err != nil {
		return f, false, fmt.Errorf("unknown file %s", name)
	}
	f.File, err = os.Open(name)
	if err != nil {
		if isGone(err) {
			err = nil
		}
		return f, false, err
	}
	f.want = churnText(i, k)
	return f, true, nil
}

// readChurn reads a mounted churn tree and returns how many files that were. What is gone meanwhile is no error; what was
// found can be read.
func readChurn(path string, i int) (files int, err error) {
	err = filepath.WalkDir(path, func(name string, d iofs.DirEntry, err error) error {
		if isGone(err) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		f, ok, err := openChurn(name, i)
		if ok {
			err = f.check()
			files++
		}
		return err
	})
	return files, err
}

// churner is a store with both views mounted, in which everything changes while sixteen readers read.
type churner struct {
	t      *testing.T
	store  *env.Store
	work   string
	mounts []*env.Mount
	stays  []string // base names of the churn trees 0, 1...
	next   atomic.Int64
	stop   atomic.Bool
	files  atomic.Int64 // read so far
	open   atomic.Int64 // of these: opened some time before
}

// read is one reader: he reads what stays, whatever else there is, and what he opened a while ago.
func (c *churner) read(r int) {
	rnd := rand.New(rand.NewPCG(7, uint64(r)))
	mount := c.mounts[r%len(c.mounts)].Dir
	var later []opened
	defer func() {
		for _, f := range later {
			if err := f.check(); err != nil {
				c.t.Errorf("reading what was opened before: %v", err)
			}
		}
	}()
	for !c.stop.Load() && !c.t.Failed() {
		i := rnd.IntN(len(c.stays))
		n, err := readChurn(filepath.Join(mount, c.stays[i]), i)
		if err != nil || n != churnFiles {
			c.t.Errorf("reading a path that stays gave %d files, %v; want %d", n, err, churnFiles)
		}
		c.files.Add(int64(n))
		name, i, err := c.any(mount, rnd)
		if err != nil {
			c.t.Error(err)
			return
		}
		if n, err = readChurn(filepath.Join(mount, name), i); err != nil {
			c.t.Error(err)
		}
		c.files.Add(int64(n))
		if name, i, err = c.any(mount, rnd); err != nil {
			c.t.Error(err)
			return
		}
		k := rnd.IntN(churnFiles)
		f, ok, err := openChurn(filepath.Join(mount, name, fmt.Sprintf("d%d", k%3), fmt.Sprintf("f%d", k)), i)
		if err != nil {
			c.t.Error(err)
		}
		if ok {
			later = append(later, f)
		}
		for len(later) > rnd.IntN(12) {
			if err := later[0].check(); err != nil {
				c.t.Errorf("reading what was opened before: %v", err)
			}
			later = later[1:]
			c.open.Add(1)
		}
	}
}

// any draws one of the paths that there are by now, and says which tree that is.
func (*churner) any(mount string, rnd *rand.Rand) (name string, i int, err error) {
	entries, err := os.ReadDir(mount)
	if err != nil {
		return "", 0, err
	}
	name = entries[rnd.IntN(len(entries))].Name()
	_, tail, _ := strings.Cut(name, "-churn")
	if _, err := fmt.Sscanf(tail, "%d", &i); err != nil {
		return "", 0, fmt.Errorf("unknown path %s", name)
	}
	return name, i, nil
}

// change adds or imports a path, which can be seen at once in both views, and deletes it, after which it cannot.
func (c *churner) change(round int) error {
	i := int(c.next.Add(1))
	tree := churn(c.t, c.work, i)
	defer os.RemoveAll(tree) //nolint:errcheck // the test's folder goes as a whole
	arg := []string{"--quiet", "add", tree}
	if round%2 == 1 {
		file, err := c.export(tree)
		if err != nil {
			return err
		}
		arg = []string{"--quiet", "import", file}
	}
	path, err := narfs(c.store, arg...)
	if err != nil {
		return err
	}
	name := filepath.Base(strings.TrimSpace(path))
	for _, mount := range c.mounts {
		if n, err := readChurn(filepath.Join(mount.Dir, name), i); err != nil || n != churnFiles {
			return fmt.Errorf("reading what was just added gave %d files, %w; want %d", n, err, churnFiles)
		}
	}
	arg = []string{"--quiet", "delete", "--ignore-roots", name}
	if round%4 < 2 {
		arg = append(arg, "--compact")
	}
	if _, err := narfs(c.store, arg...); err != nil {
		return err
	}
	for _, mount := range c.mounts {
		if _, err := os.Lstat(filepath.Join(mount.Dir, name)); !isGone(err) {
			return fmt.Errorf("Lstat of what was just deleted gave %w; want that it does not exist", err)
		}
	}
	return nil
}

// export adds a tree to a store of its own and exports it to a file.
func (c *churner) export(tree string) (file string, err error) {
	store := env.NewStore(c.t)
	path, err := narfs(store, "add", tree)
	if err != nil {
		return "", err
	}
	stream, err := narfs(store, "export", filepath.Base(strings.TrimSpace(path)))
	if err != nil {
		return "", err
	}
	file = filepath.Join(store.State, "export")
	return file, os.WriteFile(file, []byte(stream), 0o600)
}

// narfs is Store.Must for any goroutine.
func narfs(store *env.Store, arg ...string) (stdout string, err error) {
	result := store.Run(arg...)
	if result.Code != 0 {
		return "", fmt.Errorf("narfs %q exited with %d: %s", arg, result.Code, result.Stderr)
	}
	return result.Stdout, nil
}

// TestChanges: sixteen readers go on reading in both views, and read the right thing, while paths are added, imported, deleted and
// swept away by several others. What was added can be seen as soon as the command is done, what was deleted cannot, and
// what was open before that can be read to its end.
func TestChanges(t *testing.T) {
	env.Require(t, env.Fuse())
	rounds, lasts := 8, time.Duration(0)
	if env.Long().Err() == nil {
		lasts = 5 * time.Minute
	}
	c := &churner{t: t, store: env.NewStore(t), work: env.Dir(t)}
	const stable = 5
	for i := range stable {
		c.stays = append(c.stays, add(t, c.store, churn(t, c.work, i)))
	}
	c.next.Store(stable)
	c.mounts = []*env.Mount{c.store.Mount(), c.store.Mount("--case-hack=on")}

	var readers, writers sync.WaitGroup
	for r := range 16 {
		readers.Go(func() { c.read(r) })
	}
	begun := time.Now()
	var done atomic.Int64
	for w := range 2 {
		writers.Go(func() {
			for round := w; (round < rounds || time.Since(begun) < lasts) && !t.Failed(); round++ {
				if err := c.change(round); err != nil {
					t.Error(err)
				}
				done.Add(1)
			}
		})
	}
	writers.Wait()
	c.stop.Store(true)
	readers.Wait()
	t.Logf("%d rounds, %d files read meanwhile, and %d that had been open for a while", done.Load(), c.files.Load(), c.open.Load())
	c.store.Must("verify")
	for _, mount := range c.mounts {
		mount.Unmount()
	}
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
	store.Must("--quiet", "delete", "--ignore-roots", "--compact", name)
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
		return !strings.Contains(store.Must("--quiet", "compact", "--json"), `"chunks":0,`), nil
	})
	mount.Unmount()
}
