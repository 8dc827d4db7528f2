package casefold_test

import (
	"strings"
	"testing"

	"github.com/narfs/narfs/casefold"
)

// FuzzHack holds the promises of the package comment against names that a fuzzer finds; they are lines.
func FuzzHack(f *testing.F) {
	for _, names := range []string{
		"FOO\nFoo\nfoo", "A\na\na" + s + "1", "A\na\na" + S + "1", "a" + s + "1\na" + s + "01", "X" + s[:14] + "\nx" + s[:14],
		"É\né\ne\u0301\nE\u0301", "STRASSE\nStraße\nſtrasse", "a\u200Cb\nab", "\u0345\nι", "\xFF\n%ff\n%FF", "\uFFFE\n%EF%BF%BE",
		strings.Repeat("x", 239) + "A\n" + strings.Repeat("x", 239) + "a", strings.Repeat("é", 120) + s, s + "\n" + S, s + s[1:],
		"a" + s + "~a58bvdqt83g6pslm6up6kas1kmhs277g\na" + s + "~", "가\n\u1100\u1161", strings.Repeat("\u0301\u0323", 60),
	} {
		for rule := range rules {
			f.Add(uint8(rule), names)
		}
	}
	f.Fuzz(func(t *testing.T, rule uint8, lines string) {
		if len(lines) > 4096 {
			t.Skip("long enough")
		}
		names := clean(strings.SplitN(lines, "\n", 50))
		r := rules[int(rule)%len(rules)]
		checkHack(t, r, names)
		checkHacker(t, r, names)
		checkDir(t, r, names)
	})
}

// FuzzStrip: what a name on disk means is either what Hack makes it mean or what Nix does.
func FuzzStrip(f *testing.F) {
	for _, name := range []string{
		"foo", "foo" + s, "foo" + s + "1", "foo" + s + "01", "foo" + s + "01" + s + "2", s + s[1:] + "0", "x" + s[:14] + s + "1",
		"foo" + s + "~a58bvdqt83g6pslm6up6kas1kmhs277g",
	} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		orig, hacked := casefold.Strip(name)
		cut, rest, found := strings.Cut(name, s)
		switch {
		case hacked != found:
			t.Errorf("Strip(%q) = %q, hacked = %v", name, orig, hacked)
		case !found && orig != name:
			t.Errorf("Strip(%q) = %q; want the name itself", name, orig)
		case orig == "" && strings.HasPrefix(rest, "~"), orig == cut:
		case len(name) > casefold.MaxName:
		default: // more than Nix leaves: then Hack makes this name of it, at least with a number
			base := strings.ReplaceAll(orig, s, s+"0")
			number, numbered := strings.CutPrefix(name, base+s)
			if name != base && (!numbered || strings.Trim(number, "0123456789") != "") {
				t.Errorf("Strip(%q) = %q, which Hack never shows so", name, orig)
			}
		}
	})
}

// FuzzKey: a name's key says nothing of how its characters are composed and what case its letters have.
func FuzzKey(f *testing.F) {
	for _, name := range []string{"Foo", "É", "e\u0301\u0323", "ß", "\xFF\xC3", "\u200D", "각", "\U0001D15E"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if got, want := casefold.ASCII.Key(name), lower(name); got != want {
			t.Errorf("ASCII.Key(%+q) = %+q; want %+q", name, got, want)
		}
		for _, rule := range rules {
			key := rule.Key(name)
			if got := rule.Key(lower(name)); got != key {
				t.Errorf("%v.Key(%+q) = %+q; Key(%+q) = %+q", rule, name, key, lower(name), got)
			}
			if rule == casefold.APFS && rule.Key(key) != key {
				t.Errorf("APFS.Key(%+q) = %+q, whose own key is %+q", name, key, rule.Key(key))
			}
		}
	})
}
