package nar_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/narfs/narfs/nar"
)

func dir(depth int, name string) nar.Header {
	return nar.Header{Depth: depth, Name: name, Type: nar.TypeDirectory}
}

func file(depth int, name string, size int64) nar.Header {
	return nar.Header{Depth: depth, Name: name, Type: nar.TypeRegular, Size: size}
}

func link(depth int, name, target string) nar.Header {
	return nar.Header{Depth: depth, Name: name, Type: nar.TypeSymlink, Target: target}
}

// sample is a small tree with every type of node.
func sample() []nar.Header {
	exe := file(3, "run", 9)
	exe.Executable = true
	return []nar.Header{
		dir(1, ""),
		file(2, "A", 0),
		dir(2, "bin"),
		exe,
		link(3, "run-2", "run"),
		dir(2, "empty"),
		dir(2, "lib"),
		dir(3, "deep"),
		file(4, "x", 1<<40),
		file(3, "z", 3),
		link(2, "\xff", "../\xfe"),
	}
}

func build(t interface {
	Helper()
	Fatal(args ...any)
}, hs []nar.Header,
) *nar.Tree {
	t.Helper()
	b := nar.NewTreeBuilder(nar.Limits{})
	for _, h := range hs {
		if err := b.Add(h); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func headers(tree *nar.Tree) []nar.Header {
	var hs []nar.Header
	for i, depth := range tree.All() {
		hs = append(hs, tree.Header(i, depth))
	}
	return hs
}

func TestTree(t *testing.T) {
	tree := build(t, sample())
	if diff := cmp.Diff(sample(), headers(tree)); diff != "" {
		t.Errorf("All() of the sample (-want +got):\n%s", diff)
	}
	var got []string
	for i := range uint32(tree.Len()) {
		first, n := tree.Children(i)
		got = append(got, fmt.Sprintf("%d %s %q %q up %d down %d+%d size %d exec %v -> %q", i, tree.Type(i), tree.Name(i),
			tree.Path(i), tree.Parent(i), first, n, tree.Size(i), tree.Executable(i), tree.Target(i)))
	}
	want := []string{
		`0 directory "" "" up 0 down 1+5 size 5 exec false -> ""`,
		`1 regular "A" "A" up 0 down 0+0 size 0 exec false -> ""`,
		`2 directory "bin" "bin" up 0 down 6+2 size 2 exec false -> ""`,
		`3 directory "empty" "empty" up 0 down 8+0 size 0 exec false -> ""`,
		`4 directory "lib" "lib" up 0 down 8+2 size 2 exec false -> ""`,
		`5 symlink "\xff" "\xff" up 0 down 0+0 size 4 exec false -> "../\xfe"`,
		`6 regular "run" "bin/run" up 2 down 0+0 size 9 exec true -> ""`,
		`7 symlink "run-2" "bin/run-2" up 2 down 0+0 size 3 exec false -> "run"`,
		`8 directory "deep" "lib/deep" up 4 down 10+1 size 1 exec false -> ""`,
		`9 regular "z" "lib/z" up 4 down 0+0 size 3 exec false -> ""`,
		`10 regular "x" "lib/deep/x" up 8 down 0+0 size 1099511627776 exec false -> ""`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("nodes of the sample (-want +got):\n%s", diff)
	}
}

func TestTreeResolve(t *testing.T) {
	tree := build(t, sample())
	for _, c := range []struct {
		path string
		want uint32
		ok   bool
	}{
		{"", 0, true},
		{"A", 1, true},
		{"lib/deep/x", 10, true},
		{"bin/run-2", 7, true},
		{"a", 0, false},
		{"A/", 0, false},
		{"/A", 0, false},
		{"lib//deep", 0, false},
		{"lib/.", 0, false},
		{"A/x", 0, false},
		{"bin/run-2/x", 0, false},
		{"zzz", 0, false},
	} {
		got, ok := tree.Resolve(c.path)
		if ok != c.ok || ok && got != c.want {
			t.Errorf("Resolve(%q) = %d, %v; want %d, %v", c.path, got, ok, c.want, c.ok)
		}
	}
}

func TestTreeAllocations(t *testing.T) {
	tree := build(t, sample())
	if n := testing.AllocsPerRun(100, func() {
		for i := range tree.All() {
			_, _ = tree.Lookup(tree.Parent(i), tree.Name(i))
			_ = tree.Target(i)
		}
	}); n != 0 {
		t.Errorf("walk and lookups of a tree take %v allocations; want 0", n)
	}
}

func TestTreeOfOneNode(t *testing.T) {
	for _, h := range []nar.Header{dir(1, ""), file(1, "", 7), link(1, "", "to")} {
		tree := build(t, []nar.Header{h})
		if diff := cmp.Diff([]nar.Header{h}, headers(tree)); diff != "" {
			t.Errorf("tree of %v alone (-want +got):\n%s", h, diff)
		}
	}
}

func TestTreeBuilderRefuses(t *testing.T) {
	root := dir(1, "")
	var deep []nar.Header
	for d := 1; d <= nar.MaxDepth+1; d++ {
		deep = append(deep, dir(d, strings.Repeat("d", min(d-1, 1))))
	}
	for _, c := range []struct {
		name string
		in   []nar.Header
		want string
	}{
		{"no root", []nar.Header{dir(2, "a")}, "the first node must be the root"},
		{"named root", []nar.Header{dir(1, "a")}, "the first node must be the root"},
		{"two roots", []nar.Header{root, root}, "depth 1 after a node at depth 1"},
		{"below a file", []nar.Header{root, file(2, "a", 0), file(3, "b", 0)}, "depth 3 after a node at depth 2"},
		{"too deep", deep, "nested deeper than 64 levels"},
		{"unsorted", []nar.Header{root, file(2, "b", 0), file(2, "a", 0)}, `not sorted: "a" after "b"`},
		{"unsorted after a folder", []nar.Header{root, dir(2, "b"), file(3, "z", 0), file(2, "a", 0)}, `not sorted: "a" after "b"`},
		{"duplicate", []nar.Header{root, file(2, "b", 0), file(2, "b", 0)}, `two entries "b"`},
		{"empty name", []nar.Header{root, file(2, "", 0)}, "empty file name"},
		{"long name", []nar.Header{root, file(2, strings.Repeat("n", 256), 0)}, "file name of 256 bytes"},
		{"dot", []nar.Header{root, file(2, ".", 0)}, `invalid file name "."`},
		{"dotdot", []nar.Header{root, file(2, "..", 0)}, `invalid file name ".."`},
		{"slash", []nar.Header{root, file(2, "a/b", 0)}, `invalid file name "a/b"`},
		{"nul", []nar.Header{root, file(2, "a\x00", 0)}, `invalid file name "a\x00"`},
		{"empty target", []nar.Header{link(1, "", "")}, "empty symlink target"},
		{"long target", []nar.Header{link(1, "", strings.Repeat("t", 4096))}, "symlink target of 4096 bytes"},
		{"nul target", []nar.Header{link(1, "", "\x00")}, "invalid symlink target"},
		{"negative size", []nar.Header{file(1, "", -1)}, "invalid file size -1"},
		{"huge", []nar.Header{root, file(2, "a", nar.MaxContents), file(2, "b", 1)}, "bytes of contents"},
		{"no type", []nar.Header{{Depth: 1}}, "unknown file type"},
		{"file with target", []nar.Header{{Depth: 1, Type: nar.TypeRegular, Target: "x"}}, "symlink target"},
		{"executable folder", []nar.Header{{Depth: 1, Type: nar.TypeDirectory, Executable: true}}, "fields of another type"},
		{"executable symlink", []nar.Header{{Depth: 1, Type: nar.TypeSymlink, Target: "x", Executable: true}}, "fields of another type"},
	} {
		b := nar.NewTreeBuilder(nar.Limits{})
		var err error
		for _, h := range c.in {
			if err = b.Add(h); err != nil {
				break
			}
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Add = %v; want an error with %q", c.name, err, c.want)
		}
	}
	if _, err := nar.NewTreeBuilder(nar.Limits{}).Finish(); err == nil {
		t.Error("Finish() of an empty builder = nil; want an error")
	}
}

func TestTreeBuilderLimits(t *testing.T) {
	for _, c := range []struct {
		lim  nar.Limits
		want string
	}{
		{nar.Limits{Entries: 11, NameBytes: 34}, ""},
		{nar.Limits{Entries: 10}, "NAR has more than 10 entries"},
		{nar.Limits{NameBytes: 33}, "NAR has more than 33 bytes of names"},
	} {
		b := nar.NewTreeBuilder(c.lim)
		var err error
		for _, h := range sample() {
			if err = b.Add(h); err != nil {
				break
			}
		}
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("Add under %+v = %v; want %q", c.lim, err, c.want)
		}
	}
}

func sorted(names []string) []string {
	slices.Sort(names)
	return names
}

// genTree draws the headers of a tree of about so many nodes in NAR order.
func genTree(most int) *rapid.Generator[[]nar.Header] {
	name := rapid.OneOf(
		rapid.StringMatching(`[a-cA-C.~]{1,3}`),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 1, 12), func(b []byte) string { return string(b) }),
		rapid.StringN(1, 40, 255),
	).Filter(func(s string) bool { return s != "." && s != ".." && !strings.ContainsAny(s, "/\x00") })
	target := rapid.Map(rapid.SliceOfN(rapid.ByteRange(1, 255), 1, 30), func(b []byte) string { return string(b) })
	return rapid.Custom(func(t *rapid.T) []nar.Header {
		var hs []nar.Header
		var node func(depth int, name string)
		node = func(depth int, nm string) {
			kinds := []int{0, 1, 2, 3, 3}
			switch {
			case depth == 1:
				kinds = []int{3, 3, 3, 3, 3, 3, 3, 0, 1, 2}
			case depth > 6 || len(hs) > most:
				kinds = kinds[:3]
			}
			switch rapid.SampledFrom(kinds).Draw(t, "kind") {
			case 0:
				hs = append(hs, file(depth, nm, rapid.Int64Range(0, 70).Draw(t, "size")))
			case 1:
				hs = append(hs, nar.Header{
					Depth: depth, Name: nm, Type: nar.TypeRegular, Executable: true,
					Size: rapid.Int64Range(0, 70_000).Draw(t, "size"),
				})
			case 2:
				hs = append(hs, link(depth, nm, target.Draw(t, "target")))
			default:
				hs = append(hs, dir(depth, nm))
				names := rapid.SliceOfNDistinct(name, rapid.IntRange(0, 6).Draw(t, "least"), 12, rapid.ID[string]).Draw(t, "names")
				for _, nm := range sorted(names) {
					node(depth+1, nm)
				}
			}
		}
		node(1, "")
		return hs
	})
}

