package casefold

import "unicode"

// hfsDecomposes reports whether HFS+ stores a character decomposed that Unicode decomposes: it knows the tables
// of Unicode 3.2 for the basic plane only (Balinese is the one script in that plane with younger decompositions)
// and leaves compatibility characters alone.
func hfsDecomposes(c rune) bool {
	switch {
	case c >= 0x2000 && c < 0x3000, c >= 0xF900 && c < 0xFB00, c >= 0x1B00 && c < 0x1B80, c > 0xFFFF:
		return false
	}
	return true
}

// hfsIgnores reports whether HFS+ skips a character when it compares: the zero-width and direction marks.
func hfsIgnores(c rune) bool {
	switch {
	case c >= 0x200C && c <= 0x200F, c >= 0x202A && c <= 0x202E, c >= 0x206A && c <= 0x206F, c == 0xFEFF:
		return true
	}
	return false
}

// hfsLower is the case folding of HFS+, for characters that it stores: the pairs of Unicode 2 that have no
// decomposition. Georgian capitals fold to the letters that were theirs then.
func hfsLower(c rune) rune {
	switch {
	case c < unicode.MaxASCII:
		return rune(lowerASCII(byte(c)))
	case c < 0x0250:
		return hfsLowerLatin(c)
	case c >= 0x0391 && c <= 0x03A9 && c != 0x03A2, c >= 0x0410 && c <= 0x042F, c >= 0xFF21 && c <= 0xFF3A:
		return c + 32
	case c >= 0x03E2 && c <= 0x03EE, c >= 0x0460 && c <= 0x0480, c >= 0x0490 && c <= 0x04BE:
		return c | 1
	case c == 0x04C3, c == 0x04C7, c == 0x04CB:
		return c + 1
	case c >= 0x0400 && c <= 0x040F:
		return c + 80
	case c >= 0x0531 && c <= 0x0556, c >= 0x10A0 && c <= 0x10C5:
		return c + 48
	case c >= 0x2160 && c <= 0x216F:
		return c + 16
	}
	return c
}

func hfsLowerLatin(c rune) rune {
	switch c {
	case 0x00C6, 0x00D0, 0x00D8, 0x00DE,
		0x0110, 0x0126, 0x0132, 0x013F, 0x0141, 0x014A, 0x0152, 0x0166,
		0x0181, 0x0182, 0x0184, 0x0186, 0x0187, 0x0189, 0x018A, 0x018B, 0x018E, 0x018F,
		0x0190, 0x0191, 0x0193, 0x0194, 0x0196, 0x0197, 0x0198, 0x019C, 0x019D, 0x019F,
		0x01A2, 0x01A4, 0x01A7, 0x01A9, 0x01AC, 0x01AE, 0x01B1, 0x01B2, 0x01B3, 0x01B5, 0x01B7, 0x01B8, 0x01BC,
		0x01C4, 0x01C5, 0x01C7, 0x01C8, 0x01CA, 0x01CB, 0x01E4, 0x01F1, 0x01F2:
		return unicode.ToLower(c)
	}
	return c
}
