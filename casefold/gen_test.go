package casefold_test

import (
	"flag"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/narfs/narfs/casefold"
)

// sets is how many sets of names each property must hold for, unless -rapid.checks or -short say otherwise.
const sets = 5000

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue && !testing.Short() {
		if err := flag.Set("rapid.checks", strconv.Itoa(sets)); err != nil {
			panic(err)
		}
	}
	m.Run()
}

// rules is every rule there is.
var rules = []casefold.Rule{casefold.ASCII, casefold.HFS, casefold.APFS}

// groups hold parts of names that collide with each other under one rule or another.
func groups() [][]string {
	return [][]string{
		{"a", "A"},
		{"foo", "Foo", "FOO", "fOo"},
		{"é", "É", "e\u0301", "E\u0301", "e"},
		{"\u1EB9\u0301", "e\u0301\u0323", "\u00E9\u0323", "E\u0323\u0301"},
		{"ss", "SS", "ß", "ẞ", "ſs"},
		{"k", "K", "\u212A"},
		{"i", "I", "İ", "ı", "i\u0307"},
		{"σ", "ς", "Σ"},
		{"ﬁ", "fi", "FI"},
		{"å", "Å", "\u212B", "A\u030A"},
		{"ᾳ", "α\u0345", "Αι", "\u0345"},
		{"가", "\u1100\u1161", "각"},
		{"a\u200Cb", "AB", "ab", "\uFEFF"},
		{"Ⴀ", "ა", "ⴀ"},
		{"ж", "Ж"},
		{"\U00010400", "\U00010428"},
		{"\U0001D15E", "\U0001D157\U0001D165"},
		{"\xFF", "%ff", "%FF"},
		{"\xC3", "\xA9", "\u00E9"},
		{"0", "1", "01", "10"},
		{"~", ".", " ", "\n"},
	}
}

// suffixGroups bring the suffix in, in pieces and in spellings that collide with it.
func suffixGroups() [][]string {
	return [][]string{
		{"a", "A"},
		{"K", "k", "\u212A"},
		{s, S, "1", "2"},
		{s + "1", s + "2", s + "01", s + "0"},
		{s + "1", S + "1", S + "01"},
		{s, s[1:], s[:14]},
		{s[:14], S[:14]},
		{s, "~nix\u200C~case~hac\u212A~", "~nix~caſe~hack~", "1"},
		{s + "~", s + "~a58bvdqt83g6pslm6up6kas1kmhs277g"},
	}
}

// genNames generates the names of a directory, sorted by bytes as in a NAR. If suffix is set, they may hold the
// suffix, and some of them are names that Hack makes of the others.
func genNames(suffix bool) *rapid.Generator[[]string] {
	from := groups()
	if suffix {
		from = suffixGroups()
	}
	return rapid.Custom(func(t *rapid.T) []string {
		// Few parts for one directory, so that its names meet.
		var parts []string
		for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(0, len(from)-1), 1, 2, rapid.ID[int]).Draw(t, "groups") {
			parts = append(parts, from[i]...)
		}
		long := rapid.SampledFrom([]int{0, 0, 0, 0, 0, 0, 0, 200, 234, 238, 239, 240, 253}).Draw(t, "long")
		count := rapid.SampledFrom([]int{1, 2, 3}).Draw(t, "count")
		name := rapid.Custom(func(t *rapid.T) string {
			return strings.Repeat("x", long) + strings.Join(rapid.SliceOfN(rapid.SampledFrom(parts), 1, count).Draw(t, "name"), "")
		})
		names := clean(rapid.SliceOfN(name, 2, 12).Draw(t, "names"))
		if suffix && rapid.Bool().Draw(t, "derive") {
			for _, shown := range casefold.Hack(rapid.SampledFrom(rules).Draw(t, "rule"), names) {
				switch rapid.IntRange(0, 3).Draw(t, "how") {
				case 1:
					names = append(names, shown)
				case 2:
					names = append(names, strings.ToUpper(shown))
				}
			}
		}
		return clean(names)
	})
}

// clean makes names a NAR's: valid, distinct, sorted.
func clean(names []string) []string {
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool {
		return n == "" || n == "." || n == ".." || len(n) > casefold.MaxName
	})
	slices.Sort(names)
	return slices.Compact(names)
}

// nixNames is Nix's algorithm, held against Nix itself by TestRestoreByNix.
func nixNames(names []string) []string {
	count := map[string]int{}
	var all []string
	for _, name := range names {
		key := lower(name)
		n, ok := count[key]
		if ok {
			n++
			name += s + strconv.Itoa(n)
		}
		count[key] = n
		all = append(all, name)
	}
	return all
}

// lower is C's tolower for each byte.
func lower(name string) string {
	b := []byte(name)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] += 'a' - 'A'
		}
	}
	return string(b)
}

// storable reports whether a system with that rule can have a directory of these names.
func storable(rule casefold.Rule, names []string) bool {
	keys := map[string]bool{}
	for _, name := range names {
		keys[rule.Key(name)] = true
		if len(name) > casefold.MaxName {
			return false
		}
	}
	return len(keys) == len(names)
}

// holdsSuffix reports whether one of names holds the suffix.
func holdsSuffix(names []string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return strings.Contains(n, s) })
}
