package casefold_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/casefold"
)

// s and S are the suffix as Nix writes it and in the other case.
const (
	s = casefold.Suffix
	S = "~NIX~CASE~HACK~"
)

func TestParseRule(t *testing.T) {
	t.Parallel()
	for _, rule := range []casefold.Rule{casefold.ASCII, casefold.HFS, casefold.APFS} {
		if got, err := casefold.ParseRule(rule.String()); err != nil || got != rule {
			t.Errorf("ParseRule(%q) = %v, %v; want %v", rule.String(), got, err, rule)
		}
	}
	for _, name := range []string{"", "ASCII", "ntfs"} {
		if got, err := casefold.ParseRule(name); err == nil {
			t.Errorf("ParseRule(%q) = %v; want an error", name, got)
		}
	}
	if got, want := casefold.Rule(9).String(), "Rule(9)"; got != want {
		t.Errorf("Rule(9).String() = %q; want %q", got, want)
	}
}

// TestKey holds pairs of names and the rules under which they collide.
func TestKey(t *testing.T) {
	t.Parallel()
	const a, h, p = casefold.ASCII, casefold.HFS, casefold.APFS
	type rules = []casefold.Rule
	for _, tt := range []struct {
		x, y    string
		collide rules
	}{
		{"Foo", "fOO", rules{a, h, p}},
		{"xt_CONNMARK.h", "xt_connmark.h", rules{a, h, p}},
		{"a_b", "a-b", nil},
		{"[", "{", nil}, // their codes differ as those of A and a do
		{"@", "`", nil},
		{"a", "", nil},
		{"é", "É", rules{h, p}},
		{"\u00E9", "e\u0301", rules{h, p}},
		{"\u00C9cole", "E\u0301COLE", rules{h, p}},
		{"e\u0323\u0301", "e\u0301\u0323", rules{h, p}},  // canonical order
		{"e\u0301\u0300", "e\u0300\u0301", nil},          // same class: the order counts
		{"\u1EC7", "e\u0302\u0323", rules{h, p}},         // decomposed twice, then reordered
		{"\u212B", "\u00E5", rules{p}},                   // ångström sign: HFS+ leaves U+2000–2FFF
		{"\uF900", "\u8C48", rules{p}},                   // and U+F900–FAFF
		{"\U0001D15E", "\U0001D157\U0001D165", rules{p}}, // and all planes but the first
		{"\u1B06", "\u1B05\u1B35", rules{p}},             // decomposition younger than Unicode 3.2
		{"\uAC01", "\u1100\u1161\u11A8", rules{h, p}},    // Hangul with a tail
		{"\uAC00", "\u1100\u1161", rules{h, p}},          // and without
		{"\uAC00", "\uAC01", nil},                        //
		{"Straße", "STRASSE", rules{p}},                  // full folding
		{"ß", "\u1E9E", rules{p}},                        //
		{"ﬁ", "FI", rules{p}},                            //
		{"ﬃ", "ﬀi", rules{p}},                            //
		{"\u0149", "\u02BCN", rules{p}},                  //
		{"\u0587", "\u0565\u0552", rules{p}},             //
		{"\uFB17", "\u0544\u056D", rules{p}},             //
		{"\u212A", "K", rules{p}},                        // Kelvin sign
		{"\u017F", "S", rules{p}},                        // long s
		{"\u0130", "i\u0307", rules{h, p}},               // decomposes, then I folds: the Turkish lines do not apply
		{"\u0130", "i", nil},                             //
		{"\u0131", "I", nil},                             // dotless i is no I
		{"Σ", "σ", rules{h, p}},                          //
		{"σ", "ς", rules{p}},                             //
		{"\u0345", "\u0399", rules{p}},                   // a mark that folds to a letter
		{"\u1FB3", "ΑΙ", rules{p}},                       //
		{"\u03B1\u0345\u0301", "\u03AC\u03B9", rules{p}}, // but is ordered as a mark
		{"Ж", "ж", rules{h, p}},                          //
		{"\u04C0", "\u04CF", rules{p}},                   // a pair younger than Unicode 2
		{"\u10A0", "\u10D0", rules{h}},                   // Georgian as in Unicode 2
		{"\u10A0", "\u2D00", rules{p}},                   // and since 4.1
		{"\u13A0", "\uAB70", rules{p}},                   // Cherokee
		{"\U00010400", "\U00010428", rules{p}},           // Deseret
		{"\u2160", "\u2170", rules{h, p}},                // Roman numerals
		{"\uFF21", "\uFF41", rules{h, p}},                // full width
		{"\uFF21", "A", nil},                             // compatibility characters are other characters
		{"a\u200Db", "AB", rules{h}},                     // ignored by HFS+
		{"\uFEFFx", "x", rules{h}},                       //
		{"e\u200C\u0301", "\u00E9", rules{h}},            // ignored when comparing, after decomposition
		{"\u200D", "", rules{h}},                         //
		{"\xFF", "%Ff", rules{h}},                        // escaped by HFS+
		{"\uFFFE", "%ef%bf%be", rules{h}},                // as are noncharacters
		{"\xC3\u200D\xA9", "\u00E9", nil},                // two ill-formed bytes never make a character
		{"\xC3", "\xE3", nil},                            //
		{"A\xC3", "a\xC3", rules{a, h, p}},               //
		{strings.Repeat("\u0301", 90), strings.Repeat("\u0301", 90) + "\u034F", nil},
		{"a\U0001D165\u0323", "a\u0323\U0001D165", rules{p}}, // HFS+ knows no class of the other planes
		{"a" + strings.Repeat("\u0301\u0300", 9) + "\u0323", "a\u0323" + strings.Repeat("\u0301\u0300", 9), rules{h, p}},
		{"a" + strings.Repeat("\u0301", 40) + "\u0323", "A\u0323" + strings.Repeat("\u0301", 40), rules{h, p}},
	} {
		for _, rule := range []casefold.Rule{a, h, p} {
			x, y := rule.Key(tt.x), rule.Key(tt.y)
			if got, want := x == y, slices.Contains(tt.collide, rule); got != want {
				t.Errorf("%v: %+q and %+q collide = %v (keys %+q, %+q); want %v", rule, tt.x, tt.y, got, x, y, want)
			}
		}
	}
}

