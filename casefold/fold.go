package casefold

import (
	"slices"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// appendKey appends the key of name to dst.
func (r Rule) appendKey(dst []byte, name string) []byte {
	for i := range len(name) {
		if name[i] >= utf8.RuneSelf && r != ASCII {
			// What precedes may be the base of the first mark; no rule lets that matter, for ASCII never moves.
			return r.appendUnicode(dst, name[i:])
		}
		dst = append(dst, lowerASCII(name[i]))
	}
	return dst
}

func lowerASCII(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}

// mark is a character of a canonical decomposition that waits for its place among its neighbours.
type mark struct {
	r     rune
	class uint8
}

// appendUnicode appends the key of name under HFS or APFS: the characters of its canonical decomposition, in
// canonical order, each folded. (x/text/unicode/norm as a whole will not do: it breaks up long runs of marks by
// inserting U+034F, and HFS+ leaves some characters composed; x/text/cases replaces ill-formed bytes.)
func (r Rule) appendUnicode(dst []byte, name string) []byte {
	var buf [32]mark
	marks := buf[:0] // since the last character of class 0
	for name != "" {
		c, size := utf8.DecodeRuneInString(name)
		if c == utf8.RuneError && size == 1 || r == HFS && c&^1 == 0xFFFE {
			dst, marks = r.appendMarks(dst, marks), marks[:0]
			for i := range size {
				dst = r.appendIllFormed(dst, name[i])
			}
			name = name[size:]
			continue
		}
		char := name[:size]
		name = name[size:]
		if c < utf8.RuneSelf {
			dst, marks = r.appendMarks(dst, marks), marks[:0]
			dst = append(dst, lowerASCII(byte(c)))
			continue
		}
		if l, v, t, ok := decomposeHangul(c); ok {
			dst, marks = r.appendMarks(dst, marks), marks[:0]
			dst = utf8.AppendRune(utf8.AppendRune(dst, l), v)
			if t != 0 {
				dst = utf8.AppendRune(dst, t)
			}
			continue
		}
		p := norm.NFD.PropertiesString(char)
		d := p.Decomposition()
		if d == nil || r == HFS && !hfsDecomposes(c) {
			class := p.CCC()
			if r == HFS && c > 0xFFFF { // half of a pair in UTF-16, which has no class
				class = 0
			}
			dst, marks = r.appendChar(dst, marks, mark{c, class})
			continue
		}
		for len(d) > 0 {
			c, size := utf8.DecodeRune(d)
			dst, marks = r.appendChar(dst, marks, mark{c, norm.NFD.Properties(d[:size]).CCC()})
			d = d[size:]
		}
	}
	return r.appendMarks(dst, marks)
}

// appendChar appends a character of class 0 after the marks that wait; another it makes wait.
func (r Rule) appendChar(dst []byte, marks []mark, m mark) ([]byte, []mark) {
	if m.class != 0 {
		return dst, append(marks, m)
	}
	return r.appendFolded(r.appendMarks(dst, marks), m.r), marks[:0]
}

// appendMarks appends marks in canonical order.
func (r Rule) appendMarks(dst []byte, marks []mark) []byte {
	slices.SortStableFunc(marks, func(a, b mark) int { return int(a.class) - int(b.class) })
	for _, m := range marks {
		dst = r.appendFolded(dst, m.r)
	}
	return dst
}

// appendFolded appends what the rule compares in place of one decomposed character.
func (r Rule) appendFolded(dst []byte, c rune) []byte {
	if r == HFS {
		if hfsIgnores(c) {
			return dst
		}
		return utf8.AppendRune(dst, hfsLower(c))
	}
	if s := fullFold(c); s != "" {
		for _, c := range s {
			dst = utf8.AppendRune(dst, simpleFold(c)) // which chooses another letter than the table for Armenian
		}
		return dst
	}
	return utf8.AppendRune(dst, simpleFold(c))
}

// appendIllFormed appends a byte that is no part of a character. HFS+ escapes it, so that it collides with its
// escaped form. APFS refuses it: it equals only itself.
func (r Rule) appendIllFormed(dst []byte, c byte) []byte {
	if r == HFS {
		const digits = "0123456789abcdef"
		return append(dst, '%', digits[c>>4], digits[c&15])
	}
	return append(dst, c)
}

// decomposeHangul splits a syllable into its letters (Unicode, section 3.12); t is 0 if there are only two. It is
// here because norm.Properties tells no decomposition of a syllable.
func decomposeHangul(c rune) (l, v, t rune, ok bool) {
	const base, count, vowels, tails = 0xAC00, 11172, 21, 28
	c -= base
	if c < 0 || c >= count {
		return 0, 0, 0, false
	}
	if t = c % tails; t != 0 {
		t += 0x11A7
	}
	return 0x1100 + c/(vowels*tails), 0x1161 + c/tails%vowels, t, true
}

// simpleFold returns one character for all those that Unicode's simple and common case folding equate.
func simpleFold(c rune) rune {
	least := c
	for f := unicode.SimpleFold(c); f != c; f = unicode.SimpleFold(f) {
		least = min(least, f)
	}
	switch {
	case least < utf8.RuneSelf:
		return rune(lowerASCII(byte(least)))
	case least == 0x0345: // the one mark that is folded with letters
		return 0x03B9
	}
	return least
}

// fullFold returns the full case folding of the characters that fold to several, and "" for all others: the
// lines of status F of Unicode's CaseFolding.txt, without the characters that have a canonical decomposition,
// since those do not come here. New ones have not come since Unicode 5.1.
func fullFold(c rune) string {
	switch c {
	case 0x00DF, 0x1E9E: // ß
		return "ss"
	case 0x0149: // ŉ
		return "\u02BCn"
	case 0x0587: // և
		return "\u0565\u0582"
	case 0x1E9A: // ẚ
		return "a\u02BE"
	case 0xFB00:
		return "ff"
	case 0xFB01:
		return "fi"
	case 0xFB02:
		return "fl"
	case 0xFB03:
		return "ffi"
	case 0xFB04:
		return "ffl"
	case 0xFB05, 0xFB06:
		return "st"
	case 0xFB13:
		return "\u0574\u0576"
	case 0xFB14:
		return "\u0574\u0565"
	case 0xFB15:
		return "\u0574\u056B"
	case 0xFB16:
		return "\u057E\u0576"
	case 0xFB17:
		return "\u0574\u056D"
	}
	return ""
}
