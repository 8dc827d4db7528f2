package mount_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/narfs/narfs/tests/env"
)

// nameGroups hold names that collide with each other under one rule or another, or with what the hack makes of one.
func nameGroups() [][]string {
	return [][]string{
		{"readme", "Readme", "README", "readme~nix~case~hack~1", "Readme~nix~case~hack~2", "readme~nix~case~hack~1~nix~case~hack~1"},
		{"straße", "STRASSE", "strasse", "ſtrasse", "STRAẞE", "Straße~nix~case~hack~1"},
		{"é", "e\u0301", "É", "E\u0301", "é~nix~case~hack~1", "e\u0301~nix~case~hack~1"},
		{"K", "\u212a", "k", "K~NIX~CASE~HACK~1"},
		{"ﬁ", "fi", "FI", "fI"},
		{"ς", "σ", "Σ", "σ~nix~case~hack~0"},
		{"ı", "I", "i", "İ", "i\u0307"},
		{"x~nix~case~hack~1", "X~nix~case~hack~1", "x", "X", "x~nix~case~hack~2", "x~nix~case~hack~01", "x~nix~case~hack~"},
		{"~nix~case~hack~", "~NIX~CASE~HACK~1", "~nix~case~hack~1", "~nix~case~hack"},
		{"a.h", "A.h", "a.H", "A.H"},
		{"\xff", "\xfe\xff", "\xff~nix~case~hack~1"},
		{"Ǆ", "ǅ", "ǆ"},
		{strings.Repeat("a", 250), strings.Repeat("A", 250), strings.Repeat("a", 249) + "A", strings.Repeat("é", 127), strings.Repeat("É", 127)},
	}
}

// nameSets makes folders with names that collide in every way that package casefold knows of, and returns the names.
func nameSets(tb testing.TB, dir string, sets int) (all [][]string) {
	tb.Helper()
	groups := nameGroups()
	rnd := rand.New(rand.NewPCG(3, 4))
	for i := range sets {
		set := mkdir(tb, dir, fmt.Sprintf("set%d", i))
		var names []string
		for range 1 + rnd.IntN(3) {
			group, prefix := groups[rnd.IntN(len(groups))], ""
			if rnd.IntN(4) == 0 {
				other := groups[rnd.IntN(len(groups))]
				prefix = other[rnd.IntN(len(other))]
			}
			for _, k := range rnd.Perm(len(group))[:1+rnd.IntN(len(group))] {
				if name := prefix + group[k]; len(name) <= 255 && !slices.Contains(names, name) {
					names = append(names, name)
				}
			}
		}
		for _, name := range names {
			file := filepath.Join(set, name)
			switch rnd.IntN(5) {
			case 0:
				write(tb, filepath.Join(file, "inner"), name, 0o644)
				write(tb, filepath.Join(file, "Inner"), name, 0o644)
			case 1:
				if err := os.Symlink(name, file); err != nil {
					tb.Fatal(err)
				}
			default:
				write(tb, file, name, 0o644)
			}
		}
		all = append(all, names)
	}
	return all
}

// TestViews: the exact view is the tree, a hacked view is what narfs restore makes of it (which other tests hold against
// Nix), under each rule, and finds the original names all the same.
func TestViews(t *testing.T) {
	t.Parallel()
	env.Require(t, env.Fuse())
	sets := 400
	if env.Long().Err() == nil {
		sets = 5000
	}
	work := env.Dir(t)
	tree := mkdir(t, work, "tree")
	all := nameSets(t, tree, sets)
	store := env.NewStore(t)
	name := add(t, store, tree)
	exact := store.Mount()
	shell(t, `diff -r --no-dereference "$1" "$2"`, tree, filepath.Join(exact.Dir, name))
	for _, fold := range []string{"ascii", "hfs", "apfs"} {
		t.Run(fold, func(t *testing.T) {
			t.Parallel()
			restored := filepath.Join(work, fold)
			nar := store.Command("dump", name)
			file, err := os.Create(restored + ".nar")
			if err != nil {
				t.Fatal(err)
			}
			nar.Stdout = file
			env.Must(t, nar)
			_ = file.Close()
			store.Must("restore", "--case-hack=on", "--fold="+fold, restored, restored+".nar")
			hacked := filepath.Join(store.Mount("--case-hack=on", "--fold="+fold).Dir, name)
			shell(t, `diff -r --no-dereference "$1" "$2"`, restored, hacked)
			// NARs come from the store, never from a view.
			if got, want := store.Must("hash", hacked), store.Must("hash", tree); got != want {
				t.Errorf("the hacked view's path has the hash %s; want %s", got, want)
			}
			changed := 0
			for i, names := range all {
				set := filepath.Join(hacked, fmt.Sprintf("set%d", i))
				shown, err := os.ReadDir(set)
				if err != nil || len(shown) != len(names) {
					t.Errorf("ReadDir of set %d = %d names, %v; want %d", i, len(shown), err, len(names))
				}
				if slices.ContainsFunc(shown, func(e os.DirEntry) bool { return !slices.Contains(names, e.Name()) }) {
					changed++
				}
				for _, n := range names {
					if got, err := says(filepath.Join(set, n)); got != n {
						t.Errorf("the original name %q in set %d leads to what says %q, %v", n, i, got, err)
					}
				}
			}
			t.Logf("%d of %d sets are shown with other names", changed, len(all))
			if changed < len(all)/2 {
				t.Errorf("only %d of %d sets are shown with other names", changed, len(all))
			}
		})
	}
}

// says returns what is written in a file, link or folder of nameSets: the name that it was given.
func says(file string) (string, error) {
	info, err := os.Lstat(file)
	if err != nil {
		return "", err
	}
	var b []byte
	switch info.Mode().Type() {
	case os.ModeSymlink:
		return os.Readlink(file)
	case os.ModeDir:
		b, err = os.ReadFile(filepath.Join(file, "inner"))
	default:
		b, err = os.ReadFile(file)
	}
	return string(b), err
}
