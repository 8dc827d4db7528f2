package drv_test

import (
	"crypto/sha256"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
)

// vector returns a file of Nix's own tests (libstore-tests/data/derivation), which are no part of narfs; it skips the test
// without them.
func vector(tb testing.TB, elem ...string) []byte {
	tb.Helper()
	path := filepath.Join(append([]string{"..", "..", "..", "..", "shared", "vectors", "derivation"}, elem...)...)
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Skipf("no test vectors of Nix: %v", err)
	}
	return b
}

// vectorFiles returns the files of a folder of vectors whose names match a pattern.
func vectorFiles(tb testing.TB, pattern string) []string {
	tb.Helper()
	vector(tb, "hello.drv") // skips
	files, err := filepath.Glob(filepath.Join("..", "..", "..", "..", "shared", "vectors", "derivation", pattern))
	if err != nil || len(files) == 0 {
		tb.Fatalf("no vectors match %q: %v", pattern, err)
	}
	return files
}

// jsonOutput is an output in Nix's JSON of version 4.
type jsonOutput struct {
	Path, Method, Hash, HashAlgo string
	Impure                       bool
}

func (j jsonOutput) output(tb testing.TB) drv.Output {
	tb.Helper()
	var o drv.Output
	var err error
	var method nix.Method
	if j.Method != "" {
		if method, err = nix.ParseMethod(j.Method); err != nil {
			tb.Fatal(err)
		}
	}
	switch {
	case j.Path != "":
		o.Kind = drv.InputAddressed
		o.Path, err = nix.ParseBaseName(j.Path)
	case j.Hash != "":
		o.Kind, o.CA.Method = drv.Fixed, method
		o.CA.Hash, err = nix.ParseHash(j.Hash, 0)
	case j.HashAlgo != "":
		o.Kind, o.Method = drv.Floating, method
		if j.Impure {
			o.Kind = drv.Impure
		}
		o.Algo, err = nix.ParseAlgo(j.HashAlgo)
	default:
		o.Kind = drv.Deferred
	}
	if err != nil {
		tb.Fatal(err)
	}
	return o
}

// fromJSON returns the derivation that Nix's JSON of version 4 means.
func fromJSON(tb testing.TB, data []byte) *drv.Derivation {
	tb.Helper()
	var j struct {
		Name, System, Builder string
		Args                  []string
		Env                   map[string]string
		Outputs               map[string]jsonOutput
		Inputs                struct {
			Drvs map[string]struct{ Outputs []string }
			Srcs []string
		}
		StructuredAttrs json.RawMessage
		Version         int
	}
	if err := json.Unmarshal(data, &j); err != nil || j.Version != 4 {
		tb.Fatalf("derivation of version %d: %v", j.Version, err)
	}
	d := &drv.Derivation{
		BasicDerivation: drv.BasicDerivation{
			Name: j.Name, Outputs: map[string]drv.Output{}, Platform: j.System, Builder: j.Builder, Args: j.Args, Env: j.Env,
		},
		InputDrvs: map[nix.StorePath][]string{},
	}
	for name, o := range j.Outputs {
		d.Outputs[name] = o.output(tb)
	}
	for p, in := range j.Inputs.Drvs {
		d.InputDrvs[basePath(tb, p)] = in.Outputs
	}
	for _, p := range j.Inputs.Srcs {
		d.InputSrcs = append(d.InputSrcs, basePath(tb, p))
	}
	d.InputSrcs = nix.SortPaths(d.InputSrcs)
	if j.StructuredAttrs != nil {
		var attrs any // Nix writes them without spaces, in order
		if err := json.Unmarshal(j.StructuredAttrs, &attrs); err != nil {
			tb.Fatal(err)
		}
		var b strings.Builder
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(attrs); err != nil {
			tb.Fatal(err)
		}
		d.Env["__json"] = strings.TrimSuffix(b.String(), "\n")
	}
	return d
}