func TestHack(t *testing.T) {
	t.Parallel()
	long, part := strings.Repeat("x", 238), s[:14]
	for _, tt := range []struct {
		name        string
		rule        casefold.Rule
		names, want []string
	}{
		{"none", casefold.ASCII, nil, nil},
		{"one class", casefold.ASCII, []string{"FOO", "Foo", "bar", "foo"}, []string{"FOO", "Foo" + s + "1", "bar", "foo" + s + "2"}},
		{
			"two classes", casefold.ASCII,
			[]string{"A", "B", "a", "aa", "b"},
			[]string{"A", "B", "a" + s + "1", "aa", "b" + s + "1"},
		},
		{"Nix does not fold", casefold.ASCII, []string{"É", "é"}, []string{"É", "é"}},
		{"Unicode", casefold.APFS, []string{"STRASSE", "Straße", "straße"}, []string{"STRASSE", "Straße" + s + "1", "straße" + s + "2"}},
		{"spellings", casefold.HFS, []string{"e\u0301", "\u00E9"}, []string{"e\u0301", "\u00E9" + s + "1"}},
		{"literal", casefold.ASCII, []string{"a" + s + "1"}, []string{"a" + s + "01"}},
		{"literal and number", casefold.ASCII, []string{"A", "a", "a" + s + "1"}, []string{"A", "a" + s + "2", "a" + s + "01"}},
		{"literal in other case", casefold.ASCII, []string{"A", "a", "a" + S + "1"}, []string{"A", "a" + s + "2", "a" + S + "1"}},
		{"literals collide", casefold.ASCII, []string{"A" + s + "1", "a" + s + "1"}, []string{"A" + s + "01", "a" + s + "01" + s + "1"}},
		{
			"literal that another one escapes to", casefold.ASCII,
			[]string{"a" + s + "01", "a" + s + "1"},
			[]string{"a" + s + "001", "a" + s + "01" + s + "1"},
		},
		{"suffix alone", casefold.ASCII, []string{s}, []string{s + "0"}},
		{"suffixes that share a tilde", casefold.ASCII, []string{part + s}, []string{s + "0" + s[1:]}},
		{"ends in part of suffix", casefold.ASCII, []string{"X" + part, "x" + part}, []string{"X" + part, "x" + part + s + "1"}},
		{"just fits", casefold.ASCII, []string{long + "A", long + "a"}, []string{long + "A", long + "a" + s + "1"}},
	} {
		got := casefold.Hack(tt.rule, tt.names)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: Hack(%v, %q) (-want +got):\n%s", tt.name, tt.rule, tt.names, diff)
		}
		back, err := casefold.Unhack(got)
		if diff := cmp.Diff(tt.names, back); err != nil || diff != "" {
			t.Errorf("%s: Unhack(%q) = error %v (-want +got):\n%s", tt.name, got, err, diff)
		}
	}
}

