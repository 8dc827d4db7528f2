package casefold_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"

	"github.com/narfs/narfs/casefold"
)

// TestHackProperties holds what the package comment promises against sets of names of all kinds.
func TestHackProperties(t *testing.T) {
	t.Parallel()
	for _, suffix := range []bool{false, true} {
		for _, rule := range rules {
			t.Run(rule.String()+map[bool]string{false: "/plain", true: "/suffix"}[suffix], func(t *testing.T) {
				t.Parallel()
				total, hacked := 0, 0
				rapid.Check(t, func(t *rapid.T) {
					names := genNames(suffix).Draw(t, "set")
					checkHack(t, rule, names)
					checkHacker(t, rule, names)
					checkDir(t, rule, names)
					total++
					if !slices.Equal(names, casefold.Hack(rule, names)) {
						hacked++
					}
				})
				t.Logf("%d of %d sets hacked", hacked, total)
			})
		}
	}
}

// errorer is what testing.TB and *rapid.T share, as far as the checks need it.
type errorer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// checkHack checks Hack, Needed, Strip and Unhack.
func checkHack(t errorer, rule casefold.Rule, names []string) {
	t.Helper()
	shown := casefold.Hack(rule, names)
	if !storable(rule, shown) {
		t.Fatalf("Hack(%v, %+q) = %+q: two names collide or one is too long", rule, names, shown)
	}
	if want := !storable(rule, names) || holdsSuffix(names); slices.Equal(shown, names) == want {
		t.Fatalf("Hack(%v, %+q) = %+q: changes something = %v; want %v", rule, names, shown, !want, want)
	} else if got := casefold.Needed(rule, len(names), func(i int) string { return names[i] }); got != want {
		t.Fatalf("Needed(%v, %+q) = %v; want %v", rule, names, got, want)
	}
	if nix := nixNames(names); len(names) > 0 && rule == casefold.ASCII && !holdsSuffix(names) && storable(rule, nix) {
		if diff := cmp.Diff(nix, shown); diff != "" {
			t.Fatalf("Hack(%v, %+q) (-nix +got):\n%s", rule, names, diff)
		}
	}
	originals := map[string]bool{}
	for _, name := range names {
		originals[rule.Key(name)] = true
	}
	short := false
	for i, s := range shown {
		if s != names[i] && originals[rule.Key(s)] {
			t.Fatalf("Hack(%v, %+q) = %+q: %+q collides with an original name", rule, names, shown, s)
		}
		orig, hacked := casefold.Strip(s)
		if len(s) < 250 || orig != "" {
			if orig != names[i] || hacked != (s != names[i]) {
				t.Fatalf("Strip(%+q) = %+q, %v; want %+q", s, orig, hacked, names[i])
			}
			continue
		}
		short = true
		if len(names[i]) < 239-len("12") && !strings.Contains(names[i], casefold.Suffix) {
			t.Fatalf("Hack(%v, %+q) shortened %+q to %+q", rule, names, names[i], s)
		}
		if utf8.ValidString(names[i]) && !utf8.ValidString(s) {
			t.Fatalf("Hack(%v, %+q) cut a character: %+q", rule, names, s)
		}
	}
	back, err := casefold.Unhack(shown)
	if short != (err != nil) || err == nil && !slices.Equal(back, names) {
		t.Fatalf("Unhack(%+q) = %+q, %v; want %+q, error = %v", shown, back, err, names, short)
	}
}

// checkHacker plays a restore on a system that folds case.
func checkHacker(t errorer, rule casefold.Rule, names []string) {
	t.Helper()
	h := casefold.NewHacker(rule)
	disk := map[string]string{} // from key to what is there
	for _, name := range names {
		on := h.Add(name)
		if other, ok := disk[rule.Key(on)]; ok {
			t.Fatalf("%v: Add(%+q) of %+q = %+q collides with %+q", rule, name, names, on, other)
		}
		disk[rule.Key(on)] = on
	}
	for _, r := range h.Finish() {
		if disk[rule.Key(r.From)] != r.From {
			t.Fatalf("%v: Finish of %+q renames %+q, which is not there", rule, names, r.From)
		}
		delete(disk, rule.Key(r.From))
		if other, ok := disk[rule.Key(r.To)]; ok || len(r.To) > casefold.MaxName {
			t.Fatalf("%v: Finish of %+q renames %+q to %+q where %+q is", rule, names, r.From, r.To, other)
		}
		disk[rule.Key(r.To)] = r.To
	}
	want := casefold.Hack(rule, names)
	if len(want) != len(disk) {
		t.Fatalf("%v: restoring %+q makes %+q; want %+q", rule, names, disk, want)
	}
	for _, s := range want {
		if disk[rule.Key(s)] != s {
			t.Fatalf("%v: restoring %+q makes %+q; want %+q", rule, names, disk, want)
		}
	}
}

