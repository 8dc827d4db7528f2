package wire_test

import (
	"io"
	"strings"
	"testing"

	"github.com/narfs/narfs/internal/wire"
)

// repeat is an endless source of s.
type repeat struct {
	s   string
	pos int
}

func (r *repeat) Read(p []byte) (int, error) {
	n := copy(p, r.s[r.pos:])
	r.pos += n
	if r.pos == len(r.s) {
		r.pos = 0
	}
	return n, nil
}

func newRepeat() *repeat { return &repeat{s: strings.Repeat(hello, 4096)} }

func BenchmarkToken(b *testing.B) {
	r := wire.NewReader(newRepeat())
	b.SetBytes(int64(len(hello)))
	b.ReportAllocs()
	for b.Loop() {
		if t, err := r.Token(255, "text"); err != nil || len(t) != 5 {
			b.Fatal(err)
		}
	}
}

func BenchmarkString(b *testing.B) {
	r := wire.NewReader(newRepeat())
	b.SetBytes(int64(len(hello)))
	b.ReportAllocs()
	for b.Loop() {
		if s, err := r.String(255, "text"); err != nil || len(s) != 5 {
			b.Fatal(err)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	r := wire.NewReader(newRepeat())
	const lit = hello + hello + hello + hello
	b.SetBytes(int64(len(lit)))
	b.ReportAllocs()
	for b.Loop() {
		if !r.Match(lit) {
			b.Fatal("no match")
		}
	}
}

func BenchmarkPadding(b *testing.B) {
	r := wire.NewReader(&repeat{s: strings.Repeat("\x00", 64<<10)})
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Padding(5); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	r := wire.NewReader(newRepeat())
	p := make([]byte, 1<<20)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		if _, err := io.ReadFull(r, p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWriterString(b *testing.B) {
	w := wire.NewWriter(io.Discard)
	b.SetBytes(int64(len(hello)))
	b.ReportAllocs()
	for b.Loop() {
		if err := w.String("hello"); err != nil {
			b.Fatal(err)
		}
	}
}
