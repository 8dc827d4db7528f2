package chunk_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/narfs/narfs/nar/chunk"
)

func noise(n int, seed byte) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(p)
	return p
}

func newCutter(tb testing.TB, p chunk.Params) *chunk.Cutter {
	tb.Helper()
	c, err := chunk.NewCutter(p)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func cutAll(c *chunk.Cutter, data []byte) (lens []int) {
	for len(data) > 0 {
		n := c.Cut(data, true)
		lens = append(lens, n)
		data = data[n:]
	}
	return lens
}

// The cut points are part of the store format: a change here is a new format version.
func TestGoldenCutPoints(t *testing.T) {
	small := chunk.Params{Min: 4 << 10, Avg: 16 << 10, Max: 64 << 10}
	for _, tt := range []struct {
		name string
		data []byte
		want string
	}{
		{"noise", noise(200_000, 1), goldenNoise},
		{"zeros", make([]byte, 150_000), "[65536 65536 18928]"},
		{"text", bytes.Repeat([]byte("the quick brown fox jumps over the lazy dog\n"), 2000), goldenText},
	} {
		if got := fmt.Sprint(cutAll(newCutter(t, small), tt.data)); got != tt.want {
			t.Errorf("cut(%s) = %s; want %s", tt.name, got, tt.want)
		}
	}
}

func TestSizes(t *testing.T) {
	p := chunk.Params{Min: 4 << 10, Avg: 16 << 10, Max: 64 << 10}
	lens := cutAll(newCutter(t, p), noise(32<<20, 2))
	sum := 0
	for i, n := range lens {
		sum += n
		if n > p.Max || n < p.Min && i < len(lens)-1 {
			t.Fatalf("chunk %d has %d bytes; want %d..%d", i, n, p.Min, p.Max)
		}
	}
	if mean := sum / len(lens); mean < p.Avg*8/10 || mean > p.Avg*13/10 {
		t.Errorf("mean chunk size = %d; want about %d", mean, p.Avg)
	}
}

// A boundary is a function of the content around it: after an insertion the cuts meet again.
func TestCutsMeetAgain(t *testing.T) {
	c := newCutter(t, chunk.Params{Min: 1 << 10, Avg: 4 << 10, Max: 16 << 10})
	data := noise(1<<20, 3)
	seen := map[chunk.ID]bool{}
	for rest := data; len(rest) > 0; {
		n := c.Cut(rest, true)
		seen[chunk.Sum(rest[:n])] = true
		rest = rest[n:]
	}
	changed := append(append(bytes.Clone(data[:500_000]), "inserted"...), data[500_000:]...)
	fresh := 0
	for rest := changed; len(rest) > 0; {
		n := c.Cut(rest, true)
		if !seen[chunk.Sum(rest[:n])] {
			fresh += n
		}
		rest = rest[n:]
	}
	if fresh > 4*16<<10 {
		t.Errorf("an insertion of 8 bytes made %d bytes of new chunks", fresh)
	}
}

// Cutting a stream piece by piece gives the cuts of the whole.
func TestPieceByPiece(t *testing.T) {
	p := chunk.Params{Min: 64, Avg: 256, Max: 1024}
	c := newCutter(t, p)
	rapid.Check(t, func(t *rapid.T) {
		data := noise(rapid.IntRange(0, 20_000).Draw(t, "len"), rapid.Byte().Draw(t, "seed"))
		want := cutAll(c, data)
		var got []int
		for start, have := 0, 0; start < len(data); {
			have = min(len(data), max(have, start)+rapid.IntRange(1, 3000).Draw(t, "piece"))
			for start < have {
				n := c.Cut(data[start:have], have == len(data))
				if n == 0 {
					break
				}
				got = append(got, n)
				start += n
			}
			if have-start >= p.Max {
				t.Fatalf("no boundary in %d bytes", have-start)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("cuts differ (-whole +pieces):\n%s", diff)
		}
	})
}

func TestBadParams(t *testing.T) {
	for _, p := range []chunk.Params{{}, {Min: 63, Avg: 100, Max: 200}, {Min: 100, Avg: 99, Max: 200}, {Min: 64, Avg: 64, Max: 2 << 20}} {
		if _, err := chunk.NewCutter(p); err == nil {
			t.Errorf("NewCutter(%+v) = nil error; want one", p)
		}
	}
}

func BenchmarkCut(b *testing.B) {
	c := newCutter(b, chunk.Params{Min: 4 << 10, Avg: 16 << 10, Max: 64 << 10})
	data := noise(16<<20, 4)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		for rest := data; len(rest) > 0; {
			rest = rest[c.Cut(rest, true):]
		}
	}
}
