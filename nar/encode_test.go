package nar_test

import (
	"bytes"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/narfs/narfs/nar"
)

func encode(t interface {
	Helper()
	Fatal(args ...any)
}, tree *nar.Tree,
) []byte {
	t.Helper()
	b, err := tree.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The form is on disk in stores: it must not change without a new version.
func TestTreeBinaryGolden(t *testing.T) {
	exe := file(3, "run", 300)
	exe.Executable = true
	tree := build(t, []nar.Header{dir(1, ""), file(2, "a", 5), dir(2, "bin"), exe, link(3, "sh", "run"), link(2, "z", "a")})
	want := "T\x01\x06\x0a\x04" + // six nodes, ten bytes of names, four of targets
		"\x00\x01\x00\x03\x02\x03" + "\x01\x03\x01\x03\x02" +
		"\x03\x05\x02\x01\xac\x02\x03" + "abinzrunsh" + "arun"
	if diff := cmp.Diff(want, string(encode(t, tree))); diff != "" {
		t.Errorf("binary form (-want +got):\n%s", diff)
	}
}

func TestTreeBinaryRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tree := build(t, genTree(200).Draw(t, "tree"))
		b := encode(t, tree)
		again, err := nar.ParseTree(b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(headers(tree), headers(again)); diff != "" {
			t.Fatalf("parsed tree (-want +got):\n%s", diff)
		}
		if !bytes.Equal(b, encode(t, again)) {
			t.Fatal("the parsed tree has another binary form")
		}
		for i := range uint32(tree.Len()) {
			if tree.Parent(i) != again.Parent(i) {
				t.Fatalf("Parent(%d) = %d; want %d", i, again.Parent(i), tree.Parent(i))
			}
		}
	})
}

func TestParseTreeRefuses(t *testing.T) {
	// A deep tree is possible in the binary form alone.
	deep := func(levels int) string {
		kinds := strings.Repeat("\x00", levels)
		lens := strings.Repeat("\x01", levels-1)
		counts := strings.Repeat("\x01", levels-1) + "\x00"
		names := strings.Repeat("d", levels-1)
		return "T\x01" + string(rune(levels)) + string(rune(levels-1)) + "\x00" + kinds + lens + counts + names
	}
	if _, err := nar.ParseTree([]byte(deep(nar.MaxDepth))); err != nil {
		t.Errorf("ParseTree of %d levels = %v; want a tree", nar.MaxDepth, err)
	}
	for _, c := range []struct{ name, in, want string }{
		{"empty", "", "no tree begins here"},
		{"text", "hello", "no tree begins here"},
		{"version", "T\x02\x01\x00\x00\x00\x00", "version 2 is unknown"},
		{"header alone", "T\x01", "ends early"},
		{"no nodes", "T\x01\x00\x00\x00", "too few"},
		{"absurd count", "T\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00\x00", "ends early"},
		{"absurd names", "T\x01\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00\x00\x00", "ends early"},
		{"number too large", "T\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02\x00\x00", "too large"},
		{"long number", "T\x01\x81\x00\x00\x00\x01\x00", "shortest form"},
		{"unknown kind", "T\x01\x01\x00\x00\x04\x00", "unknown kind of node 4"},
		{"something behind", "T\x01\x01\x00\x00\x01\x00\x00", "columns"},
		{"too many entries", "T\x01\x01\x00\x00\x00\x01", "more entries than there are nodes"},
		{"stray node", "T\x01\x02\x01\x00\x00\x01\x01\x00\x00a", "without a directory"},
		{"contains itself", "T\x01\x02\x01\x00\x01\x00\x01\x00\x01a", "without a directory"},
		{"empty name", "T\x01\x02\x00\x00\x00\x01\x00\x01\x00", "empty file name"},
		{"bad name", "T\x01\x02\x01\x00\x00\x01\x01\x01\x00/", `invalid file name "/"`},
		{"unsorted", "T\x01\x03\x02\x00\x00\x01\x01\x01\x01\x02\x00\x00ba", `not sorted: "a" after "b"`},
		{"duplicate", "T\x01\x03\x02\x00\x00\x01\x01\x01\x01\x02\x00\x00aa", `two entries "a"`},
		{"short names", "T\x01\x02\x01\x00\x00\x01\x02\x01\x00a", "columns"},
		{"empty target", "T\x01\x01\x00\x00\x03\x00", "empty symlink target"},
		{"NUL in a target", "T\x01\x01\x00\x01\x03\x01\x00", "invalid symlink target"},
		{"target beyond", "T\x01\x01\x00\x01\x03\x02a", "target is too long"},
		{"targets left", "T\x01\x01\x00\x02\x03\x01ab", "columns"},
		{"huge file", "T\x01\x01\x00\x00\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "bytes of contents"},
		{"too deep", deep(nar.MaxDepth + 1), "nested deeper than 64 levels"},
	} {
		if _, err := nar.ParseTree([]byte(c.in)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: ParseTree(%q) = %v; want an error with %q", c.name, c.in, err, c.want)
		}
	}
	// No prefix of a tree is one.
	whole := encode(t, build(t, sample()))
	for n := range whole {
		if _, err := nar.ParseTree(whole[:n]); err == nil {
			t.Errorf("ParseTree of %d of %d bytes = nil; want an error", n, len(whole))
		}
	}
}

// A short input must not make ParseTree take much memory.
func TestParseTreeMemory(t *testing.T) {
	in := append([]byte("T\x01\x80\x80\x80\x80\x01\x00\x00"), make([]byte, 1000)...)
	if n := testing.AllocsPerRun(10, func() { _, _ = nar.ParseTree(in) }); n > 10 {
		t.Errorf("ParseTree of a lying header takes %v allocations", n)
	}
	whole := encode(t, build(t, manyFiles(10_000, 3)))
	const runs = 10
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		if _, err := nar.ParseTree(whole); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if got := (after.TotalAlloc - before.TotalAlloc) / runs / uint64(len(whole)); got >= 10 {
		t.Errorf("ParseTree takes %d bytes a byte; want less than 10", got)
	}
}

func FuzzParseTree(f *testing.F) {
	f.Add(encode(f, build(f, sample())))
	f.Add(encode(f, build(f, []nar.Header{link(1, "", "to")})))
	f.Add(encode(f, build(f, manyFiles(20, 200))))
	f.Fuzz(func(t *testing.T, in []byte) {
		tree, err := nar.ParseTree(in)
		if err != nil {
			return
		}
		if again := encode(t, tree); !bytes.Equal(in, again) {
			t.Fatalf("a tree of %q has the binary form %q", in, again)
		}
		// A builder takes what ParseTree took, and makes the same of it.
		hs := headers(tree)
		if len(hs) != tree.Len() {
			t.Fatalf("All() yields %d of %d nodes", len(hs), tree.Len())
		}
		if again := encode(t, build(t, hs)); !bytes.Equal(in, again) {
			t.Fatalf("a tree built of the nodes of %q has the binary form %q", in, again)
		}
		_ = tree.Offsets()
		if nar.Size(tree) < 0 {
			t.Fatalf("Size = %d", nar.Size(tree))
		}
	})
}

func BenchmarkParseTree(b *testing.B) {
	in := encode(b, build(b, manyFiles(100_000, 1000)))
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := nar.ParseTree(in); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100_000, "ns/node")
}

func BenchmarkAppendBinary(b *testing.B) {
	tree := build(b, manyFiles(100_000, 1000))
	var buf []byte
	for b.Loop() {
		buf, _ = tree.AppendBinary(buf[:0])
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100_000, "ns/node")
}
