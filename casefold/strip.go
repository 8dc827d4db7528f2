package casefold

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Suffix is what Nix puts between a name and its number.
const Suffix = "~nix~case~hack~"

// MaxName is the length of the longest name of a file, in bytes, on every system that narfs runs on.
const MaxName = 255

// What follows Suffix in a made-up name, if no number does. Nix's numbers begin at 1 and have no leading zero.
const (
	markLiteral = "0" // this Suffix belongs to the name itself
	markShort   = "~" // a digest of the whole name follows, of which only the start is here
)

// digestLen is the length of that digest: 160 bits of SHA-256 in base 32 with the digits 0 … 9, a … v.
const digestLen = 32

// escape marks every Suffix in name as a part of it. (After the mark of one, no other can begin inside it.)
func escape(name string) string {
	return strings.ReplaceAll(name, Suffix, Suffix+markLiteral)
}

// unescape undoes escape; ok is false if name holds a Suffix that escape would have marked.
func unescape(name string) (orig string, ok bool) {
	orig = strings.ReplaceAll(name, Suffix+markLiteral, Suffix)
	return orig, escape(orig) == name
}

// shorten makes a name of at most MaxName bytes: the start of name, without any Suffix, and a digest.
func shorten(name string, attempt int) string {
	sum := sha256.Sum256([]byte(name + "\x00" + strconv.Itoa(attempt)))
	digest := strings.ToLower(base32.HexEncoding.EncodeToString(sum[:digestLen*5/8]))
	end := min(len(name), MaxName-len(Suffix+markShort)-digestLen)
	for end > 0 && end < len(name) && !utf8.RuneStart(name[end]) {
		end--
	}
	start, _, _ := strings.Cut(name[:end]+Suffix, Suffix) // nor a Suffix that begins in name and ends in our own
	return start + Suffix + markShort + digest
}

// isShort reports whether shorten made name.
func isShort(name string) bool {
	_, digest, found := strings.Cut(name, Suffix)
	digest, marked := strings.CutPrefix(digest, markShort)
	return found && marked && len(digest) == digestLen && strings.Trim(digest, "0123456789abcdefghijklmnopqrstuv") == ""
}

// Strip returns the original name of a file in a hacked directory, and whether it differs from the name there.
// It undoes Hack; any other name that holds Suffix is cut at the first, as Nix does. orig is no valid name (but
// empty, "." or "..") where no original name can be told, among them every name that Hack had to shorten.
func Strip(name string) (orig string, hacked bool) {
	start, _, found := strings.Cut(name, Suffix)
	if !found {
		return name, false
	}
	base := name
	if i := strings.LastIndex(name, Suffix); isNumber(name[i+len(Suffix):]) {
		base = name[:i]
	}
	if orig, ok := unescape(base); ok {
		return orig, true
	}
	if isShort(name) {
		return "", true
	}
	return start, true
}

// isNumber reports whether s is a number as Hack writes it.
func isNumber(s string) bool {
	return s != "" && s[0] != '0' && strings.Trim(s, "0123456789") == ""
}

// Unhack returns the original names of the files in a hacked directory, in the order of onDisk (which need not
// be that of a NAR). When nothing changes, the result is onDisk itself. It is an error if two files have the same
// original name, or if that of one cannot be told.
func Unhack(onDisk []string) (orig []string, err error) {
	first := 0
	for first < len(onDisk) && !strings.Contains(onDisk[first], Suffix) {
		first++
	}
	if first == len(onDisk) {
		return onDisk, nil
	}
	orig = make([]string, len(onDisk))
	from := make(map[string]string, len(onDisk))
	for i, name := range onDisk {
		o, _ := Strip(name)
		if o == "" || o == "." || o == ".." {
			if isShort(name) {
				return nil, fmt.Errorf("file name '%s' was shortened by the case hack, its original name cannot be told", name)
			}
			return nil, fmt.Errorf("file name '%s' leaves '%s' without the case hack, which is not a file name", name, o)
		}
		if other, ok := from[o]; ok {
			return nil, fmt.Errorf("file name collision between '%s' and '%s'", other, name) // Nix's words
		}
		from[o], orig[i] = name, o
	}
	return orig, nil
}
