package nar_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/internal/wire"
	"github.com/narfs/narfs/nar"
)

// raw makes the wire form of words; a word in angle brackets stands for itself
// in bytes (for what is no string: <…>).
func raw(words ...string) []byte {
	var b []byte
	for _, w := range words {
		if s, ok := strings.CutPrefix(w, "<"); ok {
			b = append(b, strings.TrimSuffix(s, ">")...)
			continue
		}
		b = binary.LittleEndian.AppendUint64(b, uint64(len(w)))
		b = append(b, w...)
		b = append(b, make([]byte, -len(w)&7)...)
	}
	return b
}

// words splits a text at spaces; _ stands for the empty word.
func words(s string) []string {
	ws := strings.Fields(s)
	for i := range ws {
		if ws[i] == "_" {
			ws[i] = ""
		}
	}
	return ws
}

// content is what the tests put into a file of this name and size.
func content(name string, size int64) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i) + byte(len(name))
	}
	return b
}

// write makes the NAR of headers, with contents by content.
func write(t interface {
	Helper()
	Fatal(args ...any)
}, hs []nar.Header,
) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := nar.NewWriter(&buf)
	for _, h := range hs {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Type == nar.TypeRegular {
			if _, err := w.Write(content(h.Name, h.Size)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// readAll reads a NAR to its end, with its contents.
func readAll(r *nar.Reader) (hs []nar.Header, contents [][]byte, err error) {
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return hs, contents, nil
		}
		if err != nil {
			return hs, contents, err
		}
		c, err := io.ReadAll(r)
		if err != nil {
			return hs, contents, err
		}
		hs, contents = append(hs, h), append(contents, c)
	}
}

func TestWriterBytes(t *testing.T) {
	exe := file(2, "b", 9)
	exe.Executable = true
	for _, c := range []struct {
		in   []nar.Header
		want []byte
	}{
		{[]nar.Header{file(1, "", 0)}, raw(words("nix-archive-1 ( type regular contents _ )")...)},
		{[]nar.Header{link(1, "", "to")}, raw(words("nix-archive-1 ( type symlink target to )")...)},
		{[]nar.Header{dir(1, "")}, raw(words("nix-archive-1 ( type directory )")...)},
		{
			[]nar.Header{dir(1, ""), dir(2, "a"), dir(3, "x"), exe, link(2, "c", "to")},
			raw(append(append(words(`nix-archive-1 ( type directory
				entry ( name a node ( type directory entry ( name x node ( type directory ) ) ) )
				entry ( name b node ( type regular executable _ contents`), string(content("b", 9))),
				words(`) ) entry ( name c node ( type symlink target to ) ) )`)...)...),
		},
	} {
		if diff := cmp.Diff(c.want, write(t, c.in)); diff != "" {
			t.Errorf("NAR of %v (-want +got):\n%s", c.in, diff)
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	var w *nar.Writer
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		do   func() error
		want string
	}{
		{"nothing", func() error { return w.Close() }, "no root"},
		{"bad name", func() error {
			must(w.WriteHeader(dir(1, "")))
			return w.WriteHeader(file(2, "a/b", 0))
		}, `invalid file name "a/b"`},
		{"missing contents before a header", func() error {
			must(w.WriteHeader(dir(1, "")))
			must(w.WriteHeader(file(2, "a", 1)))
			return w.WriteHeader(file(2, "b", 1))
		}, `"a" to a NAR: 1 of 1 bytes of contents are missing`},
		{"missing contents before the end", func() error {
			must(w.WriteHeader(file(1, "", 3)))
			_, err := w.Write([]byte("ab"))
			must(err)
			return w.Close()
		}, "1 of 3 bytes of contents are missing"},
		{"too much", func() error {
			must(w.WriteHeader(file(1, "", 3)))
			_, err := w.Write([]byte("abcd"))
			return err
		}, "more contents than the 3 bytes announced"},
		{"contents of a directory", func() error {
			must(w.WriteHeader(dir(1, "")))
			_, err := w.Write([]byte("abcd"))
			return err
		}, "more contents than the 0 bytes announced"},
		{"after the end", func() error {
			must(w.WriteHeader(dir(1, "")))
			must(w.Close())
			return w.WriteHeader(dir(2, "a"))
		}, "closed"},
		{"second node after a file", func() error {
			must(w.WriteHeader(file(1, "", 0)))
			return w.WriteHeader(dir(2, "a"))
		}, "depth 2 after a node at depth 1"},
	} {
		w = nar.NewWriter(io.Discard)
		if err := c.do(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v; want %q", c.name, err, c.want)
		}
	}
	full := errors.New("disk full")
	w = nar.NewWriter(writerFunc(func([]byte) (int, error) { return 0, full }))
	must(w.WriteHeader(file(1, "", 1<<20)))
	if _, err := w.Write(make([]byte, 1<<20)); !errors.Is(err, full) {
		t.Errorf("Write to a full disk = %v; want %v", err, full)
	}
	if err := w.Close(); !errors.Is(err, full) {
		t.Errorf("Close after a failed write = %v; want %v", err, full)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestReaderRefuses(t *testing.T) {
	const root = "nix-archive-1 ( type directory "
	entry := func(name, node string) string { return "entry ( name " + name + " node ( " + node + " ) ) " }
	const leaf = "type regular contents _"
	for _, c := range []struct {
		name string
		in   string
		want string
	}{
		{"empty", "", "it ends early"},
		{"other magic", "nix-archive-2 (", `does not begin with "nix-archive-1"`},
		{"text", "#!/bin/sh", `does not begin with "nix-archive-1"`},
		{"no type", "nix-archive-1 ( regular", `expected tag "type", got "regular"`},
		{"unknown type", "nix-archive-1 ( type fifo )", `unknown file type "fifo"`},
		{"no contents", "nix-archive-1 ( type regular )", `expected tag "contents", got ")"`},
		{"filled marker", "nix-archive-1 ( type regular executable yes contents _ )", "executable marker has a non-empty value"},
		{"marker twice", "nix-archive-1 ( type regular executable _ executable _ contents _ )", `expected tag "contents", got "executable"`},
		{"marker after contents", "nix-archive-1 ( type regular contents _ executable _ )", `expected tag ")", got "executable"`},
		{"contents twice", "nix-archive-1 ( type regular contents _ contents _ )", `expected tag ")", got "contents"`},
		{"type twice", "nix-archive-1 ( type regular type regular contents _ )", `expected tag "contents", got "type"`},
		{"link without target", "nix-archive-1 ( type symlink )", `expected tag "target", got ")"`},
		{"empty target", "nix-archive-1 ( type symlink target _ )", "empty symlink target"},
		{"NUL target", "nix-archive-1 ( type symlink target a\x00b )", "invalid symlink target"},
		{"long target", "nix-archive-1 ( type symlink target " + strings.Repeat("t", 4096) + " )", "symlink target: length 4096"},
		{"long tag", "nix-archive-1 ( type " + strings.Repeat("t", 33), "tag: length 33 exceeds the limit of 32"},
		{"node before name", root + "entry ( node ( " + leaf + " ) name a ) )", `expected tag "name", got "node"`},
		{"name twice", root + "entry ( name a name b node ( " + leaf + " ) ) )", `expected tag "node", got "name"`},
		{"entry without end", root + "entry ( name a node ( " + leaf + " ) entry", `expected tag ")", got "entry"`},
		{"unknown field", root + "owner root )", `expected tag ")", got "owner"`},
		{"entry in a file", "nix-archive-1 ( type regular contents _ " + entry("a", leaf), `expected tag`},
		{"empty name", root + entry("_", leaf) + ")", "empty file name"},
		{"dot", root + entry(".", leaf) + ")", `invalid file name "."`},
		{"dotdot", root + entry("..", leaf) + ")", `invalid file name ".."`},
		{"slash", root + entry("a/b", leaf) + ")", `invalid file name "a/b"`},
		{"NUL", root + entry("a\x00b", leaf) + ")", "invalid file name"},
		{"long name", root + entry(strings.Repeat("n", 256), leaf) + ")", "file name: length 256 exceeds the limit of 255"},
		{"unsorted", root + entry("b", leaf) + entry("a", leaf) + ")", `not sorted: "a" after "b"`},
		{"duplicate", root + entry("b", leaf) + entry("b", leaf) + ")", `two entries "b"`},
		{"file named )", root + entry(")", leaf) + entry("!", leaf) + ")", `not sorted: "!" after ")"`},
		{"fault below", root + "entry ( name a node ( type directory entry ( name b node ( type fifo", `"a/b": unknown file type "fifo"`},
		{"contents too long", "nix-archive-1 ( type regular contents <\xff\xff\xff\xff\xff\xff\xff\xff>", "contents of 18446744073709551615 bytes"},
		{"contents too long together", root + "entry ( name a node ( type regular contents <\xff\xff\xff\xff\xff\xff\xff\x0f>", "it ends early"},
		{"padding", "nix-archive-1 ( type regular contents <\x01\x00\x00\x00\x00\x00\x00\x00x\x00\x00\x00\x00\x00\x00\x01> )", "non-zero padding"},
		{"padding of a name", root + "entry ( name <\x01\x00\x00\x00\x00\x00\x00\x00x\x00\x00\x00\x00\x00\x00\x01> node ( " + leaf + " ) ) )", "non-zero padding"},
		{"padding of a tag", "nix-archive-1 <\x01\x00\x00\x00\x00\x00\x00\x00(\x00\x00\x00\x00\x00\x00\x01>", "non-zero padding"},
	} {
		in := raw(words(c.in)...)
		_, _, err := readAll(nar.NewReader(bytes.NewReader(in), nar.Limits{}))
		var fe *nar.FormatError
		if !errors.As(err, &fe) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: reading = %v; want a FormatError with %q", c.name, err, c.want)
		}
	}
}

// TestReaderTruncated cuts a NAR at every byte, from sources that deliver it in
// every manner.
func TestReaderTruncated(t *testing.T) {
	hs := append([]nar.Header{}, sample()...)
	hs[8].Size = 13
	whole := write(t, hs)
	for n := range whole {
		_, _, err := readAll(nar.NewReader(iotest.HalfReader(bytes.NewReader(whole[:n])), nar.Limits{}))
		var fe *nar.FormatError
		if !errors.As(err, &fe) || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("reading %d of %d bytes = %v; want a FormatError for an early end", n, len(whole), err)
		}
	}
	for _, src := range []func(io.Reader) io.Reader{
		iotest.OneByteReader, iotest.HalfReader, iotest.DataErrReader, func(r io.Reader) io.Reader { return r },
	} {
		got, contents, err := readAll(nar.NewReader(src(bytes.NewReader(whole)), nar.Limits{}))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(hs, got); diff != "" {
			t.Errorf("headers (-want +got):\n%s", diff)
		}
		for i, h := range hs {
			if !bytes.Equal(contents[i], content(h.Name, h.Size)) {
				t.Errorf("contents of %q = %q", h.Name, contents[i])
			}
		}
	}
}

func TestReaderSourceError(t *testing.T) {
	broken := errors.New("connection reset")
	whole := write(t, sample()[:8])
	for n := range whole {
		src := io.MultiReader(bytes.NewReader(whole[:n]), iotest.ErrReader(broken))
		r := nar.NewReader(src, nar.Limits{})
		_, _, err := readAll(r)
		var fe *nar.FormatError
		if !errors.Is(err, broken) || errors.As(err, &fe) {
			t.Fatalf("reading %d bytes, then an error = %v; want %v and no FormatError", n, err, broken)
		}
		if _, again := r.Next(); again != err { //nolint:errorlint // the same value is promised
			t.Fatalf("Next after an error = %v; want %v again", again, err)
		}
	}
}

// TestReaderStopsAtTheEnd reads two NARs and a text from one stream.
func TestReaderStopsAtTheEnd(t *testing.T) {
	one, two := write(t, sample()[:8]), write(t, []nar.Header{file(1, "", 70_000)})
	src := wire.NewReader(io.MultiReader(bytes.NewReader(one), bytes.NewReader(two), strings.NewReader("rest")))
	for _, size := range []int{len(one), len(two)} {
		r := nar.NewReader(src, nar.Limits{})
		for {
			if _, err := r.Next(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if got := r.Offset(); got != int64(size) {
			t.Errorf("Offset() at the end = %d; want %d", got, size)
		}
		if _, err := r.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("Next() after the end = %v; want EOF", err)
		}
	}
	if rest, err := io.ReadAll(src); string(rest) != "rest" || err != nil {
		t.Errorf("rest of the stream = %q, %v; want %q", rest, err, "rest")
	}
}

func TestReaderLimits(t *testing.T) {
	in := write(t, sample()[:8])
	for _, c := range []struct {
		lim  nar.Limits
		want string
	}{
		{nar.Limits{Entries: 8, NameBytes: 27}, ""},
		{nar.Limits{Entries: 7}, "NAR has more than 7 entries"},
		{nar.Limits{NameBytes: 26}, "NAR has more than 26 bytes of names and symlink targets"},
	} {
		_, _, err := readAll(nar.NewReader(bytes.NewReader(in), c.lim))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("reading under %+v = %v; want %q", c.lim, err, c.want)
		}
	}
}

// nested is a NAR of so many directories, one in the other, all named "d".
func nested(levels int) io.Reader {
	const entry = "entry ( name d node ( type directory"
	return io.MultiReader(bytes.NewReader(raw(words("nix-archive-1 ( type directory")...)),
		repeat(raw(words(entry)...), levels-1), repeat(raw(words(") )")...), levels-1), bytes.NewReader(raw(")")))
}

// repeat yields n copies of b without holding them.
func repeat(b []byte, n int) io.Reader {
	var rest []byte
	return readerFunc(func(p []byte) (int, error) {
		if len(rest) == 0 {
			if n == 0 {
				return 0, io.EOF
			}
			n--
			rest = b
		}
		c := copy(p, rest)
		rest = rest[c:]
		return c, nil
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestReaderDepth(t *testing.T) {
	tree, err := nar.ReadTree(nested(nar.MaxDepth), nar.Limits{})
	if err != nil || tree.Len() != nar.MaxDepth {
		t.Errorf("tree of %d levels = %v", nar.MaxDepth, err)
	}
	for _, levels := range []int{nar.MaxDepth + 1, 100_000} {
		if _, err := nar.ReadTree(nested(levels), nar.Limits{}); err == nil || !strings.Contains(err.Error(), "nested deeper than 64 levels") {
			t.Errorf("tree of %d levels = %v; want an error", levels, err)
		}
	}
}

// long says whether tests are to take more samples (scripts/test --long).
func long() bool { return os.Getenv("NARFS_TEST_LONG") != "" }

// TestReaderManyEntries reads a NAR of entries without end: refused, without
// keeping more of it than the limit allows.
func TestReaderManyEntries(t *testing.T) {
	limit, lim := 200_000, nar.Limits{Entries: 200_000}
	if long() {
		limit, lim = 4<<20, nar.Limits{} // the usual limit
	}
	var i int
	entry := raw(words("entry ( name 00000000 node ( type regular contents _ ) )")...)
	at := bytes.Index(entry, []byte("00000000"))
	rest := raw(words("nix-archive-1 ( type directory")...)
	r := readerFunc(func(p []byte) (int, error) {
		if len(rest) == 0 {
			i++
			copy(entry[at:], fmt.Sprintf("%08d", i))
			rest = entry
		}
		c := copy(p, rest)
		rest = rest[c:]
		return c, nil
	})
	want := fmt.Sprintf("NAR has more than %d entries", limit)
	if _, err := nar.ReadTree(r, lim); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("ReadTree of a NAR without end = %v; want an error", err)
	}
}

// TestNixVectors reads Nix's own NARs. They are Nix's and stay outside of narfs.
func TestNixVectors(t *testing.T) {
	folder := filepath.Join("..", "..", "shared", "vectors", "nars")
	names, err := filepath.Glob(filepath.Join(folder, "*.nar"))
	if err != nil || len(names) == 0 {
		t.Skip("Nix's test vectors are not beside the checkout (../shared/vectors/nars)")
	}
	want := map[string]string{
		"dot.nar":                               `invalid file name "."`,
		"dotdot.nar":                            `invalid file name ".."`,
		"empty.nar":                             "empty file name",
		"executable-after-contents.nar":         `expected tag ")", got "executable"`,
		"invalid-tag-instead-of-contents.nar":   `expected tag "contents"`,
		"name-after-node.nar":                   `expected tag "name", got "node"`,
		"nul-character.nar":                     "invalid file name",
		"regular-one-byte-non-zero-padding.nar": "non-zero padding",
		"regular-one-byte-zero-padding.nar":     "",
		"regular-truncated-large-contents.nar":  "contents of 18446744073709551615 bytes",
		"regular-truncated-padding.nar":         "it ends early",
		"slash.nar":                             "invalid file name",
	}
	for _, name := range names {
		in, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = readAll(nar.NewReader(bytes.NewReader(in), nar.Limits{}))
		msg, known := want[filepath.Base(name)]
		if !known || (msg == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), msg) {
			t.Errorf("reading %s = %v; want %q", filepath.Base(name), err, msg)
		}
	}
	if len(names) != len(want) {
		t.Errorf("%d vectors; want %d", len(names), len(want))
	}
}

// A NAR that is longer than it should be is refused where it begins to be.
func TestSizeLimit(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	for _, h := range []nar.Header{
		{Depth: 1, Type: nar.TypeDirectory}, {Depth: 2, Name: "a", Type: nar.TypeRegular, Size: 8}, {Depth: 2, Name: "b", Type: nar.TypeSymlink, Target: "a"},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := nar.ReadTree(bytes.NewReader(b.Bytes()), nar.Limits{Size: int64(b.Len())}); err != nil {
		t.Errorf("ReadTree of a NAR as long as it may be = %v", err)
	}
	for _, size := range []int64{1, 100, 300} {
		r := nar.NewReader(bytes.NewReader(b.Bytes()), nar.Limits{Size: size})
		for {
			_, err := r.Next()
			if errors.Is(err, nar.ErrSize) {
				break
			}
			if err != nil {
				t.Errorf("with a limit of %d of %d bytes: %v; want ErrSize", size, b.Len(), err)
				break
			}
		}
		if r.Offset() > size+200 {
			t.Errorf("with a limit of %d, %d bytes were read", size, r.Offset())
		}
	}
}
