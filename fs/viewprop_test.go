package fs_test

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"pgregory.net/rapid"

	"github.com/narfs/narfs/casefold"
	"github.com/narfs/narfs/fs"
	"github.com/narfs/narfs/fs/fstest"
)

// nameSets are sets of names that collide often: by ASCII case, by other cases and normalisation forms, by the
// spelling that the hack itself gives.
func nameSets() *rapid.Generator[[]string] {
	stem := rapid.SampledFrom([]string{
		"a", "A", "ab", "aB", "Ab", "AB", "é", "e\u0301", "É", "E\u0301", "ß", "ss", "SS", "ſs", "K", "\u212a", "k", "Σ", "σ", "ς", "ı", "I", "i", "İ",
		"\xff", "x y", "~", ".",
	})
	suffix := rapid.SampledFrom([]string{
		"", "", "", "", casefold.Suffix, casefold.Suffix + "1", casefold.Suffix + "2", casefold.Suffix + "01", strings.ToUpper(casefold.Suffix) + "1",
		casefold.Suffix + "1" + casefold.Suffix + "1", casefold.Suffix + "0", casefold.Suffix + "~",
	})
	name := rapid.Custom(func(t *rapid.T) string {
		n := stem.Draw(t, "stem") + suffix.Draw(t, "suffix")
		if n == "." {
			n = "dot"
		}
		return n
	})
	return rapid.Custom(func(t *rapid.T) []string {
		set := rapid.SliceOfNDistinct(name, 1, 12, rapid.ID[string]).Draw(t, "names")
		slices.Sort(set)
		return set
	})
}

// In every view, what is listed is what casefold says, is distinct, and leads to the file that it stands for; so does
// every original name, and with CaseInsensitive every other spelling of a listed one leads to a file that it means.
func TestViewsProperty(t *testing.T) {
	sets := 50 // in each of 100 checks
	switch {
	case os.Getenv("NARFS_TEST_LONG") != "":
		sets = 500
	case testing.Short():
		sets = 5
	}
	rapid.Check(t, func(t *rapid.T) {
		for range sets {
			set := nameSets().Draw(t, "set")
			rule := rapid.SampledFrom([]casefold.Rule{casefold.ASCII, casefold.HFS, casefold.APFS}).Draw(t, "rule")
			src := fstest.NewMemory()
			dir := fstest.Dir(nil)
			for i, name := range set {
				dir.Dir[name] = fstest.Text(strconv.Itoa(i))
			}
			src.Add(hello, fstest.New(dir))
			for _, o := range []fs.Options{{}, {CaseHack: true}} {
				o.Rule = rule
				o.CaseInsensitive = rapid.Bool().Draw(t, "fold")
				checkView(t, src, o, set)
			}
		}
	})
}

func checkView(t *rapid.T, src fs.Source, o fs.Options, set []string) {
	s := fs.NewServer(src, o, &notes{}, allFlags)
	defer s.Close()
	top, _ := lookup(s, 1, hello)
	want := set
	if o.CaseHack {
		want = casefold.Hack(o.Rule, set)
	}
	entries, outs, st := readdir(s, top.NodeId, afterDots, 1<<16, true)
	if st != fuse.OK || len(entries) != len(want) {
		t.Fatalf("%+v: %d entries, %v; want %q", o, len(entries), st, want)
	}
	for i, e := range entries {
		if e.Name != want[i] {
			t.Fatalf("%+v: entry %d is %q; want %q", o, i, e.Name, want[i])
		}
		for _, name := range []string{want[i], set[i]} {
			if out, st := lookup(s, top.NodeId, name); st != fuse.OK || out.NodeId != outs[i].NodeId {
				t.Fatalf("%+v: Lookup(%q) in %q = node %#x, %v; want that of %q, %#x", o, name, set, out.NodeId, st, set[i], outs[i].NodeId)
			}
		}
		if got, st := readAll(s, outs[i].NodeId, 4096); string(got) != strconv.Itoa(i) || st != fuse.OK {
			t.Fatalf("%+v: %q reads %q, %v; want %d", o, e.Name, got, st, i)
		}
		other := strings.ToUpper(want[i])
		out, _ := lookup(s, top.NodeId, other)
		switch {
		case o.CaseInsensitive && o.Rule.Key(other) == o.Rule.Key(want[i]) && out.NodeId == 0:
			t.Fatalf("%+v: Lookup(%q) in %q finds nothing; want %q", o, other, want, want[i])
		case !o.CaseInsensitive && out.NodeId != 0 && !slices.Contains(want, other) && !slices.Contains(set, other):
			t.Fatalf("%+v: Lookup(%q) in %q finds node %#x", o, other, want, out.NodeId)
		}
	}
}

// afterDots is the position after "." and "..".
const afterDots = 2
