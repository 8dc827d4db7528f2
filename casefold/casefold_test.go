package casefold_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/casefold"
)

const s = casefold.Suffix

func TestHack(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ names, want []string }{
		{nil, nil},
		{[]string{"a", "b"}, []string{"a", "b"}},
		{[]string{"FOO", "Foo", "foo"}, []string{"FOO", "Foo" + s + "1", "foo" + s + "2"}},
		{[]string{"A", "a", "a" + s + "1"}, []string{"A", "a" + s + "2", "a" + s + "01"}},
		{[]string{"A" + s[:14], "a" + s[:14]}, []string{"A" + s[:14], "a" + s[:14] + s + "1"}},
	} {
		got := casefold.Hack(casefold.ASCII, tt.names)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("Hack(ASCII, %q) (-want +got):\n%s", tt.names, diff)
		}
		back, err := casefold.Unhack(got)
		if diff := cmp.Diff(tt.names, back); err != nil || diff != "" {
			t.Errorf("Unhack(%q) = %v (-want +got):\n%s", got, err, diff)
		}
	}
}