// TestHackLongNames is about names that have no room for what Hack adds.
func TestHackLongNames(t *testing.T) {
	t.Parallel()
	repeat, part := strings.Repeat, s[:14]
	for _, tt := range []struct {
		what, name string
		after      string // sorts before name and collides with it, if not empty
		start      string // what is left of name, if it has to be shortened
	}{
		{"number just fits", repeat("x", 238) + "a", repeat("x", 238) + "A", ""},
		{"number does not fit", repeat("x", 239) + "a", repeat("x", 239) + "A", repeat("x", 207)},
		{"no character is cut", "x" + repeat("é", 125) + "a", "x" + repeat("é", 125) + "A", "x" + repeat("é", 103)},
		{"nor is a part of the suffix left", repeat("x", 193) + part + repeat("y", 40), repeat("X", 193) + part + repeat("y", 40), repeat("x", 193)},
		{"mark just fits", repeat("x", 238) + s + "a", "", ""},
		{"mark does not fit", repeat("x", 239) + s + "a", "", repeat("x", 207)},
		{"of the name of a literal all before the suffix is left", "x" + s + repeat("y", 239), "", "x"},
		{"also a part of it", repeat("x", 200) + s + repeat("y", 40), "", repeat("x", 200) + s[:7]},
	} {
		names := []string{tt.name}
		if tt.after != "" {
			names = []string{tt.after, tt.name}
		}
		shown := casefold.Hack(casefold.ASCII, names)
		got := shown[len(shown)-1]
		back, err := casefold.Unhack(shown)
		if len(got) > casefold.MaxName {
			t.Errorf("%s: Hack(%q) = %q with %d bytes", tt.what, names, got, len(got))
		}
		if tt.start == "" {
			if err != nil || !slices.Equal(back, names) {
				t.Errorf("%s: Unhack(%q) = %q, %v; want %q", tt.what, shown, back, err, names)
			}
			continue
		}
		if start, digest, _ := strings.Cut(got, s+"~"); start != tt.start || len(digest) != 32 {
			t.Errorf("%s: Hack(%q) = %q; want %q before the suffix and ~ and a digest", tt.what, names, got, tt.start)
		}
		if err == nil {
			t.Errorf("%s: Unhack(%q) = %q; want an error", tt.what, shown, back)
		}
	}
	// The digest is part of the format.
	got := casefold.Hack(casefold.ASCII, []string{repeat("x", 238) + "xA", repeat("x", 238) + "xa"})[1]
	if want := repeat("x", 207) + s + "~a58bvdqt83g6pslm6up6kas1kmhs277g"; got != want {
		t.Errorf("shortened name %q; want %q", got, want)
	}
}

func TestNeeded(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 32, 33, 512, 513, 5000} {
		names := benchNames(n)
		name := func(i int) string { return names[i] }
		if casefold.Needed(casefold.APFS, n, name) {
			t.Errorf("Needed of %d names = true; want false", n)
		}
		for what, last := range map[string]string{"a collision": strings.ToUpper(names[0]), "a suffix": "x" + s} {
			names[n-1] = last
			if want := n > 1 || what == "a suffix"; casefold.Needed(casefold.APFS, n, name) != want {
				t.Errorf("Needed of %d names with %s = %v; want %v", n, what, !want, want)
			}
		}
	}
}

