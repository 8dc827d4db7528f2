package wire_test

import (
	"bytes"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/narfs/narfs/internal/wire"
)

// Whatever the bytes, reading ends without a panic, does not depend on how the source hands them out, and what was read
// is written as the same bytes.
func FuzzReader(f *testing.F) {
	f.Add([]byte(hello+hello), false)
	f.Add([]byte(hello[:15]+"x"), true)
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xffabc"), false)
	f.Add([]byte("\x00\x00\x01\x00\x00\x00\x00\x00"+strings.Repeat("x", 70_000)), false)
	f.Fuzz(func(t *testing.T, in []byte, oneByte bool) {
		r := wire.NewReader(bytes.NewReader(in))
		other := wire.NewReader(iotest.HalfReader(bytes.NewReader(in)))
		if oneByte {
			other = wire.NewReader(iotest.OneByteReader(bytes.NewReader(in)))
		}
		var again bytes.Buffer
		w := wire.NewWriter(&again)
		for {
			got, err := r.String(1<<20, "text")
			got2, err2 := other.Token(1<<20, "text")
			if got != string(got2) || (err == nil) != (err2 == nil) || r.Offset() != other.Offset() && err == nil {
				t.Fatalf("String() = %q, %v at %d; Token() of the split source = %q, %v at %d", got, err, r.Offset(), got2, err2, other.Offset())
			}
			if err != nil {
				break
			}
			if r.Offset() > int64(len(in)) {
				t.Fatalf("Offset() = %d of %d bytes", r.Offset(), len(in))
			}
			_ = w.String(got)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(in, again.Bytes()) {
			t.Errorf("written again = %q; want the beginning of %q", again.Bytes(), in)
		}
	})
}