func basePath(tb testing.TB, base string) nix.StorePath {
	tb.Helper()
	p, err := nix.ParseBaseName(base)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// diff compares what the two derivations mean.
func diff(a, b *drv.Derivation) string {
	return cmp.Diff(a, b, cmp.Comparer(func(p, q nix.StorePath) bool { return p == q }),
		cmp.Comparer(func(p, q nix.Hash) bool { return p == q }),
		cmpopts.EquateEmpty())
}

// mustParse parses a derivation, which must print as it was.
func mustParse(tb testing.TB, name string, text []byte) *drv.Derivation {
	tb.Helper()
	d, err := drv.Parse(nix.DefaultStoreDir, name, text)
	if err != nil {
		tb.Fatal(err)
	}
	again, err := d.ATerm(nix.DefaultStoreDir)
	if err != nil {
		tb.Fatal(err)
	}
	if diff := cmp.Diff(string(text), string(again)); diff != "" {
		tb.Fatalf("ATerm(Parse(text)): -text +got:\n%s", diff)
	}
	return d
}

func TestVectorsParse(t *testing.T) {
	got := mustParse(t, "simple-derivation", vector(t, "simple-derivation.drv"))
	if diff := diff(fromJSON(t, vector(t, "simple-derivation.json")), got); diff != "" {
		t.Errorf("simple-derivation: -want +got:\n%s", diff)
	}
	for file, want := range map[string]string{
		"bad-ca-fixed-path.drv":        "does not match its content address",
		"bad-old-version-dyn-deps.drv": "expected string '['",
		"bad-version.drv":              "DrvWithVersion",
		"hello.drv":                    "out of order", // its hashes were made anonymous; it is for a benchmark
		"firefox.drv":                  "out of order",
		"dyn-dep-derivation.drv":       "DrvWithVersion",
	} {
		if _, err := drv.Parse(nix.DefaultStoreDir, "fixed", vector(t, file)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%s) = %v; want an error with %q", file, err, want)
		}
	}
}

// Each kind of output as the JSON has it, and as three fields.
func TestVectorsOutputs(t *testing.T) {
	const hash = "894517c9163c896ec31a2adbd33c0681fd5f45b2c0ef08a64c92a03fb97f390f"
	want := map[string][2]string{
		"caFixedFlat": {"sha256", hash}, "caFixedNAR": {"r:sha256", hash}, "caFixedText": {"text:sha256", hash},
		"caFloating": {"r:sha256", ""}, "deferred": {"", ""}, "impure": {"r:sha256", "impure"}, "inputAddressed": {"", ""},
	}
	for name, fields := range want {
		var j jsonOutput
		if err := json.Unmarshal(vector(t, "output-"+name+".json"), &j); err != nil {
			t.Fatal(err)
		}
		o := j.output(t)
		path, algo, hash, err := o.Fields(nix.DefaultStoreDir, "drv-name", "output-name")
		if err != nil || algo != fields[0] || hash != fields[1] {
			t.Errorf("%s: Fields() = %q, %q, %q, %v; want %q", name, path, algo, hash, err, fields)
		}
		if again, err := drv.ParseOutput(nix.DefaultStoreDir, "drv-name", "output-name", path, algo, hash); err != nil || again != o {
			t.Errorf("%s: ParseOutput(%q, %q, %q) = %+v, %v; want %+v", name, path, algo, hash, again, err, o)
		}
	}
}

// The derivations of both folders come from one expression, whose output paths are in them. Nix's tests do not say what the
// modulo hashes of their inputs are, so only the form is looked at here.
func TestVectorsAdvancedAttributes(t *testing.T) {
	for _, file := range slices.Concat(vectorFiles(t, "ia/*.json"), vectorFiles(t, "ca/*.json")) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		d := fromJSON(t, data)
		text, err := d.ATerm(nix.DefaultStoreDir)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if diff := diff(d, mustParse(t, d.Name, text)); diff != "" {
			t.Errorf("%s: -json +parsed:\n%s", file, diff)
		}
		if len(d.InputDrvs) > 0 || strings.Contains(file, "ca/") {
			continue
		}
		checkOutputPaths(t, store{}, file, d, d.Outputs)
	}
}

