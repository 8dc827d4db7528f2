package nix

import (
	"fmt"
	"strings"
)

const nix32Alphabet = "0123456789abcdfghijklmnpqrsvwxyz"

// nix32Len returns how many digits n bytes need.
func nix32Len(n int) int { return (n*8 + 4) / 5 }

// EncodeNix32 spells b in Nix's base 32.
func EncodeNix32(b []byte) string {
	digits := make([]byte, nix32Len(len(b)))
	pos := len(digits)
	var pending, bits uint // bits of b that are not yet a digit; the lowest comes first
	for _, c := range b {
		pending |= uint(c) << bits
		for bits += 8; bits >= 5; bits -= 5 {
			pos--
			digits[pos] = nix32Alphabet[pending&31]
			pending >>= 5
		}
	}
	if bits > 0 {
		digits[0] = nix32Alphabet[pending]
	}
	return string(digits)
}

// DecodeNix32 is the reverse of EncodeNix32 and accepts nothing that it does not write.
func DecodeNix32(s string) ([]byte, error) {
	size := len(s) * 5 / 8
	if nix32Len(size) != len(s) {
		return nil, fmt.Errorf("decode nix32 %q: no number of bytes has %d digits", s, len(s))
	}
	b := make([]byte, 0, size)
	var pending, bits uint
	for i := len(s) - 1; i >= 0; i-- {
		digit := strings.IndexByte(nix32Alphabet, s[i])
		if digit < 0 {
			return nil, fmt.Errorf("decode nix32 %q: invalid character %q", s, s[i])
		}
		pending |= uint(digit) << bits
		if bits += 5; bits >= 8 {
			b = append(b, byte(pending))
			pending >>= 8
			bits -= 8
		}
	}
	if pending != 0 {
		return nil, fmt.Errorf("decode nix32 %q: the number does not fit %d bytes", s, size)
	}
	return b, nil
}
