package drv_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
)

var (
	genName = rapid.StringMatching(`[0-9a-zA-Z+_?=][0-9a-zA-Z+_?=.-]{0,15}`)
	genText = rapid.OneOf(rapid.String(), rapid.StringOfN(rapid.RuneFrom([]rune("\"\\\n\r\tabn")), -1, 20, -1))
	genPath = rapid.Custom(func(t *rapid.T) nix.StorePath {
		base := rapid.StringMatching(`[0-9a-df-np-sv-z]{32}`).Draw(t, "hash") + "-" + genName.Draw(t, "name")
		p, err := nix.ParseBaseName(base)
		if err != nil {
			t.Fatal(err)
		}
		return p
	})
	genMethodAlgo = rapid.SampledFrom([]string{"md5", "sha1", "sha256", "sha512", "r:md5", "r:sha256", "r:sha512", "text:sha256", "git:sha1", "git:sha256"})
)

func drawOutput(t *rapid.T) drv.Output {
	o := drv.Output{Kind: rapid.SampledFrom([]drv.Kind{drv.InputAddressed, drv.Fixed, drv.Floating, drv.Deferred, drv.Impure}).Draw(t, "kind")}
	method, algo, err := nix.ParseMethodAlgo(genMethodAlgo.Draw(t, "method"))
	if err != nil {
		t.Fatal(err)
	}
	switch o.Kind {
	case drv.InputAddressed:
		o.Path = genPath.Draw(t, "path")
	case drv.Fixed:
		h, err := nix.NewHash(algo, rapid.SliceOfN(rapid.Byte(), algo.Size(), algo.Size()).Draw(t, "digest"))
		if err != nil {
			t.Fatal(err)
		}
		o.CA = nix.ContentAddress{Method: method, Hash: h}
	case drv.Floating, drv.Impure:
		o.Method, o.Algo = method, algo
	default:
	}
	return o
}

func drawDerivation(t *rapid.T) *drv.Derivation {
	d := &drv.Derivation{
		BasicDerivation: drv.BasicDerivation{
			Name:      genName.Draw(t, "name"),
			Outputs:   rapid.MapOfN(genName, rapid.Custom(drawOutput), 0, 4).Draw(t, "outputs"),
			InputSrcs: nix.SortPaths(rapid.SliceOfN(genPath, 0, 4).Draw(t, "sources")),
			Platform:  rapid.StringMatching(`[^"\\]*`).Draw(t, "platform"),
			Builder:   genText.Draw(t, "builder"),
			Args:      rapid.SliceOf(genText).Draw(t, "args"),
			Env:       rapid.MapOf(genText, genText).Draw(t, "env"),
		},
		InputDrvs: rapid.MapOfN(genPath, rapid.SliceOfNDistinct(genName, 1, 4, rapid.ID), 0, 4).Draw(t, "inputs"),
	}
	for _, outputs := range d.InputDrvs {
		slices.Sort(outputs)
	}
	return d
}

func TestPropertyParsePrint(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := drawDerivation(t)
		text, err := d.ATerm(nix.DefaultStoreDir)
		if err != nil {
			t.Fatal(err)
		}
		again, err := drv.Parse(nix.DefaultStoreDir, d.Name, text)
		if err != nil {
			t.Fatalf("%v in %q", err, text)
		}
		if diff := diff(d, again); diff != "" {
			t.Errorf("Parse(ATerm(d)): -d +got:\n%s", diff)
		}
	})
}

// The own hash does not depend on the own paths, and the input's hash does not depend on what fetches a fixed output.
func TestPropertyModulo(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := drawDerivation(t)
		kind := rapid.SampledFrom([]drv.Kind{drv.InputAddressed, drv.Deferred}).Draw(t, "kind")
		d.Outputs = map[string]drv.Output{}
		for _, name := range rapid.SliceOfNDistinct(genName, 1, 3, rapid.ID).Draw(t, "names") {
			d.Outputs[name] = drv.Output{Kind: kind}
			d.Env[name] = ""
		}
		inputs := func(p nix.StorePath) (drv.Modulo, error) {
			var sum [32]byte
			copy(sum[:], p.HashPart())
			return drv.Modulo{Hash: nix.NewSHA256(sum), Deferred: p.HashPart()[0] == '0'}, nil
		}
		own := func() drv.Modulo {
			for name := range d.Outputs {
				if kind == drv.InputAddressed {
					path := genPath.Draw(t, "path")
					d.Outputs[name] = drv.Output{Kind: kind, Path: path}
					d.Env[name] = nix.DefaultStoreDir.Path(path)
				}
			}
			m, err := d.OwnModulo(nix.DefaultStoreDir, inputs)
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		if a, b := own(), own(); a != b {
			t.Errorf("OwnModulo() = %v and %v with other paths", a, b)
		}
	})
}
