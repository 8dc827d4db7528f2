package closure_test

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/narfs/narfs/tests/env"
	"github.com/narfs/narfs/tests/env/closure"
	"github.com/narfs/narfs/tests/env/serve"
)

func must[T any](tb testing.TB) func(T, error) T {
	tb.Helper()
	return func(v T, err error) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

func closures(tb testing.TB) map[string]*closure.Closure {
	tb.Helper()
	return map[string]*closure.Closure{
		"mixed": must[*closure.Closure](tb)(closure.Mixed("test")),
		"many":  must[*closure.Closure](tb)(closure.Many(100, "test")),
		"large": must[*closure.Closure](tb)(closure.Large(20, 1<<20, "test")),
		"trees": must[*closure.Closure](tb)(closure.Trees("test", []string{".", "../serve", ".."})),
	}
}

// TestObjects holds objects against what they say about themselves.
func TestObjects(t *testing.T) {
	for name, c := range closures(t) {
		for i, o := range c.Objects {
			var nar bytes.Buffer
			if err := o.WriteNAR(&nar); err != nil {
				t.Fatal(err)
			}
			if got := sha256.Sum256(nar.Bytes()); got != o.Hash || int64(nar.Len()) != o.Size {
				t.Errorf("%s: NAR of %s: %d bytes, %x; want %d, %x", name, o.Path, nar.Len(), got, o.Size, o.Hash)
			}
			for _, r := range o.References {
				if !bytes.Contains(nar.Bytes(), []byte(r)) {
					t.Errorf("%s: %s does not hold its reference %s", name, o.Path, r)
				}
				if !slices.ContainsFunc(c.Objects[:i+1], func(o *closure.Object) bool { return o.Path == r }) {
					t.Errorf("%s: %s comes before its reference %s", name, o.Path, r)
				}
			}
		}
		if got, again := c.Paths(), closures(t)[name].Paths(); !slices.Equal(got, again) {
			t.Errorf("%s: other paths the second time", name)
		}
	}
}

// TestNixTakesThem gives the closures to the real Nix, once with their content addresses, which it checks.
func TestNixTakesThem(t *testing.T) {
	for name, c := range closures(t) {
		nix := env.NewNix(t)
		cmd := nix.Command("nix-store", "--import")
		var stream bytes.Buffer
		if err := c.Export(&stream); err != nil {
			t.Fatal(err)
		}
		cmd.Stdin = &stream
		env.Must(t, cmd)
		verify(t, name, c, nix)

		nix = env.NewNix(t)
		session := serve.Start(t, nix.Command("nix-store", "--serve", "--write"))
		for _, o := range c.Objects {
			if err := session.Add(o); err != nil {
				t.Fatalf("%s: %s: %v", name, o.Path, session.End(err))
			}
		}
		if err := session.Close(); err != nil {
			t.Error(err)
		}
		verify(t, name, c, nix)
	}
}

func verify(t *testing.T, name string, c *closure.Closure, nix *env.Nix) {
	t.Helper()
	nix.Must("nix-store", "--verify", "--check-contents")
	if got := strings.Fields(nix.Must("nix-store", "-qR", c.Top())); len(got) != len(c.Objects) {
		t.Errorf("%s: the closure of the last one has %d paths; want %d", name, len(got), len(c.Objects))
	}
	ask := func(query string) []string {
		return strings.Fields(nix.Must("nix-store", append([]string{"-q", query}, c.Paths()...)...))
	}
	hashes, sizes := ask("--hash"), ask("--size")
	for i, o := range c.Objects {
		if hashes[i] != o.HashText() || sizes[i] != strconv.FormatInt(o.Size, 10) {
			t.Errorf("%s: Nix says of %s: %s, %s; want %s, %d", name, o.Path, hashes[i], sizes[i], o.HashText(), o.Size)
		}
	}
}