func TestHackKeepsSlice(t *testing.T) {
	t.Parallel()
	names := []string{"a", "b", "É"}
	if got := casefold.Hack(casefold.APFS, names); &got[0] != &names[0] {
		t.Error("Hack made a new slice although nothing changes")
	}
	if got, err := casefold.Unhack(names); err != nil || &got[0] != &names[0] {
		t.Errorf("Unhack made a new slice although nothing changes (error %v)", err)
	}
}

func TestStrip(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, want string
		hacked     bool
	}{
		{"foo", "foo", false},
		{"foo" + S + "1", "foo" + S + "1", false},
		{"foo" + s + "1", "foo", true},
		{"foo" + s + "12", "foo", true},
		{"foo" + s, "foo", true}, // Nix wants no number
		{"foo" + s + "bar", "foo", true},
		{"foo" + s + "1" + s + "2", "foo", true},
		{"foo" + s + "1 ", "foo", true},
		{s + "1", "", true}, // as Nix, which writes this empty name
		{"." + s + "1", ".", true},
		{"foo" + s + "0", "foo" + s, true}, // narfs's own
		{"foo" + s + "01", "foo" + s + "1", true},
		{"foo" + s + "01" + s + "2", "foo" + s + "1", true},
		{"foo" + s + "0" + s + "0", "foo" + s + s, true},
		{"foo" + s + "0" + s, "foo", true}, // not narfs's own: one is not marked
		{s + s[1:] + "0", "", true},
		{"x" + s[:14] + s + "1", "x" + s[:14], true},
		{"foo" + s + "~a58bvdqt83g6pslm6up6kas1kmhs277g", "", true},
		{"foo" + s + "~a58bvdqt83g6pslm6up6kas1kmhs277", "foo", true},
		{"foo" + s + "~a58bvdqt83g6pslm6up6kas1kmhs277Z", "foo", true},
	} {
		if got, hacked := casefold.Strip(tt.name); got != tt.want || hacked != tt.hacked {
			t.Errorf("Strip(%q) = %q, %v; want %q, %v", tt.name, got, hacked, tt.want, tt.hacked)
		}
	}
}

func TestUnhackErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		onDisk []string
		want   string
	}{
		{[]string{"x", "a" + s + "1", "a"}, "file name collision between 'a" + s + "1' and 'a'"},
		{[]string{"a" + s + "1", "a" + s + "2"}, "file name collision between 'a" + s + "1' and 'a" + s + "2'"},
		{[]string{s + "1"}, "file name '" + s + "1' leaves '' without the case hack, which is not a file name"},
		{[]string{".." + s + "1"}, "file name '.." + s + "1' leaves '..' without the case hack, which is not a file name"},
		{
			[]string{"a" + s + "~a58bvdqt83g6pslm6up6kas1kmhs277g"},
			"file name 'a" + s + "~a58bvdqt83g6pslm6up6kas1kmhs277g' was shortened by the case hack, its original name cannot be told",
		},
	} {
		orig, err := casefold.Unhack(tt.onDisk)
		if err == nil || err.Error() != tt.want {
			t.Errorf("Unhack(%q) = %q, %v; want error %s", tt.onDisk, orig, err, tt.want)
		}
	}
}

func TestHacker(t *testing.T) {
	t.Parallel()
	h := casefold.NewHacker(casefold.ASCII)
	for _, tt := range []struct{ name, want string }{
		{"A", "A"},
		{"a", "a" + s + "1"},                     // not known yet that another one has this name
		{"a" + S + "1", "a" + S + "1" + s + "1"}, // nor may it have it now
		{"b", "b"},
	} {
		if got := h.Add(tt.name); got != tt.want {
			t.Errorf("Add(%q) = %q; want %q", tt.name, got, tt.want)
		}
	}
	want := []casefold.Rename{
		{From: "a" + s + "1", To: s + "~1~0"},
		{From: "a" + S + "1" + s + "1", To: s + "~2~0"},
		{From: s + "~1~0", To: "a" + s + "2"},
		{From: s + "~2~0", To: "a" + S + "1"},
	}
	if diff := cmp.Diff(want, h.Finish()); diff != "" {
		t.Errorf("Finish() (-want +got):\n%s", diff)
	}
}

