package interop_test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/narfs/narfs/tests/env"
	"github.com/narfs/narfs/tests/env/closure"
)

// way is how a client copies: the command, with what follows it for each direction.
type way struct {
	name     string
	to, from []string
	mounted  bool // narfs is mounted all the while
}

func ways() []way {
	return []way{
		{name: "nix-copy-closure", to: []string{"nix-copy-closure", "--to", host}, from: []string{"nix-copy-closure", "--from", host}},
		{
			name: "nix-copy", mounted: true,
			to: []string{"nix", "copy", "--to", "ssh://" + host}, from: []string{"nix", "copy", "--no-check-sigs", "--from", "ssh://" + host},
		},
		{
			name: "ssh-ng", mounted: true,
			to: []string{"nix", "copy", "--no-check-sigs", "--to", "ssh-ng://" + host}, from: []string{"nix", "copy", "--no-check-sigs", "--from", "ssh-ng://" + host},
		},
	}
}

// eachRelease runs a test with a client of every release.
func eachRelease(t *testing.T, test func(t *testing.T, c *client)) {
	t.Helper()
	for _, r := range releases() {
		t.Run(r.version, func(t *testing.T) {
			t.Parallel()
			test(t, newClient(t, r))
		})
	}
}

// TestCopy copies a closure of everything special to narfs, back from there, and asks about it.
func TestCopy(t *testing.T) {
	t.Parallel()
	eachRelease(t, func(t *testing.T, c *client) {
		t.Helper()
		mixed, err := closure.Mixed("copy " + c.version)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range ways() {
			t.Run(w.name, func(t *testing.T) { roundTrip(t, c, w, mixed, true) })
		}
	})
}

// TestCopyMany copies 2,000 small paths to narfs and back.
func TestCopyMany(t *testing.T) {
	t.Parallel()
	many, err := closure.Many(2000, "many")
	if err != nil {
		t.Fatal(err)
	}
	eachRelease(t, func(t *testing.T, c *client) {
		t.Helper()
		w := ways()[1]
		w.from = ways()[0].from
		roundTrip(t, c, w, many, false)
	})
}

// TestCopyLarge copies 1 GB to narfs and back: programs, sources and what does not compress.
func TestCopyLarge(t *testing.T) {
	env.Require(t, env.Long())
	dir := env.Dir(t)
	for i, size := range []int64{1 << 20, 30 << 20, 400 << 20} {
		large := filepath.Join(dir, fmt.Sprint("large-", i))
		if err := os.Mkdir(large, 0o755); err != nil {
			t.Fatal(err)
		}
		makeLarge(size)(t, large)
	}
	dirs := []string{"/usr/include", "/usr/lib/gcc", "/usr/bin", strings.TrimSpace(env.Must(t, exec.Command("go", "env", "GOROOT")))}
	for i := range 3 {
		dirs = append(dirs, filepath.Join(dir, fmt.Sprint("large-", i)))
	}
	all, err := closure.Trees("large", dirs)
	if err != nil {
		t.Fatal(err)
	}
	if t.Logf("%d paths, %d bytes", len(all.Objects), all.Size()); all.Size() < 1e9 {
		t.Errorf("the closure has %d bytes; want 1 GB", all.Size())
	}
	for _, r := range releases() {
		t.Run(r.version, func(t *testing.T) {
			c := newClient(t, r)
			for _, w := range ways() {
				t.Run(w.name, func(t *testing.T) { roundTrip(t, c, w, all, false) })
			}
		})
	}
}

// roundTrip copies a closure from a client to narfs and from there into an empty store of the same client.
func roundTrip(t *testing.T, c *client, w way, all *closure.Closure, ask bool) {
	t.Helper()
	s := env.NewStore(t)
	full := c.nix(t, s)
	full.fill(t, all)
	// Where nobody owns the store, each command of the client starts an owner. Where a mount does, it must show what comes.
	var m *env.Mount
	if w.mounted && env.Fuse().Err() == nil {
		m = s.Mount()
	}
	full.must(t, w.to[0], append(w.to[1:], all.Top())...)
	checkHost(t, s, m, all)
	empty := c.nix(t, s)
	empty.must(t, w.from[0], append(w.from[1:], all.Top())...)
	empty.check(t, all)
	if ask {
		pathInfo(t, empty, all)
	}
	if m != nil {
		m.Unmount()
	}
}

// pathInfo compares what nix path-info says over ssh with what is so.
func pathInfo(tb testing.TB, l *local, c *closure.Closure) {
	tb.Helper()
	sizes := closureSizes(c)
	lines := strings.Split(l.must(tb, "nix", "path-info", "-rS", "--store", "ssh://"+host, c.Top()), "\n")
	if len(lines) != len(c.Objects) {
		tb.Errorf("nix path-info -r shows %d paths; want %d", len(lines), len(c.Objects))
	}
	for _, line := range lines {
		fields := strings.Fields(line)
		if len(fields) != 2 || fields[1] != strconv.FormatInt(sizes[fields[0]], 10) {
			tb.Errorf("nix path-info -rS shows %q; want a size of %d", line, sizes[fields[0]])
		}
	}
}

// closureSizes adds up, for each path, the sizes of all that it leads to.
func closureSizes(c *closure.Closure) map[string]int64 {
	sizes, reached := map[string]int64{}, map[string]map[string]int64{}
	for _, o := range c.Objects { // after its references
		all := map[string]int64{o.Path: o.Size}
		for _, r := range o.References {
			maps.Copy(all, reached[r])
		}
		reached[o.Path] = all
		for _, size := range all {
			sizes[o.Path] += size
		}
	}
	return sizes
}
