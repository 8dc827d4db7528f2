package wire_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/internal/wire"
)

const hello = "\x05\x00\x00\x00\x00\x00\x00\x00hello\x00\x00\x00"

// encode gives what f writes.
func encode(tb testing.TB, f func(*wire.Writer)) string {
	tb.Helper()
	var b strings.Builder
	w := wire.NewWriter(&b)
	f(w)
	if err := w.Flush(); err != nil {
		tb.Fatalf("Flush() = %v", err)
	}
	return b.String()
}

func TestWriter(t *testing.T) {
	tests := []struct {
		name string
		f    func(*wire.Writer) error
		want string
	}{
		{"zero", func(w *wire.Writer) error { return w.Uint64(0) }, "\x00\x00\x00\x00\x00\x00\x00\x00"},
		{"number", func(w *wire.Writer) error { return w.Uint64(0x0102030405060708) }, "\x08\x07\x06\x05\x04\x03\x02\x01"},
		{"true", func(w *wire.Writer) error { return w.Bool(true) }, "\x01\x00\x00\x00\x00\x00\x00\x00"},
		{"false", func(w *wire.Writer) error { return w.Bool(false) }, "\x00\x00\x00\x00\x00\x00\x00\x00"},
		{"empty string", func(w *wire.Writer) error { return w.String("") }, "\x00\x00\x00\x00\x00\x00\x00\x00"},
		{"string", func(w *wire.Writer) error { return w.String("hello") }, hello},
		{"string of eight", func(w *wire.Writer) error { return w.String("12345678") }, "\x08\x00\x00\x00\x00\x00\x00\x0012345678"},
		{"bytes", func(w *wire.Writer) error { return w.Bytes([]byte("hello")) }, hello},
		{"padding", func(w *wire.Writer) error { return w.Padding(1<<40 + 6) }, "\x00\x00"},
		{"no padding", func(w *wire.Writer) error { return w.Padding(16) }, ""},
	}
	for _, tt := range tests {
		if got := encode(t, func(w *wire.Writer) { _ = tt.f(w) }); got != tt.want {
			t.Errorf("%s = %q; want %q", tt.name, got, tt.want)
		}
	}
}

