package nix_test

import (
	"strings"
	"testing"

	"github.com/narfs/narfs/internal/nix"
)

func TestInOrder(t *testing.T) {
	t.Parallel()
	at := func(name string) nix.StorePath {
		p, err := nix.ParseBaseName("00000000000000000000000000000000-" + name)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for text, want := range map[string]string{
		"":                              "",
		"b a":                           "a b",
		"a:b b:c c":                     "c b a",
		"a:a,d,c b:a c:d d":             "d c a b",
		"a:elsewhere b":                 "a b",
		"a:b b:a":                       "b a", // which no store has, but it ends
		"e:d,b d:c,a c:b b:a a e2:e,e2": "a b c d e e2",
	} {
		var infos []nix.PathInfo
		for word := range strings.FieldsSeq(text) {
			name, refs, _ := strings.Cut(word, ":")
			info := nix.PathInfo{Path: at(name)}
			for ref := range strings.FieldsFuncSeq(refs, func(r rune) bool { return r == ',' }) {
				info.References = append(info.References, at(ref))
			}
			infos = append(infos, info)
		}
		var got []string
		for _, info := range nix.InOrder(infos) {
			got = append(got, info.Path.Name())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("InOrder(%s) = %q; want %s", text, got, want)
		}
	}
}
