package mount_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/narfs/narfs/tests/env"
)

// nameSets makes folders with names that collide in every way that package casefold knows of, and returns the names.
func nameSets(tb testing.TB, dir string, sets int) (all [][]string) {
	tb.Helper()
	words := []string{
		"readme", "Readme", "README", "straße", "STRASSE", "strasse", "é", "e\u0301", "É", "K", "\u212a", "k", "ﬁ", "fi", "FI",
		"ς", "σ", "Σ", "ı", "I", "i", "İ", "x~nix~case~hack~1", "X~nix~case~hack~1", "x", "X", "~nix~case~hack~", "X~NIX~CASE~HACK~1",
		"x~nix~case~hack~2", "a.h", "A.h", "a.H", "\xff", "\xfe\xff", "Ǆ", "ǅ", "ǆ", strings.Repeat("a", 250), strings.Repeat("A", 250), "~nix~case~hack",
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	for i := range sets {
		set := mkdir(tb, dir, fmt.Sprintf("set%d", i))
		var names []string
		for _, w := range rnd.Perm(len(words))[:1+rnd.IntN(8)] {
			name := words[w]
			if rnd.IntN(4) == 0 {
				name = words[rnd.IntN(len(words))] + name
			}
			if len(name) > 255 {
				continue
			}
			file := filepath.Join(set, name)
			if _, err := os.Lstat(file); err == nil {
				continue
			}
			switch rnd.IntN(5) {
			case 0:
				write(tb, filepath.Join(file, "inner"), name, 0o644)
				write(tb, filepath.Join(file, "Inner"), name, 0o644)
			case 1:
				if err := os.Symlink("to-"+name[:min(len(name), 100)], file); err != nil {
					tb.Fatal(err)
				}
			default:
				write(tb, file, name, 0o644)
			}
			names = append(names, name)
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
			for i, names := range all {
				for _, n := range names {
					want, err := os.Lstat(filepath.Join(tree, fmt.Sprintf("set%d", i), n))
					if err != nil {
						t.Fatal(err)
					}
					got, err := os.Lstat(filepath.Join(hacked, fmt.Sprintf("set%d", i), n))
					if err != nil || got.Mode().Type() != want.Mode().Type() || !want.IsDir() && got.Size() != want.Size() {
						t.Errorf("Lstat of the original name %q in set %d = %v, %v; want what is so called", n, i, got, err)
					}
				}
			}
		})
	}
}
