package nar_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/narfs/narfs/nar"
)

// TestRoundTrip: headers, Writer, Reader, Tree and its sizes agree.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hs := genTree(200).Draw(t, "tree")
		in := write(t, hs)
		r := nar.NewReader(bytes.NewReader(in), nar.Limits{})
		b := nar.NewTreeBuilder(nar.Limits{})
		var contentsAt []int64
		var got []nar.Header
		for {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			contentsAt = append(contentsAt, r.Offset())
			// Read all, some or nothing of the contents.
			n := rapid.Int64Range(0, h.Size).Draw(t, "read")
			c := make([]byte, n)
			if _, err := io.ReadFull(r, c); err != nil || !bytes.Equal(c, content(h.Name, h.Size)[:n]) {
				t.Fatalf("contents of %q: %v", h.Name, err)
			}
			if err := b.Add(h); err != nil {
				t.Fatal(err)
			}
			got = append(got, h)
		}
		if diff := cmp.Diff(hs, got); diff != "" {
			t.Fatalf("headers (-want +got):\n%s", diff)
		}
		if r.Offset() != int64(len(in)) {
			t.Fatalf("Offset() at the end = %d; want %d", r.Offset(), len(in))
		}
		tree, err := b.Finish()
		if err != nil {
			t.Fatal(err)
		}
		if got := nar.Size(tree); got != int64(len(in)) {
			t.Fatalf("Size = %d; want %d", got, len(in))
		}
		offsets := tree.Offsets()
		k := 0
		for i := range tree.All() {
			want := contentsAt[k]
			if tree.Type(i) != nar.TypeRegular {
				want = 0
			}
			if offsets[i] != want {
				t.Fatalf("offset of %q = %d; want %d", tree.Path(i), offsets[i], want)
			}
			k++
		}
	})
}

// TestReaderMutations drops, doubles and swaps words of NARs: what is still
// accepted must be a NAR in every respect.
func TestReaderMutations(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := write(t, genTree(20).Draw(t, "tree"))
		for range rapid.IntRange(1, 3).Draw(t, "mutations") {
			if len(in) < 32 {
				break
			}
			at := func(what string) int { return 8 * rapid.IntRange(0, len(in)/8-1).Draw(t, what) }
			i, j := at("i"), at("j")
			switch rapid.IntRange(0, 4).Draw(t, "kind") {
			case 0: // a range is gone
				in = append(in[:min(i, j):min(i, j)], in[max(i, j):]...)
			case 1: // a range is there twice
				in = append(in[:max(i, j):max(i, j)], in[min(i, j):]...)
			case 2: // two words are swapped
				a, b := binary.LittleEndian.Uint64(in[i:]), binary.LittleEndian.Uint64(in[j:])
				binary.LittleEndian.PutUint64(in[i:], b)
				binary.LittleEndian.PutUint64(in[j:], a)
			case 3: // a length or a letter is another
				in[i] += byte(rapid.IntRange(1, 255).Draw(t, "delta"))
			default: // padding or a letter
				in[i+7] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
			}
		}
		checkAccepted(t, in)
	})
}

func FuzzReader(f *testing.F) {
	f.Add(write(f, sample()[:8]))
	exe := file(2, "x", 9)
	exe.Executable = true
	f.Add(write(f, []nar.Header{dir(1, ""), exe, link(2, "y", "x"), dir(2, "z")}))
	f.Add(raw(words("nix-archive-1 ( type directory entry ( name a node ( type regular contents x ) ) entry ( name )")...))
	f.Fuzz(func(t *testing.T, in []byte) {
		checkAccepted(t, in)
	})
}

// checkAccepted reads what may be a NAR from two sources. If it is one, the
// Writer must make the same bytes of it.
func checkAccepted(t interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}, in []byte,
) {
	t.Helper()
	lim := nar.Limits{Entries: 1000, NameBytes: 10_000}
	r := nar.NewReader(bytes.NewReader(in), lim)
	hs, contents, err := readAll(r)
	split, _, splitErr := readAll(nar.NewReader(iotest.HalfReader(bytes.NewReader(in)), lim))
	if fmt.Sprint(err) != fmt.Sprint(splitErr) || !cmp.Equal(hs, split) {
		t.Fatalf("reading gives %v, %v; from a slower source %v, %v", hs, err, split, splitErr)
	}
	if err != nil {
		return
	}
	// What was read writes as the same bytes.
	var buf bytes.Buffer
	w := nar.NewWriter(&buf)
	for i, h := range hs {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if len(contents[i]) > 0 {
			if _, err := w.Write(contents[i]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(buf.Bytes(), in[:r.Offset()]) {
		t.Fatal("writing what was read gives other bytes")
	}
	tree := build(t, hs)
	if got := nar.Size(tree); got != r.Offset() {
		t.Fatalf("Size = %d; want %d", got, r.Offset())
	}
}
