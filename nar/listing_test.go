package nar_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/nar"
)

func TestWriteListing(t *testing.T) {
	exe := file(3, "run", 9)
	exe.Executable = true
	tree := build(t, []nar.Header{dir(1, ""), dir(2, "bin"), exe, link(3, "sh", `r"n`), file(2, "e", 0), dir(2, "none")})
	var got bytes.Buffer
	if err := nar.WriteListing(&got, tree); err != nil {
		t.Fatal(err)
	}
	want := `{"version":1,"root":{"type":"directory","entries":{` +
		`"bin":{"type":"directory","entries":{` +
		`"run":{"type":"regular","size":9,"executable":true,"narOffset":400},` +
		`"sh":{"type":"symlink","target":"r\"n"}}},` +
		`"e":{"type":"regular","size":0,"narOffset":824},` +
		`"none":{"type":"directory","entries":{}}}}}`
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("listing (-want +got):\n%s", diff)
	}
	for _, c := range []struct {
		in   []nar.Header
		want string
	}{
		{[]nar.Header{dir(1, ""), dir(2, "a"), file(3, "\xff", 0)}, `list "a/\xff": name is not valid UTF-8`},
		{[]nar.Header{dir(1, ""), link(2, "a", "\xff")}, `list "a": symlink target is not valid UTF-8`},
	} {
		err := nar.WriteListing(&bytes.Buffer{}, build(t, c.in))
		if !errors.Is(err, nar.ErrNotUTF8) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("listing of %v = %v; want %q", c.in, err, c.want)
		}
	}
	full := errors.New("disk full")
	if err := nar.WriteListing(writerFunc(func([]byte) (int, error) { return 0, full }), tree); !errors.Is(err, full) {
		t.Errorf("listing to a full disk = %v; want %v", err, full)
	}
}

// jsonNode is a listing as any reader of JSON sees it.
type jsonNode struct {
	Type       string
	Size       int64
	Executable bool
	NarOffset  int64
	Target     string
	Entries    map[string]jsonNode
}

// FuzzListing: a listing is JSON that says what the tree says.
func FuzzListing(f *testing.F) {
	f.Add(encode(f, build(f, sample())))
	f.Add(encode(f, build(f, []nar.Header{dir(1, ""), file(2, "a\x01\"\\\n\u2028é", 3), link(2, "b", "\x7f<>&")})))
	f.Fuzz(func(t *testing.T, in []byte) {
		tree, err := nar.ParseTree(in)
		if err != nil {
			return
		}
		expressible := true
		for i := range tree.All() {
			expressible = expressible && utf8.ValidString(tree.Name(i)) && utf8.ValidString(tree.Target(i))
		}
		var out bytes.Buffer
		if err := nar.WriteListing(&out, tree); (err == nil) != expressible {
			t.Fatalf("WriteListing = %v; names and targets can be expressed: %v", err, expressible)
		}
		if !expressible {
			return
		}
		var got struct {
			Version int
			Root    jsonNode
		}
		if err := json.Unmarshal(out.Bytes(), &got); err != nil || got.Version != 1 {
			t.Fatalf("listing %q: %v, version %d", out.Bytes(), err, got.Version)
		}
		offsets := tree.Offsets()
		var compare func(i uint32, n jsonNode)
		compare = func(i uint32, n jsonNode) {
			h := tree.Header(i, 1)
			if n.Type != h.Type.String() || n.Size != h.Size || n.Executable != h.Executable || n.Target != h.Target || n.NarOffset != offsets[i] {
				t.Fatalf("listing of %q = %+v; want %+v at %d", tree.Path(i), n, h, offsets[i])
			}
			first, count := tree.Children(i)
			if len(n.Entries) != int(count) || (n.Entries != nil) != (h.Type == nar.TypeDirectory) {
				t.Fatalf("listing of %q has %d entries; want %d", tree.Path(i), len(n.Entries), count)
			}
			for c := first; c < first+count; c++ {
				compare(c, n.Entries[tree.Name(c)])
			}
		}
		compare(0, got.Root)
	})
}