func TestDir(t *testing.T) {
	t.Parallel()
	names := []string{"FOO", "Foo", "a" + s + "1", "bar", "foo"}
	shown := []string{"FOO", "Foo" + s + "1", "a" + s + "01", "bar", "foo" + s + "2"}
	name := func(i int) string { return names[i] }
	hacked := casefold.NewDir(casefold.ASCII, casefold.DirOptions{Hack: true}, len(names), name)
	folded := casefold.NewDir(casefold.ASCII, casefold.DirOptions{Hack: true, Fold: true}, len(names), name)
	plain := casefold.NewDir(casefold.ASCII, casefold.DirOptions{Fold: true}, len(names), name)
	for i := range names {
		if got := hacked.Shown(i); got != shown[i] {
			t.Errorf("hacked: Shown(%d) = %q; want %q", i, got, shown[i])
		}
		if got := plain.Shown(i); got != names[i] {
			t.Errorf("plain: Shown(%d) = %q; want %q", i, got, names[i])
		}
	}
	const none = -1
	for _, tt := range []struct {
		name                  string
		hacked, folded, plain int
	}{
		{"FOO", 0, 0, 0},
		{"Foo", 1, 1, 1}, // the exact original name comes before one that collides
		{"foo", 4, 4, 4},
		{"fOO", none, 0, 0},
		{"foo" + s + "2", 4, 4, none},
		{"FOO" + S + "2", none, 4, none},
		{"a" + s + "1", 2, 2, 2},
		{"a" + s + "01", 2, 2, none},
		{"A" + S + "1", none, 2, 2},
		{"BAR", none, 3, 3},
		{"baz", none, none, none},
		{"", none, none, none},
	} {
		for _, d := range []struct {
			name string
			dir  *casefold.Dir
			want int
		}{{"hacked", hacked, tt.hacked}, {"folded", folded, tt.folded}, {"plain", plain, tt.plain}} {
			got, ok := d.dir.Lookup(tt.name)
			if !ok {
				got = none
			}
			if got != d.want {
				t.Errorf("%s: Lookup(%q) = %d; want %d", d.name, tt.name, got, d.want)
			}
		}
	}
	// Under hfs the name that is shown as it is collides with the original name of the one before it.
	similar := []string{s, "~nix\u200C~case~hack~"}
	d := casefold.NewDir(casefold.HFS, casefold.DirOptions{Hack: true, Fold: true}, 2, func(i int) string { return similar[i] })
	if i, ok := d.Lookup("~NIX\u200C~CASE~HACK~"); !ok || i != 1 {
		t.Errorf("similar: Lookup = %d, %v; want 1: what is shown comes first", i, ok)
	}
	empty := casefold.NewDir(casefold.ASCII, casefold.DirOptions{Hack: true, Fold: true}, 0, nil)
	if i, ok := empty.Lookup("a"); ok {
		t.Errorf("empty: Lookup(%q) = %d; want none", "a", i)
	}
}

// TestNoAllocation: what happens for each directory and name of a store must cost next to nothing.
func TestNoAllocation(t *testing.T) {
	names := benchNames(512)
	name := func(i int) string { return names[i] }
	for what, f := range map[string]func(){
		"Needed 512": func() { casefold.Needed(casefold.APFS, 512, name) },
		"Needed 20":  func() { casefold.Needed(casefold.ASCII, 20, name) },
		"Hack":       func() { casefold.Hack(casefold.ASCII, names) },
		"Key":        func() { casefold.ASCII.Key("libfoo.so.1") },
		"Strip":      func() { casefold.Strip("libfoo.so.1") },
		"Unhack":     func() { _, _ = casefold.Unhack(names) },
	} {
		if got := testing.AllocsPerRun(10, f); got != 0 {
			t.Errorf("%s allocates %v times; want 0", what, got)
		}
	}
	d := casefold.NewDir(casefold.APFS, casefold.DirOptions{Hack: true, Fold: true}, len(names), name)
	if got := testing.AllocsPerRun(10, func() { d.Lookup("É"); d.Shown(7) }); got != 0 {
		t.Errorf("Lookup and Shown allocate %v times; want 0", got)
	}
}