func TestVectorsModulo(t *testing.T) {
	s := store{}
	names := []string{"source-first", "source-second", "intermediate-first", "intermediate-second", "parent-split", "parent-joined"}
	byName := map[string]*drv.Derivation{}
	for _, name := range names {
		want := fromJSON(t, vector(t, "hash-modulo", name+".json"))
		d := mustParse(t, want.Name, vector(t, "hash-modulo", name+".drv"))
		if diff := diff(want, d); diff != "" {
			t.Errorf("%s: -json +parsed:\n%s", name, diff)
		}
		byName[name] = d
		s.add(t, d)
	}
	if !slices.Contains(slices.Collect(maps.Keys(s)), basePath(t, "q4mzjdlh5px6977h7v5fdsk1p33yg583-source.drv")) {
		t.Errorf("the paths of the derivations are %v", slices.Collect(maps.Keys(s)))
	}
	for _, name := range names[2:] {
		m, err := s.hasher().Own(t.Context(), byName[name])
		want := nix.NewSHA256(sha256.Sum256(vector(t, "hash-modulo", name+"-modulo.drv")))
		if err != nil || m != (drv.Modulo{Hash: want}) {
			t.Errorf("Own(%s) = %+v, %v; want %v", name, m, err, want)
		}
	}
	for _, name := range names[:2] {
		f, err := byName[name].File(nix.DefaultStoreDir)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.hasher().CheckInvariants(t.Context(), f.Path, byName[name]); err != nil {
			t.Errorf("CheckInvariants(%s) = %v", name, err)
		}
	}
	// The paths of these were made before they had variables, so that the invariants do not hold.
	for _, name := range names[2:4] {
		d := *byName[name]
		d.Env = nil
		checkOutputPaths(t, s, name, &d, d.Outputs)
	}
}

// checkOutputPaths compares the paths that d should have with those of outputs.
func checkOutputPaths(t *testing.T, s store, name string, d *drv.Derivation, outputs map[string]drv.Output) {
	t.Helper()
	paths, err := s.hasher().OutputPaths(t.Context(), d)
	if err != nil {
		t.Fatalf("OutputPaths(%s) = %v", name, err)
	}
	want := map[string]nix.StorePath{}
	for name, o := range outputs {
		if o.Kind == drv.InputAddressed {
			want[name] = o.Path
		}
	}
	if !maps.Equal(paths, want) {
		t.Errorf("OutputPaths(%s) = %v; want %v", name, paths, want)
	}
}

func TestVectorsInvariants(t *testing.T) {
	load := func(name string) *drv.Derivation { return fromJSON(t, vector(t, "invariants", name+".json")) }
	s := store{}
	s.add(t, &drv.Derivation{BasicDerivation: drv.BasicDerivation{
		Name: "dependency", Platform: "x86_64-linux", Builder: "/bin/sh", Env: map[string]string{"out": ""},
		Outputs: map[string]drv.Output{"out": {Kind: drv.Floating, Method: nix.MethodNAR, Algo: nix.SHA256}},
	}})
	for _, tt := range []struct {
		before, after string
	}{
		{"filled-in-deferred-empty-env-var-pre", "filled-in-deferred-empty-env-var-post"},
		{"filled-in-deferred-no-env-var-pre", "filled-in-deferred-no-env-var-post"},
		{"filled-in-idempotent", "filled-in-idempotent"},
		{"depends-on-drv-pre", "depends-on-drv-pre"},
	} {
		checkOutputPaths(t, s, tt.before, load(tt.before), load(tt.after).Outputs)
	}
	for name, want := range map[string]string{
		"filled-in-deferred-empty-env-var-pre":  "",
		"filled-in-deferred-empty-env-var-post": "",
		"filled-in-idempotent":                  "",
		"depends-on-drv-pre":                    "",
		"bad-env-var":                           "", // its output is deferred
		"bad-path":                              "has incorrect output '/nix/store/c015dhfh5l0lp6wxyvdn7bmwhbbr6hr9-wrong-name', should be '/nix/store/",
		"bad-depends-on-drv-pre":                "has incorrect output '/nix/store/c015dhfh5l0lp6wxyvdn7bmwhbbr6hr9-wrong-name', should be deferred",
	} {
		d := load(name)
		if err := s.hasher().CheckInvariants(t.Context(), s.add(t, d), d); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("CheckInvariants(%s) = %v; want %q", name, err, want)
		}
	}
}
