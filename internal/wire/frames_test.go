package wire_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"github.com/narfs/narfs/internal/wire"
)

// What is written in pieces of any sizes is read, in pieces of other sizes, and what follows is left alone.
func TestFrames(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var stream, want bytes.Buffer
		w := wire.NewWriter(&stream)
		fw := wire.NewFrameWriter(w)
		for i, n := range rapid.SliceOfN(rapid.IntRange(0, 100_000), 0, 8).Draw(t, "sizes") {
			piece := bytes.Repeat([]byte{byte(i + 1)}, n)
			want.Write(piece)
			if _, err := fw.Write(piece); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(fw.Close(), w.Uint64(42), w.Flush()); err != nil {
			t.Fatal(err)
		}
		var src io.Reader = &stream
		if rapid.Bool().Draw(t, "half reads") {
			src = iotest.HalfReader(src)
		}
		r := wire.NewReader(src)
		f := wire.NewFrames(r)
		some := make([]byte, rapid.IntRange(0, want.Len()).Draw(t, "read"))
		if _, err := io.ReadFull(f, some); err != nil || !bytes.Equal(some, want.Bytes()[:len(some)]) {
			t.Fatalf("reading %d of %d bytes: %v, or other bytes", len(some), want.Len(), err)
		}
		if rapid.Bool().Draw(t, "drain") {
			if err := f.Drain(); err != nil {
				t.Fatal(err)
			}
		} else if rest, err := io.ReadAll(f); err != nil || !bytes.Equal(rest, want.Bytes()[len(some):]) {
			t.Fatalf("the rest: %v, or other bytes", err)
		}
		if err := f.Drain(); err != nil { // once more
			t.Fatal(err)
		}
		if v, err := r.Uint64(); v != 42 || err != nil {
			t.Fatalf("behind the frames: %d, %v", v, err)
		}
	})
}

func TestFramesBroken(t *testing.T) {
	t.Parallel()
	const piece = "\x05\x00\x00\x00\x00\x00\x00\x00hello"
	for _, in := range []string{"", piece[:7], piece[:10], piece, piece + piece[:9], "\xff\xff\xff\xff\xff\xff\xff\xffabc"} {
		if _, err := io.ReadAll(wire.NewFrames(wire.NewReader(bytes.NewReader([]byte(in))))); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("reading %q = %v; want io.ErrUnexpectedEOF", in, err)
		}
		if err := wire.NewFrames(wire.NewReader(bytes.NewReader([]byte(in)))).Drain(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("draining %q = %v; want io.ErrUnexpectedEOF", in, err)
		}
	}
}
