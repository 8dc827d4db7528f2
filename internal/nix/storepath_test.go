package nix_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/internal/nix"
)

const hashPart = "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q"

// mustPath returns the store path of a base name.
func mustPath(tb testing.TB, base string) nix.StorePath {
	tb.Helper()
	p, err := nix.ParseBaseName(base)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func TestParseStorePath(t *testing.T) {
	p, err := nix.ParseStorePath("/opt/store", "/opt/store/"+hashPart+"-foo-1.0.drv")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ what, got, want string }{
		{"HashPart", p.HashPart(), hashPart},
		{"Name", p.Name(), "foo-1.0.drv"},
		{"BaseName", p.BaseName(), hashPart + "-foo-1.0.drv"},
		{"String", p.String(), hashPart + "-foo-1.0.drv"},
		{"Path", nix.StoreDir("/opt/store").Path(p), "/opt/store/" + hashPart + "-foo-1.0.drv"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s() = %q; want %q", tt.what, tt.got, tt.want)
		}
	}
	if !p.IsDerivation() || mustPath(t, hashPart+"-drv").IsDerivation() {
		t.Error("IsDerivation() of a .drv and of another path are not true and false")
	}
	if p.IsZero() || !(nix.StorePath{}).IsZero() {
		t.Error("IsZero() of a path and of the zero value are not false and true")
	}

	for _, s := range []string{
		"", "/", "/opt/store", "/opt/store/", hashPart + "-foo", "/nix/store/" + hashPart + "-foo", "/opt/stores/" + hashPart + "-foo",
		"/opt/store//" + hashPart + "-foo", "/opt/store/./" + hashPart + "-foo", "/opt/store/x/../" + hashPart + "-foo",
		"/opt/store/" + hashPart + "-foo/", "/opt/store/" + hashPart + "-foo/bin", "opt/store/" + hashPart + "-foo",
	} {
		if got, err := nix.ParseStorePath("/opt/store", s); err == nil {
			t.Errorf("ParseStorePath(%q) = %v; want an error", s, got)
		}
	}
}

// The names of Nix's own tests (libstore-tests, path.cc), and the limits.
func TestParseBaseName(t *testing.T) {
	for _, name := range []string{
		"02345", "foo", "FOO", "foo+bar", "foo-dev", "foo_bar", "foo.txt", "foo?why", "foo=foo", ".gitignore", "...a", "...1", "...-", "...",
		"-", "--", "-.", "..a", ".a-b", strings.Repeat("a", 211),
	} {
		if got, err := nix.ParseBaseName(hashPart + "-" + name); got.Name() != name || err != nil {
			t.Errorf("ParseBaseName(%q) = %v, %v; want no error", hashPart+"-"+name, got, err)
		}
		if err := nix.CheckName(name); err != nil {
			t.Errorf("CheckName(%q) = %v; want nil", name, err)
		}
	}
	for _, name := range []string{
		"", "&*()", "**", "*,foo", "foo,*", "foo!o", ".", "..", "..-1", ".-1", "..-a", ".-a", ".-", "..-", strings.Repeat("a", 212),
		"a/b", "a b", "a\x00", "ä", "a\n", "~", "a@b", "a:b",
	} {
		if got, err := nix.ParseBaseName(hashPart + "-" + name); err == nil {
			t.Errorf("ParseBaseName(%q) = %v; want an error", hashPart+"-"+name, got)
		}
		if nix.CheckName(name) == nil {
			t.Errorf("CheckName(%q) = nil; want an error", name)
		}
	}
	for _, base := range []string{
		"", "foo", hashPart, hashPart + "_foo", hashPart[1:] + "-foo", "0" + hashPart + "-foo", strings.ToUpper(hashPart) + "-foo",
		"e" + hashPart[1:] + "-foo", "o" + hashPart[1:] + "-foo", "t" + hashPart[1:] + "-foo", "u" + hashPart[1:] + "-foo", "." + hashPart[1:] + "-foo",
	} {
		if got, err := nix.ParseBaseName(base); err == nil {
			t.Errorf("ParseBaseName(%q) = %v; want an error", base, got)
		}
	}
}

func TestSplitStorePath(t *testing.T) {
	const foo = hashPart + "-foo"
	tests := []struct{ in, base, rest string }{
		{"/nix/store/" + foo, foo, ""},
		{"/nix/store/" + foo + "/", foo, ""},
		{"/nix/store/" + foo + "/bin/sh", foo, "bin/sh"},
		{"/nix//store/./" + foo + "//bin/../lib/", foo, "lib"},
		{"/nix/store/" + foo + "/..", "", ""},
		{"/nix/store/" + foo + "/../../x", "", ""},
		{"/nix/store", "", ""},
		{"/nix/store/", "", ""},
		{"/nix/store/.links/x", "", ""},
		{foo, "", ""},
		{"", "", ""},
	}
	for _, tt := range tests {
		p, rest, err := nix.SplitStorePath(nix.DefaultStoreDir, tt.in)
		if p.BaseName() != tt.base || (err == nil) != (tt.base != "") || err == nil && rest != tt.rest {
			t.Errorf("SplitStorePath(%q) = %q, %q, %v; want %q, %q", tt.in, p, rest, err, tt.base, tt.rest)
		}
	}
}

func TestParseStoreDir(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want nix.StoreDir
	}{
		{"/nix/store", nix.DefaultStoreDir}, {"/nix/store/", nix.DefaultStoreDir}, {"/a//b/../c", "/a/c"}, {"", ""}, {"nix/store", ""}, {"/", ""}, {"/a/..", ""},
	} {
		if got, err := nix.ParseStoreDir(tt.in); got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("ParseStoreDir(%q) = %q, %v; want %q", tt.in, got, err, tt.want)
		}
	}
}

func TestSortPaths(t *testing.T) {
	a, b, c := mustPath(t, hashPart+"-a"), mustPath(t, hashPart+"-b"), mustPath(t, "0"+hashPart[1:]+"-z")
	tests := []struct{ in, want []nix.StorePath }{
		{nil, nil},
		{[]nix.StorePath{a}, []nix.StorePath{a}},
		{[]nix.StorePath{c, a, b}, []nix.StorePath{c, a, b}},
		{[]nix.StorePath{b, a, c}, []nix.StorePath{c, a, b}},
		{[]nix.StorePath{a, a, c, c}, []nix.StorePath{c, a}},
	}
	for _, tt := range tests {
		before := append([]nix.StorePath(nil), tt.in...)
		got := nix.SortPaths(tt.in)
		if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(p, q nix.StorePath) bool { return p == q })); diff != "" {
			t.Errorf("SortPaths(%v): -want +got:\n%s", tt.in, diff)
		}
		for i := range before {
			if tt.in[i] != before[i] {
				t.Errorf("SortPaths(%v) changed its argument to %v", before, tt.in)
			}
		}
	}
}