// checkDir looks every name up in every way.
func checkDir(t errorer, rule casefold.Rule, names []string) {
	t.Helper()
	shown := casefold.Hack(rule, names)
	name := func(i int) string { return names[i] }
	for _, o := range []casefold.DirOptions{{}, {Hack: true}, {Fold: true}, {Hack: true, Fold: true}} {
		d := casefold.NewDir(rule, o, len(names), name)
		for i := range names {
			want := names[i]
			if o.Hack {
				want = shown[i]
			}
			if got := d.Shown(i); got != want {
				t.Fatalf("%v %+v %+q: Shown(%d) = %+q; want %+q", rule, o, names, i, got, want)
			}
			for _, n := range []string{names[i], want} {
				if got, ok := d.Lookup(n); !ok || got != i {
					t.Fatalf("%v %+v %+q: Lookup(%+q) = %d, %v; want %d", rule, o, names, n, got, ok, i)
				}
			}
			other := strings.ToUpper(want)
			got, ok := d.Lookup(other)
			if exact := slices.Contains(names, other) || o.Hack && slices.Contains(shown, other); exact {
				continue
			}
			collides := ok && (rule.Key(d.Shown(got)) == rule.Key(other) || rule.Key(names[got]) == rule.Key(other))
			if ok && !collides || ok && !o.Fold || !ok && o.Fold && rule.Key(want) == rule.Key(other) {
				t.Fatalf("%v %+v %+q: Lookup(%+q) = %d, %v", rule, o, names, other, got, ok)
			}
			if o.Hack && ok && rule.Key(want) == rule.Key(other) && got != i {
				t.Fatalf("%v %+v %+q: Lookup(%+q) = %d; want %d", rule, o, names, other, got, i)
			}
		}
	}
}

// canonical is Unicode's canonical caseless match (D145) as x/text computes it.
func canonical(s string) string {
	return norm.NFD.String(cases.Fold().String(norm.NFD.String(s)))
}

// cherokee reports whether c is Cherokee, whose capitals and small letters x/text/cases folds to each other.
func cherokee(c rune) bool { return c >= 0x13A0 && c < 0x1400 || c >= 0xAB70 && c < 0xABC0 }

// TestAPFSCharacters compares the rule with Unicode's definition for every character that folds or decomposes.
func TestAPFSCharacters(t *testing.T) {
	t.Parallel()
	key, definition := map[string]string{}, map[string]string{}
	for c := rune(1); c < 0x30000; c++ {
		if !utf8.ValidRune(c) || cherokee(c) || c >= 0x20000 && c < 0x2F800 {
			continue
		}
		k, d := casefold.APFS.Key(string(c)), canonical(string(c))
		if other, ok := definition[k]; ok && other != d {
			t.Errorf("U+%04X collides under apfs with a character that it does not match", c)
		}
		if other, ok := key[d]; ok && other != k {
			t.Errorf("U+%04X does not collide under apfs with a character that it matches", c)
		}
		if casefold.APFS.Key(d) != k {
			t.Errorf("U+%04X does not collide under apfs with %+q, which it matches", c, d)
		}
		definition[k], key[d] = d, k
	}
}

// TestAPFSStrings does so for strings.
func TestAPFSStrings(t *testing.T) {
	t.Parallel()
	char := rapid.OneOf(
		rapid.SampledFrom([]rune("aAkKſßiİıéÉσςΣᾳᾼΑἄιͅ가각ᄀﬁﬀfКк\u0301\u0323\u0302\u0345\u0327\u0300")),
		rapid.Int32Range(1, 0x250), rapid.Int32Range(0x300, 0x590), rapid.Int32Range(0x1E00, 0x2000), rapid.Int32Range(0xFB00, 0xFB20),
	)
	vary := map[string]func(string) string{
		"as it is": strings.Clone, "NFC": norm.NFC.String, "NFD": norm.NFD.String, "upper": strings.ToUpper, "lower": strings.ToLower,
		"upper, NFC": func(s string) string { return norm.NFC.String(strings.ToUpper(s)) },
	}
	kinds := slices.Sorted(maps.Keys(vary))
	rapid.Check(t, func(t *rapid.T) {
		x := string(rapid.SliceOfN(char, 1, 6).Draw(t, "x"))
		kind := rapid.SampledFrom(kinds).Draw(t, "kind")
		y := vary[kind](x)
		if rapid.IntRange(0, 3).Draw(t, "other") == 0 {
			y = string(rapid.SliceOfN(char, 1, 2).Draw(t, "y"))
		}
		if got, want := casefold.APFS.Key(x) == casefold.APFS.Key(y), canonical(x) == canonical(y); got != want {
			t.Fatalf("apfs: %+q and %+q (%s) collide = %v; want %v", x, y, kind, got, want)
		}
	})
}

// TestHFSStrings: names that differ in composition and the case of ASCII alone collide under HFS, if they keep out
// of the characters that HFS+ leaves composed.
func TestHFSStrings(t *testing.T) {
	t.Parallel()
	char := rapid.OneOf(rapid.Int32Range(1, 0x350), rapid.Int32Range(0x1E00, 0x1FFF), rapid.Int32Range(0xAC00, 0xD7A3))
	rapid.Check(t, func(t *rapid.T) {
		x := string(rapid.SliceOfN(char, 1, 6).Draw(t, "x"))
		want := casefold.HFS.Key(x)
		for _, y := range []string{norm.NFC.String(x), norm.NFD.String(x), lower(norm.NFD.String(x))} {
			if got := casefold.HFS.Key(y); got != want {
				t.Fatalf("hfs: Key(%+q) = %+q; Key(%+q) = %+q", x, want, y, got)
			}
		}
	})
}
