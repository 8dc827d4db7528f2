package nix_test

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/narfs/narfs/internal/nix"
)

// The digests of "hello\n", as nix-hash --flat and nix hash file of Nix 2.8 print them.
var helloHashes = []struct {
	algo               nix.Algo
	base16, nix32, b64 string
}{
	{
		nix.MD5,
		"b1946ac92492d2347c6235b4d2611184",
		"4425hx5d1mc9y39llj4k4nm55i",
		"sZRqySSS0jR8YjW00mERhA==",
	},
	{
		nix.SHA1,
		"f572d396fae9206628714fb2ce00f72e94f2258f",
		"iwjz551fyw0cxcjgf4l6c879zabd6wpm",
		"9XLTlvrpIGYocU+yzgD3LpTyJY8=",
	},
	{
		nix.SHA256,
		"5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
		"00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq",
		"WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=",
	},
	{
		nix.SHA512,
		"e7c22b994c59d9cf2b48e549b1e24666636045930d3da7c1acb299d1c3b7f931f94aae41edda2c2b207a36e10f8bcb8d45223e54878f5b316e7ce3b6bc019629",
		"0lrc0dwnvipqviibf7qfm1y492qvjwb1zhkcyi05cndmva1mr5gjcgrnz1x36djmk0sfg8djd2n0qv68vib2jg590mwznar9jcjphp7",
		"58IrmUxZ2c8rSOVJseJGZmNgRZMNPafBrLKZ0cO3+TH5Sq5B7dosKyB6NuEPi8uNRSI+VIePWzFufOO2vAGWKQ==",
	},
}

func TestHash(t *testing.T) {
	for _, tt := range helloHashes {
		d := tt.algo.New()
		_, _ = io.WriteString(d, "hello\n")
		h, err := nix.NewHash(tt.algo, d.Sum(nil))
		if err != nil {
			t.Fatalf("NewHash(%s) = %v", tt.algo, err)
		}
		name := tt.algo.String()
		for _, p := range []struct{ what, got, want string }{
			{"Base16", h.Base16(), tt.base16},
			{"Nix32", h.Nix32(), tt.nix32},
			{"Base64", h.Base64(), tt.b64},
			{"SRI", h.SRI(), name + "-" + tt.b64},
			{"String", h.String(), name + ":" + tt.nix32},
		} {
			if p.got != p.want {
				t.Errorf("%s: %s() = %q; want %q", name, p.what, p.got, p.want)
			}
		}
		if !bytes.Equal(h.Digest(), d.Sum(nil)) || h.Algo() != tt.algo || h.IsZero() {
			t.Errorf("%s: Digest(), Algo(), IsZero() = %x, %s, %v", name, h.Digest(), h.Algo(), h.IsZero())
		}
		if sum, ok := h.SHA256(); ok != (tt.algo == nix.SHA256) || ok && nix.NewSHA256(sum) != h {
			t.Errorf("%s: SHA256() = %x, %v", name, sum, ok)
		}

		noPadding := strings.TrimRight(tt.b64, "=")
		for _, s := range []string{tt.base16, strings.ToUpper(tt.base16), tt.nix32, tt.b64} {
			for _, in := range []struct {
				text string
				algo nix.Algo
			}{{s, tt.algo}, {name + ":" + s, 0}, {name + ":" + s, tt.algo}, {name + "-" + tt.b64, 0}, {name + "-" + noPadding, tt.algo}} {
				if got, err := nix.ParseHash(in.text, in.algo); got != h || err != nil {
					t.Errorf("ParseHash(%q, %q) = %v, %v; want %v", in.text, in.algo, got, err, h)
				}
			}
		}
	}

	var none nix.Hash
	if got := none.String() + none.SRI() + none.Base16() + none.Nix32() + none.Base64(); got != "" || !none.IsZero() {
		t.Errorf("no hash = %q, IsZero() %v; want nothing", got, none.IsZero())
	}
}

