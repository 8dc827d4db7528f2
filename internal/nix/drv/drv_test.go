package drv_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
)

const (
	hashPart = "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q"
	aPath    = "/nix/store/" + hashPart + "-a"
	aDrv     = aPath + ".drv"
	bDrv     = "/nix/store/" + hashPart + "-b.drv"
)

func TestParseErrors(t *testing.T) {
	t.Parallel()
	const (
		head = `Derive([("out","` + aPath + `","","")],`
		tail = `,[],"s","b",[],[])`
	)
	if _, err := drv.Parse(nix.DefaultStoreDir, "n", []byte(head+`[]`+tail)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ text, want string }{
		{"", "byte 0: expected string 'Derive('"},
		{"Derive", "expected string 'Derive('"},
		{"Derive([", `expected string '('`},
		{`DrvWithVersion("xp-dyn-drv",[])`, "DrvWithVersion, of dynamic derivations, is not supported"},
		{head + "[]" + tail + " ", "bytes behind the end"},
		{head + "[]" + tail + head, "bytes behind the end"},
		{head + `[]` + strings.TrimSuffix(tail, ")"), "expected string ')'"},
		{" " + head + `[]` + tail, "byte 0: expected"},
		{`Derive([("out","` + aPath + `","",)],[]` + tail, `expected string '"'`},
		{`Derive([("out","` + aPath + `","",""),],[]` + tail, `expected string '('`},
		{`Derive([,("out","` + aPath + `","","")],[]` + tail, `expected string '('`},
		{`Derive([("out","` + aPath + `","","")("x","` + aPath + `","","")],[]` + tail, `expected string ','`},
		{`Derive([("out","","",""),("dev","","","")],[]` + tail, `output "dev" is out of order`},
		{`Derive([("out","","",""),("out","","","")],[]` + tail, `output "out" is out of order`},
		{`Derive([("","","","")],[]` + tail, `output "": name must not be empty`},
		{`Derive([("a/b","","","")],[]` + tail, `illegal character '/'`},
		{`Derive([("out","/opt/x","","")],[]` + tail, "is not in the Nix store"},
		{`Derive([("out","","","00")],[]` + tail, "a hash without algorithm"},
		{`Derive([("out","` + aPath + `","sha256","")],[]` + tail, "floating, and has a path"},
		{`Derive([("out","` + aPath + `","sha256","impure")],[]` + tail, "impure, and has a path"},
		{`Derive([("out","","R:sha256","")],[]` + tail, "unknown hash algorithm"},
		{`Derive([("out","","text:sha512","")],[]` + tail, "needs sha256"},
		{`Derive([("out","","git:md5","")],[]` + tail, "needs sha1 or sha256"},
		{`Derive([("out","` + aPath + `","md5","1")],[]` + tail, "wrong length"},
		{`Derive([("out","` + aPath + `","md5","md5:00000000000000000000000000000000")],[]` + tail, "names an algorithm"},
		{`Derive([("out","` + aPath + `","md5","00000000000000000000000000000000")],[]` + tail, "does not match its content address"},
		{`Derive([("out","` + aPath + `","md5","0000000000000000000000000000000A")],[]` + tail, "does not match its content address"},
		{`Derive([("out","` + fixedPath(t, "n", "md5:0000000000000000000000000000000a") + `","md5","0000000000000000000000000000000A")],[]` + tail, "not in base 16"},
		{head + `[("` + aDrv + `",[])]` + tail, "specifies no outputs"},
		{head + `[("` + aDrv + `",["a","a"])]` + tail, `output "a" of ` + hashPart + `-a.drv is out of order`},
		{head + `[("` + aDrv + `",["a\n"])]` + tail, "a backslash"},
		{head + `[("` + aDrv + `",["a b"])]` + tail, "illegal character"},
		{head + `[("` + aDrv + `",(["a"],[]))]` + tail, "expected string '['"},
		{head + `[("` + bDrv + `",["a"]),("` + aDrv + `",["a"])]` + tail, "-a.drv is out of order"},
		{head + `[("` + aDrv + `",["a"]),("` + aDrv + `",["a"])]` + tail, "-a.drv is out of order"},
		{head + `[("x",["a"])]` + tail, "not in the Nix store"},
		{head + `[],["` + aPath + `","` + aPath + `"],"s","b",[],[])`, "out of order"},
		{head + `[],["/nix/store//` + hashPart + `-a"],"s","b",[],[])`, "is not a valid store path"},
		{head + `[],[],"s\\","b",[],[])`, "a backslash"},
		{head + `[],[],"s","\b",[],[])`, `needless escape "\\b"`},
		{head + "[],[],\"s\",\"b\",[\"a\nb\"],[])", `'\n' without escape`},
		{head + "[],[],\"s\",\"b\",[\"a\tb\"],[])", `'\t' without escape`},
		{head + "[],[],\"s\",\"b\",[\"a\rb\"],[])", `'\r' without escape`},
		{head + `[],[],"s","b",["a`, "unterminated string"},
		{head + `[],[],"s","b",["a\`, "unterminated string"},
		{head + `[],[],"s`, "unterminated string"},
		{head + `[],[],"s","b",[],[("b",""),("a","")])`, `variable "a" is out of order`},
		{head + `[],[],"s","b",[],[("",""),("","")])`, `variable "" is out of order`},
		{head + `[],[],"s","b",[],[("a")])`, `expected string ','`},
		{`Derive([("o","","",""),],[]` + tail, `expected string '('`},
	} {
		if d, err := drv.Parse(nix.DefaultStoreDir, "n", []byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Parse(%q) = %+v, %v; want an error with %q", tt.text, d, err, tt.want)
		}
	}
	for _, name := range []string{"", ".", "a b", strings.Repeat("n", 212)} {
		if _, err := drv.Parse(nix.DefaultStoreDir, name, []byte(head+`[]`+tail)); err == nil {
			t.Errorf("Parse(%q) is not an error", name)
		}
	}
	if _, err := drv.Parse(nix.DefaultStoreDir, "n", make([]byte, drv.MaxSize+1)); err == nil || !strings.Contains(err.Error(), "are more than") {
		t.Errorf("Parse of too much = %v", err)
	}
	many := head + `[],[],"s","b",[` + strings.Repeat(`"",`, 1<<20) + `""],[])`
	if _, err := drv.Parse(nix.DefaultStoreDir, "n", []byte(many)); err == nil || !strings.Contains(err.Error(), "more than 1048576 arguments") {
		t.Errorf("Parse of too many arguments = %v", err)
	}
}

// fixedPath returns the path of an output called out.
func fixedPath(tb testing.TB, name, hash string) string {
	tb.Helper()
	h, err := nix.ParseHash(hash, 0)
	if err != nil {
		tb.Fatal(err)
	}
	o := drv.Output{Kind: drv.Fixed, CA: nix.ContentAddress{Method: nix.MethodFlat, Hash: h}}
	path, err := o.StorePath(nix.DefaultStoreDir, name, "out")
	if err != nil {
		tb.Fatal(err)
	}
	return nix.DefaultStoreDir.Path(path)
}

// A string with many escapes takes time linear in its length.
func TestParseIsLinear(t *testing.T) {
	t.Parallel()
	d := simple(t, store{}, "n")
	d.Args = []string{strings.Repeat("\"\\\n\r\t", 1<<20)}
	start := time.Now()
	text, err := d.ATerm(nix.DefaultStoreDir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := drv.Parse(nix.DefaultStoreDir, "n", text)
	if err != nil || again.Args[0] != d.Args[0] {
		t.Fatalf("Parse() = %v", err)
	}
	if took := time.Since(start); took > 20*time.Second { // one tenth of a second, and days if it were not linear
		t.Errorf("10 MB take %v", took)
	}
}

func TestKind(t *testing.T) {
	t.Parallel()
	fixed := drv.Output{Kind: drv.Fixed, CA: nix.ContentAddress{Method: nix.MethodFlat, Hash: nix.NewSHA256([32]byte{})}}
	floating := drv.Output{Kind: drv.Floating, Method: nix.MethodNAR, Algo: nix.SHA256}
	flat := drv.Output{Kind: drv.Floating, Method: nix.MethodFlat, Algo: nix.SHA256}
	sha512 := drv.Output{Kind: drv.Floating, Method: nix.MethodNAR, Algo: nix.SHA512}
	deferred, impure := drv.Output{Kind: drv.Deferred}, drv.Output{Kind: drv.Impure, Method: nix.MethodNAR, Algo: nix.SHA1}
	for _, tt := range []struct {
		outputs map[string]drv.Output
		kind    drv.Kind
		err     string
	}{
		{map[string]drv.Output{}, 0, "must have at least one output"},
		{map[string]drv.Output{"out": fixed}, drv.Fixed, ""},
		{map[string]drv.Output{"dev": fixed}, 0, `must be named "out"`},
		{map[string]drv.Output{"out": fixed, "x": fixed}, 0, "only one fixed output"},
		{map[string]drv.Output{"out": deferred, "x": deferred}, drv.Deferred, ""},
		{map[string]drv.Output{"out": floating, "x": flat}, drv.Floating, ""},
		{map[string]drv.Output{"out": floating, "x": sha512}, 0, "same hash algorithm"},
		{map[string]drv.Output{"out": floating, "x": impure}, 0, "can't mix"},
		{map[string]drv.Output{"out": fixed, "x": deferred}, 0, "can't mix"},
		{map[string]drv.Output{"out": impure}, drv.Impure, ""},
	} {
		d := drv.BasicDerivation{Outputs: tt.outputs}
		kind, err := d.Kind()
		if kind != tt.kind || (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("Kind() of %+v = %v, %v; want %v, %q", tt.outputs, kind, err, tt.kind, tt.err)
		}
	}
}

// What would read as another derivation is not written.
func TestATermErrors(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*drv.Derivation){
		"platform":    func(d *drv.Derivation) { d.Platform = `x","/bin/evil",[],[])` },
		"backslash":   func(d *drv.Derivation) { d.Platform = `\` },
		"output":      func(d *drv.Derivation) { d.Outputs[`a"`] = d.Outputs["out"] },
		"no kind":     func(d *drv.Derivation) { d.Outputs["out"] = drv.Output{} },
		"no path":     func(d *drv.Derivation) { d.Outputs["out"] = drv.Output{Kind: drv.InputAddressed} },
		"no hash":     func(d *drv.Derivation) { d.Outputs["out"] = drv.Output{Kind: drv.Fixed} },
		"no name":     func(d *drv.Derivation) { d.Name = "" },
		"sources":     func(d *drv.Derivation) { d.InputSrcs = append(d.InputSrcs, d.InputSrcs[0]) },
		"no outputs":  func(d *drv.Derivation) { d.InputDrvs[basePath(t, hashPart+"-a.drv")] = nil },
		"input order": func(d *drv.Derivation) { d.InputDrvs[basePath(t, hashPart+"-a.drv")] = []string{"b", "a"} },
		"input name":  func(d *drv.Derivation) { d.InputDrvs[basePath(t, hashPart+"-a.drv")] = []string{`"`} },
		"zero input":  func(d *drv.Derivation) { d.InputDrvs[nix.StorePath{}] = []string{"out"} },
	} {
		d := simple(t, store{}, "n")
		d.InputSrcs = []nix.StorePath{basePath(t, hashPart+"-a")}
		if _, err := d.ATerm(nix.DefaultStoreDir); err != nil {
			t.Fatal(err)
		}
		change(d)
		if text, err := d.ATerm(nix.DefaultStoreDir); err == nil {
			t.Errorf("%s: ATerm() = %s; want an error", name, text)
		}
	}
}

func TestNameFromPath(t *testing.T) {
	t.Parallel()
	for base, want := range map[string]string{"-a.drv": "a", "-a.drv.drv": "a.drv", "-a": "", "-.drv": "", "-drv": ""} {
		if got, err := drv.NameFromPath(basePath(t, hashPart+base)); got != want || (err == nil) != (want != "") {
			t.Errorf("NameFromPath(%s) = %q, %v; want %q", base, got, err, want)
		}
	}
}

func TestCheckInvariants(t *testing.T) {
	t.Parallel()
	s := golden(t)
	top := s.byName(t, "top")
	const right, wrong = "/nix/store/ylbc775cd43i5crdlw925wlbmyr1ghdh-top-lib", "/nix/store/0lbc775cd43i5crdlw925wlbmyr1ghdh-top-lib"
	for _, tt := range []struct {
		name   string
		path   nix.StorePath
		change func(*drv.Derivation)
		want   string
	}{
		{"right", top, func(*drv.Derivation) {}, ""},
		{
			"path", top, func(d *drv.Derivation) {
				d.Outputs["lib"] = drv.Output{Kind: drv.InputAddressed, Path: basePath(t, strings.TrimPrefix(wrong, "/nix/store/"))}
			},
			"derivation '" + nix.DefaultStoreDir.Path(top) + "' has incorrect output '" + wrong + "', should be '" + right + "'",
		},
		{
			"variable", top, func(d *drv.Derivation) { d.Env["lib"] = wrong },
			"derivation '" + nix.DefaultStoreDir.Path(top) + "' has incorrect environment variable 'lib', should be '" + right + "'",
		},
		{
			"no variable", top, func(d *drv.Derivation) { delete(d.Env, "lib") },
			"has incorrect output '" + right + "', should be", // the hash is another, too
		},
		{"argument", top, func(d *drv.Derivation) { d.Args = nil }, "has incorrect output"},
		{"mixed", top, func(d *drv.Derivation) { d.Outputs["out"] = drv.Output{Kind: drv.Deferred} }, "can't mix derivation output types"},
		{"deferred", top, func(d *drv.Derivation) { d.Outputs["lib"] = drv.Output{Kind: drv.Deferred} }, ""},
		{
			"input is gone", top, func(d *drv.Derivation) { d.InputDrvs[basePath(t, hashPart+"-a.drv")] = []string{"out"} },
			"path '" + aDrv + "' is not valid",
		},
		{"name", s.byName(t, "src"), func(d *drv.Derivation) { d.Name = "other" }, "has name 'other' which does not match its path"},
		{"no derivation", basePath(t, hashPart+"-top"), func(*drv.Derivation) {}, "is not a valid derivation path"},
		{"fixed", s.byName(t, "src"), func(d *drv.Derivation) { d.Args = nil }, ""},
		{
			"fixed, variable", s.byName(t, "src"), func(d *drv.Derivation) { delete(d.Env, "out") },
			"has incorrect environment variable 'out', should be '/nix/store/361b7zv39ibd2jvhz0sfy0naxv71vr3p-src'",
		},
		{"floating", s.byName(t, "floating"), func(d *drv.Derivation) { clear(d.Env) }, ""},
		{
			"should be deferred", s.byName(t, "deferred"), func(d *drv.Derivation) { setPath(d, top) },
			"has incorrect output '" + nix.DefaultStoreDir.Path(top) + "', should be deferred",
		},
		{
			"wrong output of a fixed input", top, func(d *drv.Derivation) { d.InputDrvs[s.byName(t, "src")] = []string{"dev"} },
			"no hash for output 'dev' of derivation '",
		},
	} {
		d := s[tt.path]
		if d == nil {
			d = s[top]
		}
		if tt.name == "should be deferred" {
			d = s[basePath(t, "0wbp3czqikrsp9mxwvs6798xyma4jnxn-deferred.drv")]
		}
		d = clone(d)
		tt.change(d)
		err := s.hasher().CheckInvariants(t.Context(), tt.path, d)
		if (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: CheckInvariants() = %v; want %q", tt.name, err, tt.want)
		}
	}
}

// The graphs that a hostile client can upload: deep ones take no stack, and those with many ways no more time than derivations.
func TestHostileGraphs(t *testing.T) {
	t.Parallel()
	s := store{}
	last := s.add(t, simple(t, s, "n"))
	memo := memory{}
	h := s.hasher()
	h.Memo = memo
	chain := func(n, width int) {
		for range n {
			inputs := []nix.StorePath{}
			for i := range width {
				d := &drv.Derivation{InputDrvs: map[nix.StorePath][]string{last: {"out"}}}
				d.BasicDerivation = drv.BasicDerivation{
					Name: "n", Builder: fmt.Sprint(i), Env: map[string]string{"out": ""}, Outputs: map[string]drv.Output{"out": {Kind: drv.Deferred}},
				}
				inputs = append(inputs, s.add(t, d))
			}
			d := simple(t, s, "deep")
			clear(d.InputDrvs)
			for _, in := range inputs {
				d.InputDrvs[in] = []string{"out"}
			}
			last = s.add(t, d)
		}
	}
	chain(20_000, 1)
	chain(200, 3) // 3^200 ways
	if _, err := s.hasher().Own(t.Context(), s[last]); err != nil {
		t.Errorf("Own() = %v", err)
	}
	if _, err := h.Own(t.Context(), s[last]); err != nil || len(memo) < len(s)-2 {
		t.Errorf("Own() = %v, and the memo knows %d of %d", err, len(memo), len(s))
	}
	h.Load = func(context.Context, nix.StorePath) (*drv.Derivation, error) { return nil, errors.New("not from here") }
	if _, err := h.Own(t.Context(), s[last]); err != nil {
		t.Errorf("Own() with a memo = %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.hasher().Own(ctx, s[last]); !errors.Is(err, context.Canceled) {
		t.Errorf("Own() that is cancelled = %v", err)
	}

	// Cycles cannot be made without breaking SHA-256, but damaged stores might have some.
	a, b := basePath(t, hashPart+"-a.drv"), basePath(t, hashPart+"-b.drv")
	onA, onB := clone(simple(t, s, "x")), clone(simple(t, s, "x"))
	onA.InputDrvs, onB.InputDrvs = map[nix.StorePath][]string{a: {"out"}}, map[nix.StorePath][]string{b: {"out"}}
	for _, cyclic := range []store{{a: onA}, {a: onB, b: onA}} {
		if _, err := cyclic.hasher().Own(t.Context(), onA); err == nil || !strings.Contains(err.Error(), "is an input of itself") {
			t.Errorf("Own() in a cycle = %v", err)
		}
	}
}

// No more is loaded than the bounds allow, however many derivations there are.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	n := 0
	h := &drv.Hasher{Dir: nix.DefaultStoreDir}
	h.Load = func(context.Context, nix.StorePath) (*drv.Derivation, error) {
		d := &drv.Derivation{InputDrvs: map[nix.StorePath][]string{}}
		d.Outputs = map[string]drv.Output{"out": {Kind: drv.Deferred}}
		for range 256 {
			n++
			p, err := nix.ParseBaseName(fmt.Sprintf("%032d-x.drv", n))
			if err != nil {
				return nil, err
			}
			d.InputDrvs[p] = []string{"out"}
		}
		return d, nil
	}
	if _, err := h.Own(t.Context(), simpleOn(t, hashPart+"-x.drv")); !errors.Is(err, drv.ErrTooLarge) {
		t.Errorf("Own() of a graph without end = %v after %d", err, n)
	}
}

func simpleOn(tb testing.TB, base string) *drv.Derivation {
	tb.Helper()
	d := simple(tb, store{}, "n")
	d.InputDrvs[basePath(tb, base)] = []string{"out"}
	return d
}

func BenchmarkParse(b *testing.B) {
	text := nix28(b)["xdgg8kg5rmrd2k60sg47k7hl7pk92y0y-top.drv"]
	b.ReportAllocs()
	for b.Loop() {
		if _, err := drv.Parse(nix.DefaultStoreDir, "top", []byte(text)); err != nil {
			b.Fatal(err)
		}
	}
}
