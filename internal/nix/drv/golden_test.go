package drv_test

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
)

// nix28 returns what Nix 2.8 wrote, by file name; testdata/nix-2.8.txtar says how.
func nix28(tb testing.TB) map[string]string {
	tb.Helper()
	archive, err := txtar.ParseFile(filepath.Join("testdata", "nix-2.8.txtar"))
	if err != nil {
		tb.Fatal(err)
	}
	files := map[string]string{}
	for _, f := range archive.Files {
		files[f.Name] = strings.TrimSuffix(string(f.Data), "\n")
	}
	return files
}

// golden returns the derivations that Nix 2.8 wrote. They must print as they were and have their paths.
func golden(tb testing.TB) store {
	tb.Helper()
	s := store{}
	for base, text := range nix28(tb) {
		if !strings.HasSuffix(base, drv.Extension) {
			continue
		}
		path := basePath(tb, base)
		name, err := drv.NameFromPath(path)
		if err != nil {
			tb.Fatal(err)
		}
		if got := s.add(tb, mustParse(tb, name, []byte(text))); got != path {
			tb.Errorf("File(%s).Path = %s", path, got)
		}
	}
	if len(s) != 15 {
		tb.Fatalf("there are %d derivations; want 15", len(s))
	}
	return s
}

// byName returns the path of a derivation of which there is one.
func (s store) byName(tb testing.TB, name string) nix.StorePath {
	tb.Helper()
	for p := range s {
		if p.Name() == name+drv.Extension {
			return p
		}
	}
	tb.Fatalf("no derivation %q", name)
	return nix.StorePath{}
}

func TestGolden(t *testing.T) {
	t.Parallel()
	s := golden(t)
	memo := memory{}
	h := s.hasher()
	h.Memo = memo
	for _, path := range slices.SortedFunc(maps.Keys(s), nix.StorePath.Compare) {
		for _, h := range []*drv.Hasher{h, s.hasher()} {
			if err := h.CheckInvariants(t.Context(), path, s[path]); err != nil {
				t.Errorf("CheckInvariants(%s) = %v", path, err)
			}
		}
	}
	for path, m := range memo {
		if got, err := s.hasher().Input(t.Context(), s[path]); got != m || err != nil {
			t.Errorf("Input(%s) = %+v, %v; the memo has %+v", path, got, err, m)
		}
	}

	kinds := map[string]drv.Kind{}
	deferred := map[string]bool{}
	for p, d := range s {
		kind, err := d.Kind()
		if err != nil {
			t.Errorf("%s: Kind() = %v", p, err)
		}
		m, err := s.hasher().Own(t.Context(), d)
		if err != nil {
			t.Errorf("Own(%s) = %v", p, err)
		}
		kinds[p.BaseName()], deferred[p.BaseName()] = kind, m.Deferred
	}
	want := map[string]drv.Kind{
		"0wbp3czqikrsp9mxwvs6798xyma4jnxn-deferred.drv":    drv.Deferred,
		"4qpa158l4jzxx8v0n9c5hm7q1bnyk97j-src.drv":         drv.Fixed,
		"53wp8c87xw6wsvl52a4mzv6xn1xy1sa5-on-impure.drv":   drv.Impure,
		"6kj12y9n881nqcaymrv12lcsmj8yz6yj-deferred.drv":    drv.InputAddressed,
		"81mw62bf69614a17k63db1f783g5fr6h-floating.drv":    drv.Floating,
		"9nb8r3d3vz5nyp8v165a59njbpxvpsfs-mid.drv":         drv.InputAddressed,
		"a35a2p2sp6bs6v95h37ns0zy3pn4151y-mid.drv":         drv.InputAddressed,
		"ajdmyr1krfvikp250yajghwqfbdyjfr5-dep.drv":         drv.InputAddressed,
		"dpzwbpz1qa0f47cvdrmqc3saxwp7r4jv-floating.drv":    drv.Floating,
		"fdpcb70kk2jsyj20qrdsp3pdb0s4q4v8-src.drv":         drv.Fixed,
		"girc3vm1fxy2a3hfhmmyzra6allpk9xx-flat.tar.gz.drv": drv.Fixed,
		"l4dvwkv5y2yyp2ipdwf3hssy7x1xy3vw-deferred.drv":    drv.Deferred,
		"xdgg8kg5rmrd2k60sg47k7hl7pk92y0y-top.drv":         drv.InputAddressed,
		"y4bigw0rlnd4x0wagd5srvrx3vrj8iiv-impure.drv":      drv.Impure,
		"zjvpwnskfn6cx0rj4bbpy1dd3nmn61q0-floating.drv":    drv.Floating,
	}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("kinds: -want +got:\n%s", diff)
	}
	for base, kind := range want {
		if is := kind != drv.InputAddressed && kind != drv.Fixed; deferred[base] != is {
			t.Errorf("Own(%s).Deferred = %v; want %v", base, !is, is)
		}
	}
}

// What Nix 2.8 called the outputs that it built: by the hashes of derivations whose outputs have no paths, too.
func TestGoldenRealisations(t *testing.T) {
	t.Parallel()
	s := golden(t)
	built := map[string]string{}
	for line := range strings.SplitSeq(nix28(t)["realisations"], "\n") {
		id, path, _ := strings.Cut(line, " ")
		built[id] = path
	}
	for _, base := range []string{
		"6kj12y9n881nqcaymrv12lcsmj8yz6yj-deferred.drv", "ajdmyr1krfvikp250yajghwqfbdyjfr5-dep.drv",
		"dpzwbpz1qa0f47cvdrmqc3saxwp7r4jv-floating.drv", "l4dvwkv5y2yyp2ipdwf3hssy7x1xy3vw-deferred.drv",
		"zjvpwnskfn6cx0rj4bbpy1dd3nmn61q0-floating.drv",
	} {
		path := basePath(t, base)
		m, err := s.hasher().Own(t.Context(), s[path])
		if err != nil {
			t.Fatal(err)
		}
		id := nix.DrvOutput{Hash: m.Hash, Output: drv.OutName}
		if got := built[id.String()]; !strings.HasSuffix(got, "-"+s[path].Name) {
			t.Errorf("%s of %s is %q", id, base, got)
		}
		delete(built, id.String())
	}
	if len(built) > 0 {
		t.Errorf("nothing is called %v", built)
	}
}