func TestTreeKeepsHeaders(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hs := genTree(200).Draw(t, "tree")
		tree := build(t, hs)
		if diff := cmp.Diff(hs, headers(tree)); diff != "" {
			t.Fatalf("tree differs from its headers (-want +got):\n%s", diff)
		}
		for i := range uint32(tree.Len()) {
			if got, ok := tree.Resolve(tree.Path(i)); !ok || got != i {
				t.Fatalf("Resolve(Path(%d)) = %d, %v", i, got, ok)
			}
			first, n := tree.Children(i)
			for c := first; c < first+n; c++ {
				if tree.Parent(c) != i {
					t.Fatalf("Parent(%d) = %d; want %d", c, tree.Parent(c), i)
				}
			}
		}
	})
}

func BenchmarkTreeBuilder(b *testing.B) {
	hs := []nar.Header{dir(1, "")}
	for i := range 1000 {
		hs = append(hs, dir(2, fmt.Sprintf("folder-%04d", i)))
		for j := range 1000 {
			hs = append(hs, file(3, fmt.Sprintf("file-%04d", j), 1000))
		}
	}
	b.ReportAllocs()
	var tree *nar.Tree
	for b.Loop() {
		tree = build(b, hs)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(hs)), "ns/node")
	b.ReportMetric(float64(tree.Bytes())/float64(len(hs)), "B/node")
}

func BenchmarkTreeLookup(b *testing.B) {
	hs := []nar.Header{dir(1, "")}
	for j := range 10_000 {
		hs = append(hs, file(2, fmt.Sprintf("file-%05d", j), 1000))
	}
	tree := build(b, hs)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, ok := tree.Lookup(0, hs[1+i%10_000].Name); !ok {
			b.Fatal("not found")
		}
		i += 7919
	}
}