func TestWriterError(t *testing.T) {
	errFull := errors.New("no space")
	w := wire.NewWriter(writerFunc(func([]byte) (int, error) { return 0, errFull }))
	big := strings.Repeat("x", 1<<20)
	if err := w.String(big); !errors.Is(err, errFull) {
		t.Errorf("String(1 MiB) = %v; want %v", err, errFull)
	}
	for name, got := range map[string]error{
		"Uint64": w.Uint64(1), "Bool": w.Bool(true), "String": w.String("a"), "Bytes": w.Bytes([]byte("a")),
		"Padding": w.Padding(1), "Flush": w.Flush(),
	} {
		if !errors.Is(got, errFull) {
			t.Errorf("%s after an error = %v; want %v", name, got, errFull)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestNewOfOwnKind(t *testing.T) {
	r := wire.NewReader(strings.NewReader(""))
	if got := wire.NewReader(r); got != r {
		t.Errorf("NewReader(*Reader) = %p; want %p, the same", got, r)
	}
	w := wire.NewWriter(io.Discard)
	if got := wire.NewWriter(w); got != w {
		t.Errorf("NewWriter(*Writer) = %p; want %p, the same", got, w)
	}
}

// Sources that hand out their bytes in different ways; decoding must not depend on it.
var sources = map[string]func(string) io.Reader{
	"whole":     func(s string) io.Reader { return strings.NewReader(s) },
	"one byte":  func(s string) io.Reader { return iotest.OneByteReader(strings.NewReader(s)) },
	"half":      func(s string) io.Reader { return iotest.HalfReader(strings.NewReader(s)) },
	"early EOF": func(s string) io.Reader { return iotest.DataErrReader(strings.NewReader(s)) },
}

func TestReader(t *testing.T) {
	var sizes []int
	for _, n := range []int{0, 1, 7, 8, 9, 4096, 64<<10 - 9, 64<<10 - 8, 64<<10 - 7, 64 << 10, 200_001} {
		sizes = append(sizes, n, n) // twice, so that the second starts elsewhere in the buffer
	}
	text := func(n int) string { return strings.Repeat("abcdefg", n/7+1)[:n] }
	stream := encode(t, func(w *wire.Writer) {
		_ = w.Uint64(1<<64 - 1)
		_ = w.Bool(true)
		_ = w.Uint64(7) // true for Nix as well
		_ = w.Bool(false)
		_ = w.Uint64(uint64(len(sizes)))
		for _, n := range sizes {
			_ = w.String(text(n))
		}
		_, _ = io.WriteString(w, text(300_000))
		_, _ = io.WriteString(w, "end")
	})
	for name, source := range sources {
		t.Run(name, func(t *testing.T) {
			r := wire.NewReader(source(stream))
			if got, err := r.Uint64(); got != 1<<64-1 || err != nil {
				t.Errorf("Uint64() = %d, %v; want 2^64-1", got, err)
			}
			for i, want := range []bool{true, true, false} {
				if got, err := r.Bool(); got != want || err != nil {
					t.Errorf("Bool() of value %d = %v, %v; want %v", i, got, err, want)
				}
			}
			if got, err := r.Count(100, "texts"); got != len(sizes) || err != nil {
				t.Errorf("Count() = %d, %v; want %d", got, err, len(sizes))
			}
			for i, n := range sizes {
				if i%2 == 0 {
					if got, err := r.Token(1<<20, "text"); string(got) != text(n) || err != nil {
						t.Errorf("Token() = %d bytes, %v; want %d bytes", len(got), err, n)
					}
				} else if got, err := r.String(n, "text"); got != text(n) || err != nil {
					t.Errorf("String() = %d bytes, %v; want %d bytes", len(got), err, n)
				}
			}
			if err := r.Discard(150_000); err != nil {
				t.Errorf("Discard() = %v", err)
			}
			raw := make([]byte, 150_000)
			if _, err := io.ReadFull(r, raw); err != nil || string(raw) != text(300_000)[150_000:] {
				t.Errorf("Read() of 150,000 bytes: %v, or other bytes", err)
			}
			if got, want := r.Offset(), int64(len(stream)-3); got != want {
				t.Errorf("Offset() = %d; want %d", got, want)
			}
			if rest, err := io.ReadAll(r); string(rest) != "end" || err != nil {
				t.Errorf("ReadAll() = %q, %v; want %q", rest, err, "end")
			}
			if _, err := r.Uint64(); !errors.Is(err, io.EOF) {
				t.Errorf("Uint64() at the end = %v; want EOF", err)
			}
		})
	}
}

func TestReaderErrors(t *testing.T) {
	tests := []struct {
		name, in string
		f        func(*wire.Reader) error
		want     error
	}{
		{"no number", "", readUint64, io.EOF},
		{"half a number", "\x01\x02", readUint64, io.ErrUnexpectedEOF},
		{"no string", "", readString, io.EOF},
		{"string without bytes", hello[:8], readString, io.ErrUnexpectedEOF},
		{"string without padding", hello[:13], readString, io.ErrUnexpectedEOF},
		{"string with half its padding", hello[:15], readString, io.ErrUnexpectedEOF},
		{"string, wrong padding", hello[:15] + "x", readString, wire.ErrPadding},
		{"padding", "\x00\x00\x01", func(r *wire.Reader) error { return r.Padding(5) }, wire.ErrPadding},
		{"no padding", "", func(r *wire.Reader) error { return r.Padding(5) }, io.ErrUnexpectedEOF},
		{"padding of zero bytes", "", func(r *wire.Reader) error { return r.Padding(8) }, nil},
		{"discard too much", "abc", func(r *wire.Reader) error { return r.Discard(4) }, io.ErrUnexpectedEOF},
		{"long string cut", "\x00\x00\x10\x00\x00\x00\x00\x00abc", readString, io.ErrUnexpectedEOF},
		{"string over the limit", "\x01\x00\x10\x00\x00\x00\x00\x00abc", readString, &wire.LimitError{What: "text", Len: 1<<20 + 1, Max: 1 << 20}},
		{"absurd string", "\xff\xff\xff\xff\xff\xff\xff\xff", readString, &wire.LimitError{What: "text", Len: 1<<64 - 1, Max: 1 << 20}},
		{"absurd count", "\xff\xff\xff\xff\xff\xff\xff\xff", readCount, &wire.LimitError{What: "paths", Len: 1<<64 - 1, Max: 10}},
	}
	for _, tt := range tests {
		for name, source := range sources {
			got := tt.f(wire.NewReader(source(tt.in)))
			if limit, ok := errors.AsType[*wire.LimitError](got); ok {
				if diff := cmp.Diff(tt.want, error(limit)); diff != "" {
					t.Errorf("%s (%s): -want +got:\n%s", tt.name, name, diff)
				}
			} else if !errors.Is(got, tt.want) {
				t.Errorf("%s (%s) = %v; want %v", tt.name, name, got, tt.want)
			}
		}
	}
	if got, want := (&wire.LimitError{What: "paths", Len: 11, Max: 10}).Error(), "paths: length 11 exceeds the limit of 10"; got != want {
		t.Errorf("LimitError.Error() = %q; want %q", got, want)
	}
}

// Every byte of every padding counts.
func TestTokenPadding(t *testing.T) {
	for size := 1; size <= 17; size++ {
		good := encode(t, func(w *wire.Writer) { _ = w.String(strings.Repeat("x", size)) })
		for i := 8 + size; i < len(good); i++ {
			bad := []byte(good)
			bad[i] = 0x80
			if err := readString(wire.NewReader(bytes.NewReader(bad))); !errors.Is(err, wire.ErrPadding) {
				t.Errorf("String() of %d bytes with byte %d not zero = %v; want %v", size, i, err, wire.ErrPadding)
			}
		}
	}
}

func readUint64(r *wire.Reader) error { _, err := r.Uint64(); return err }

func readString(r *wire.Reader) error { _, err := r.String(1<<20, "text"); return err }

func readCount(r *wire.Reader) error { _, err := r.Count(10, "paths"); return err }

// A source's own error must come through, after the bytes that came before it, and every time.
func TestReaderSourceError(t *testing.T) {
	errCable := errors.New("cable pulled")
	r := wire.NewReader(io.MultiReader(strings.NewReader(hello), iotest.ErrReader(errCable)))
	if got, err := r.String(10, "text"); got != "hello" || err != nil {
		t.Errorf("String() = %q, %v; want hello", got, err)
	}
	for range 2 {
		if err := readString(r); !errors.Is(err, errCable) {
			t.Errorf("String() after the source's error = %v; want %v", err, errCable)
		}
		if _, err := r.Read(make([]byte, 1<<20)); !errors.Is(err, errCable) {
			t.Errorf("Read() after the source's error = %v; want %v", err, errCable)
		}
	}
	idle := wire.NewReader(readerFunc(func([]byte) (int, error) { return 0, nil }))
	if err := readUint64(idle); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("Uint64() of a source that gives nothing = %v; want %v", err, io.ErrNoProgress)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// A Reader on a connection must not wait for more than the value needs.
func TestReaderDoesNotReadAhead(t *testing.T) {
	ours, theirs := io.Pipe()
	r := wire.NewReader(ours)
	go func() { // ends with its only write, which the String below takes
		_, _ = io.WriteString(theirs, hello+hello)
	}()
	for range 2 {
		if got, err := r.String(10, "text"); got != "hello" || err != nil {
			t.Errorf("String() = %q, %v; want hello", got, err)
		}
	}
	go func() {
		_, _ = io.WriteString(theirs, "abX")
	}()
	if r.Match("abcdef") { // differs at the third byte: no need to wait for six
		t.Error("Match(abcdef) of abX = true")
	}
	if !r.Match("abX") {
		t.Error("Match(abX) of abX = false")
	}
}

func TestMatch(t *testing.T) {
	for name, source := range sources {
		r := wire.NewReader(source(hello + "ab"))
		for _, tt := range []struct {
			lit  string
			want bool
			off  int64
		}{
			{"", true, 0},
			{"x", false, 0},
			{hello + "abc", false, 0},
			{hello, true, 16},
			{"b", false, 16},
			{"a", true, 17},
			{"bc", false, 17},
			{"b", true, 18},
			{"b", false, 18},
			{"", true, 18},
		} {
			if got := r.Match(tt.lit); got != tt.want || r.Offset() != tt.off {
				t.Errorf("Match(%q) (%s) = %v, then Offset() = %d; want %v, %d", tt.lit, name, got, r.Offset(), tt.want, tt.off)
			}
		}
		if err := readUint64(r); !errors.Is(err, io.EOF) {
			t.Errorf("Uint64() at the end = %v; want EOF", err)
		}
	}
}

func TestTokenDoesNotAllocate(t *testing.T) {
	r := wire.NewReader(newRepeat())
	w := wire.NewWriter(io.Discard)
	if got := testing.AllocsPerRun(10, func() {
		for range 10_000 {
			if b, err := r.Token(10, "text"); len(b) != 5 || err != nil {
				t.Fatalf("Token() = %q, %v; want hello", b, err)
			}
			if !r.Match(hello) {
				t.Fatal("Match(hello) = false")
			}
			_ = w.String("hello")
			_ = w.Uint64(7)
		}
	}); got != 0 {
		t.Errorf("40,000 calls allocate %v times; want 0", got)
	}
}

// A peer that announces a large string and sends little must not cost the announced memory.
func TestLongTokenGrowsWithItsBytes(t *testing.T) {
	in := "\x00\x00\x00\x40\x00\x00\x00\x00" + strings.Repeat("x", 100_000) // 1 GiB announced
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := wire.NewReader(strings.NewReader(in)).Token(1<<30, "text"); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Token() = %v; want %v", err, io.ErrUnexpectedEOF)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
		t.Errorf("Token() of 100,000 of 1 GiB allocates %d bytes; want less than 1 MiB", got)
	}
}

// Golden bytes of Nix's own tests (libstore-tests/data/common-protocol).
func TestNixVectors(t *testing.T) {
	dir := filepath.Join("..", "..", "..", "shared", "vectors", "common-protocol")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no test vectors of Nix: %v", err)
	}
	load := func(name string) (bin string, js []byte) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, name+".bin"))
		if err != nil {
			t.Fatal(err)
		}
		js, err = os.ReadFile(filepath.Join(dir, name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b), js
	}

	t.Run("string", func(t *testing.T) {
		bin, js := load("string")
		var want []string
		if err := json.Unmarshal(js, &want); err != nil {
			t.Fatal(err)
		}
		var got []string
		r := wire.NewReader(strings.NewReader(bin))
		for range want {
			s, err := r.String(100, "text")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, s)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if again := encode(t, func(w *wire.Writer) {
			for _, s := range got {
				_ = w.String(s)
			}
		}); again != bin {
			t.Errorf("written again = %q; want %q", again, bin)
		}
	})

	for _, name := range []string{"vector", "set"} {
		t.Run(name, func(t *testing.T) {
			bin, js := load(name)
			var want []any
			if err := json.Unmarshal(js, &want); err != nil {
				t.Fatal(err)
			}
			r := wire.NewReader(strings.NewReader(bin))
			var b bytes.Buffer
			w := wire.NewWriter(&b)
			got := make([]any, 0, len(want))
			for _, element := range want {
				got = append(got, copyLike(t, element, r, w))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if err := w.Flush(); err != nil || b.String() != bin {
				t.Errorf("written again = %q, %v; want %q", b.String(), err, bin)
			}
		})
	}
}

// copyLike reads a value of the shape of like, a string or a list of values, writes it again and returns it.
func copyLike(t *testing.T, like any, r *wire.Reader, w *wire.Writer) any {
	t.Helper()
	list, ok := like.([]any)
	if !ok {
		s, err := r.String(100, "text")
		if err != nil {
			t.Fatal(err)
		}
		_ = w.String(s)
		return s
	}
	n, err := r.Count(10, "list")
	if err != nil {
		t.Fatal(err)
	}
	if n != len(list) {
		t.Fatalf("Count() = %d; want %d", n, len(list))
	}
	_ = w.Uint64(uint64(n))
	out := make([]any, n)
	for i := range out {
		out[i] = copyLike(t, list[i], r, w)
	}
	return out
}
