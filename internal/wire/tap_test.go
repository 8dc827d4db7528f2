package wire_test

import (
	"bytes"
	"io"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"github.com/narfs/narfs/internal/wire"
)

// Whatever mixture of calls consumes the stream, the tap sees exactly the bytes between its two calls.
func TestTap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var stream bytes.Buffer
		w := wire.NewWriter(&stream)
		sizes := rapid.SliceOfN(rapid.OneOf(rapid.IntRange(0, 40), rapid.IntRange(60_000, 200_000)), 1, 12).Draw(t, "sizes")
		for i, n := range sizes {
			if err := w.Bytes(bytes.Repeat([]byte{byte(i + 1)}, n)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		all := bytes.Clone(stream.Bytes())
		var src io.Reader = &stream
		if rapid.Bool().Draw(t, "half reads") {
			src = iotest.HalfReader(src)
		}
		r := wire.NewReader(src)
		var got bytes.Buffer
		from := int64(0)
		first := rapid.IntRange(0, len(sizes)-1).Draw(t, "first")
		for i, n := range sizes {
			if i == first {
				from = r.Offset()
				r.Tap(func(p []byte) { got.Write(p) })
			}
			if err := consume(r, n, rapid.IntRange(0, 2).Draw(t, "how")); err != nil {
				t.Fatal(err)
			}
		}
		r.Tap(nil)
		if !bytes.Equal(got.Bytes(), all[from:r.Offset()]) {
			t.Fatalf("tap saw %d bytes; want the %d from %d to %d", got.Len(), r.Offset()-from, from, r.Offset())
		}
	})
}

func consume(r *wire.Reader, size, how int) error {
	if how == 0 {
		_, err := r.Token(1<<20, "string")
		return err
	}
	n, err := r.Uint64()
	if err != nil {
		return err
	}
	if how == 1 {
		err = r.Discard(int64(n))
	} else {
		_, err = io.ReadFull(r, make([]byte, size))
	}
	if err != nil {
		return err
	}
	return r.Padding(n)
}