// What Nix 2.8 refuses, seen with `nix hash to-base16`.
func TestParseHashErrors(t *testing.T) {
	sha256 := helloHashes[2]
	tests := []struct {
		in   string
		algo nix.Algo
		want string
	}{
		{"", 0, "does not include a type"},
		{sha256.base16, 0, "does not include a type"},
		{"", nix.SHA256, "wrong length for sha256"},
		{"sha256:", 0, "wrong length for sha256"},
		{"sha256-", 0, "wrong length of 0 bytes"},
		{"sha256:" + sha256.base16, nix.SHA1, `should have type "sha1"`},
		{"sha1:" + sha256.base16, 0, "wrong length for sha1"},
		{"sha3:" + sha256.base16, 0, `unknown hash algorithm "sha3"`},
		{"SHA256:" + sha256.base16, 0, `unknown hash algorithm "SHA256"`},
		{":" + sha256.base16, nix.SHA256, `unknown hash algorithm ""`},
		{"blake3:" + sha256.base16, 0, `unknown hash algorithm "blake3"`},
		{"sha256:" + strings.TrimRight(sha256.b64, "="), 0, "wrong length for sha256"},
		{"sha256-" + sha256.nix32, 0, "wrong length of 39 bytes"},
		{"sha256-" + sha256.base16, 0, "wrong length of 48 bytes"},
		{"sha256:" + strings.Replace(sha256.base16, "5", "g", 1), 0, "invalid byte"},
		{"sha256:" + strings.Replace(sha256.nix32, "x", "e", 1), 0, "invalid character 'e'"},
		{"sha256:" + strings.Replace(sha256.b64, "W", "*", 1), 0, "illegal base64"},
		{"md5:8zzzzzzzzzzzzzzzzzzzzzzzzz", 0, "does not fit 16 bytes"},
		{"md5:zzzzzzzzzzzzzzzzzzzzzzzzzz", 0, "does not fit 16 bytes"},
	}
	for _, tt := range tests {
		if got, err := nix.ParseHash(tt.in, tt.algo); err == nil || !strings.Contains(err.Error(), tt.want) || !got.IsZero() {
			t.Errorf("ParseHash(%q, %q) = %v, %v; want an error with %q", tt.in, tt.algo, got, err, tt.want)
		}
	}
	for _, n := range []int{0, 31, 33} {
		if got, err := nix.NewHash(nix.SHA256, make([]byte, n)); err == nil {
			t.Errorf("NewHash(sha256, %d bytes) = %v; want an error", n, got)
		}
	}
	if got, err := nix.NewHash(0, nil); err == nil {
		t.Errorf("NewHash(0, nil) = %v; want an error", got)
	}
}

func TestNix32(t *testing.T) {
	tests := []struct {
		bytes string
		want  string
	}{
		{"", ""},
		{"\x00", "00"},
		{"\x1f", "0z"},
		{"\x20", "10"},
		{"\xff", "7z"},
		{"\xff\xff", "1zzz"},
		{"\x01\x00\x00\x00\x00", "00000001"},
		{"\x00\x00\x00\x00\x80", "h0000000"},
	}
	for _, tt := range tests {
		if got := nix.EncodeNix32([]byte(tt.bytes)); got != tt.want {
			t.Errorf("EncodeNix32(%x) = %q; want %q", tt.bytes, got, tt.want)
		}
		if got, err := nix.DecodeNix32(tt.want); string(got) != tt.bytes || err != nil {
			t.Errorf("DecodeNix32(%q) = %x, %v; want %x", tt.want, got, err, tt.bytes)
		}
	}
	for _, s := range []string{"0", "000", "000000", "zz", "80", "2zzz", "0e", "0E", "0-", "\xff\xff"} {
		if got, err := nix.DecodeNix32(s); err == nil {
			t.Errorf("DecodeNix32(%q) = %x; want an error", s, got)
		}
	}
}

func TestNix32RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")
		if got, err := nix.DecodeNix32(nix.EncodeNix32(b)); !bytes.Equal(got, b) || err != nil {
			t.Fatalf("DecodeNix32(EncodeNix32(%x)) = %x, %v", b, got, err)
		}
	})
}
