package build_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/narfs/narfs/daemon/build"
	"github.com/narfs/narfs/internal/nix"
)

func somePath(name string) nix.StorePath {
	sum := sha256.Sum256([]byte(name))
	p, err := nix.ParseBaseName(nix.EncodeNix32(sum[:20]) + "-" + name)
	if err != nil {
		panic(err)
	}
	return p
}

// pieces cuts a text anywhere.
func pieces(t *rapid.T, text string) (all []string) {
	for text != "" {
		n := rapid.IntRange(1, min(len(text), 100)).Draw(t, "piece")
		all = append(all, text[:n])
		text = text[n:]
	}
	return all
}

// Whatever surrounds them, and however the stream is cut, the hash parts in it are found, and no others.
func TestScanner(t *testing.T) {
	t.Parallel()
	var candidates []nix.StorePath
	for i := range 8 {
		candidates = append(candidates, somePath(fmt.Sprint("p", i)))
	}
	rapid.Check(t, func(t *rapid.T) {
		var text strings.Builder
		var want []nix.StorePath
		for range rapid.IntRange(0, 12).Draw(t, "parts") {
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				p := rapid.SampledFrom(candidates[:5]).Draw(t, "path")
				text.WriteString(p.HashPart())
				want = append(want, p)
			case 1: // not all of one
				text.WriteString(rapid.SampledFrom(candidates).Draw(t, "part").HashPart()[:31] + "e")
			case 2:
				text.WriteString(strings.Repeat("0", rapid.IntRange(0, 40).Draw(t, "digits")))
			default:
				text.WriteString(strings.Repeat("/", rapid.IntRange(0, 40).Draw(t, "others")))
			}
		}
		s := build.NewScanner(candidates)
		for _, piece := range pieces(t, text.String()) {
			if _, err := s.Write([]byte(piece)); err != nil {
				t.Fatal(err)
			}
		}
		if got := s.Found(); !slices.Equal(got, nix.SortPaths(want)) {
			t.Fatalf("found %v in %q; want %v", got, text.String(), nix.SortPaths(want))
		}
		if s.Size() != uint64(text.Len()) {
			t.Fatalf("size %d; want %d", s.Size(), text.Len())
		}
	})
}

// Rewriting a stream is replacing in the whole, with the places of one string.
func TestRewriter(t *testing.T) {
	t.Parallel()
	a, b, c := somePath("a").HashPart(), somePath("b").HashPart(), somePath("c").HashPart()
	rapid.Check(t, func(t *rapid.T) {
		var text strings.Builder
		for range rapid.IntRange(0, 12).Draw(t, "parts") {
			text.WriteString(rapid.SampledFrom([]string{a, b, c, "/", "xyz", "0", "eee"}).Draw(t, "part"))
		}
		var out bytes.Buffer
		r := build.NewRewriter(&out, map[string]string{a: strings.Repeat("\x00", len(a)), b: c}, a)
		for _, piece := range pieces(t, text.String()) {
			if _, err := r.Write([]byte(piece)); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Flush(); err != nil {
			t.Fatal(err)
		}
		want := strings.NewReplacer(a, strings.Repeat("\x00", len(a)), b, c).Replace(text.String())
		if out.String() != want {
			t.Fatalf("%q became %q; want %q", text.String(), out.String(), want)
		}
		var places []int64
		for rest, at := text.String(), 0; ; {
			i := strings.Index(rest, a)
			if i < 0 {
				break
			}
			places = append(places, int64(at+i))
			at += i + len(a)
			rest = rest[i+len(a):]
		}
		if !slices.Equal(r.Places(), places) {
			t.Fatalf("places %v; want %v", r.Places(), places)
		}
	})
}

// What Nix computes: see hashPlaceholder and DownstreamPlaceholder.
func TestPlaceholders(t *testing.T) {
	t.Parallel()
	if got, want := build.OutputPlaceholder("out"), "/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9"; got != want {
		t.Errorf("placeholder of out = %s; want %s", got, want)
	}
	p, err := nix.ParseBaseName("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo.drv")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := build.UpstreamPlaceholder(p, "out"), "/0c6rn30q4frawknapgwq386zq358m8r6msvywcvc89n6m5p2dgbz"; got != want {
		t.Errorf("placeholder of an input's out = %s; want %s", got, want)
	}
}
