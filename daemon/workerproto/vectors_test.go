package workerproto_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/daemon/workerproto"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nixwire"
	"github.com/narfs/narfs/internal/wire"
)

const dir = nix.DefaultStoreDir

// exact compares the values of package nix, which are comparable.
var exact = cmp.Options{
	cmp.Comparer(func(a, b nix.StorePath) bool { return a == b }), cmp.Comparer(func(a, b nix.Hash) bool { return a == b }),
}

func path(tb testing.TB, base string) nix.StorePath {
	tb.Helper()
	p, err := nix.ParseBaseName(base)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func conn(in []byte, minor uint8) (*workerproto.Conn, *bytes.Buffer) {
	var out bytes.Buffer
	return &workerproto.Conn{
		Conn:    nixwire.Conn{R: wire.NewReader(bytes.NewReader(in)), W: wire.NewWriter(&out), Dir: dir},
		Version: nixwire.Version{Major: 1, Minor: minor},
	}, &out
}

// number is one as it goes over the wire.
func number(n uint64) string {
	var b bytes.Buffer
	w := wire.NewWriter(&b)
	_ = w.Uint64(n)
	_ = w.Flush()
	return b.String()
}

// vectors is the folder of Nix's test vectors, which are not part of this project.
var vectors = filepath.Join("..", "..", "..", "shared", "vectors")

// copying reads a value and writes it again, and returns it for who wants to look.
type copying func(c *workerproto.Conn) (any, error)

func copyOf[T any](read func(c *workerproto.Conn) (T, error), write func(c *workerproto.Conn, v T) error) copying {
	return func(c *workerproto.Conn) (any, error) {
		v, err := read(c)
		if err == nil {
			err = write(c, v)
		}
		return v, err
	}
}

func copyNested(c *workerproto.Conn) (any, error) {
	n, err := c.R.Count(9, "lists")
	if err == nil {
		err = c.W.Uint64(uint64(n))
	}
	for i := 0; i < n && err == nil; i++ {
		_, err = copyStrings(c)
	}
	return n, err
}

var (
	copyStrings = copyOf(workerproto.ReadStrings, workerproto.WriteStrings)
	copyPath    = copyOf((*workerproto.Conn).ReadOptionalPath, (*workerproto.Conn).WritePath)
	copyString  = copyOf(func(c *workerproto.Conn) (string, error) { return c.R.String(4096, "string") },
		func(c *workerproto.Conn, s string) error { return c.W.String(s) })
	copyCA = copyOf((*workerproto.Conn).ReadCA,
		func(c *workerproto.Conn, ca nix.ContentAddress) error { return c.W.String(ca.String()) })
	copyID = copyOf(func(c *workerproto.Conn) (nix.DrvOutput, error) {
		s, err := c.ReadQueryRealisation()
		if err != nil {
			return nix.DrvOutput{}, err
		}
		return nix.ParseDrvOutput(s)
	}, func(c *workerproto.Conn, id nix.DrvOutput) error { return c.W.String(id.String()) })
	copyRealisation = copyOf(func(c *workerproto.Conn) (nix.Realisation, error) {
		r, err := c.ReadRegisterDrvOutput()
		if err != nil {
			return nix.Realisation{}, err
		}
		return nix.ParseRealisation([]byte(r.JSON))
	}, func(c *workerproto.Conn, r nix.Realisation) error {
		json, err := r.JSON()
		return errors.Join(err, c.W.String(string(json)))
	})
	// Nix 2.34 writes signatures as objects, which older ones do not read: narfs writes them as strings, and all read these.
	copyNewer = copyOf((*workerproto.Conn).ReadRegisterDrvOutput, func(c *workerproto.Conn, r workerproto.Realisation) error {
		first, err := nix.ParseRealisation([]byte(r.JSON))
		if err != nil {
			return err
		}
		json, err := first.JSON()
		if err != nil {
			return err
		}
		if second, err := nix.ParseRealisation(json); err != nil || !cmp.Equal(first, second, exact) {
			return fmt.Errorf("%s is read as %+v, %w; want %+v", json, second, err, first)
		}
		return c.W.String(r.JSON)
	})
	copyMode = copyOf(workerproto.ReadBuildMode,
		func(c *workerproto.Conn, m workerproto.BuildMode) error { return c.W.Uint64(uint64(m)) })
	copyTrust = copyOf(func(c *workerproto.Conn) (workerproto.Trust, error) {
		n, err := c.R.Uint64()
		return workerproto.Trust(n), err
	},
		func(c *workerproto.Conn, t workerproto.Trust) error { return c.W.Uint64(uint64(t)) })
	copyDerived = copyOf(workerproto.ReadDerivedPath, workerproto.WriteDerivedPath)
	copyResult  = copyOf((*workerproto.Conn).ReadBuildResult, (*workerproto.Conn).WriteBuildResult)
	copyInfo    = copyOf((*workerproto.Conn).ReadPathInfo, (*workerproto.Conn).WritePathInfo)
	copyUnkeyed = copyOf(func(c *workerproto.Conn) (nix.PathInfo, error) { return c.ReadUnkeyedPathInfo(nix.StorePath{}) }, (*workerproto.Conn).WriteUnkeyedPathInfo)
	copyKeyed   = copyOf(readKeyed, writeKeyed)
	notSpoken   = copying(nil) // of a feature that narfs does not speak
	byHandshake = copying(nil) // see TestHandshakeVectors
)

func readKeyed(c *workerproto.Conn) (r workerproto.KeyedBuildResult, err error) {
	if r.Path, err = workerproto.ReadDerivedPath(c); err == nil {
		r.Result, err = c.ReadBuildResult()
	}
	return r, err
}

func writeKeyed(c *workerproto.Conn, r workerproto.KeyedBuildResult) error {
	return errors.Join(workerproto.WriteDerivedPath(c, r.Path), c.WriteBuildResult(r.Result))
}

// goldens are the files of a folder: in which version of the protocol, and which values follow each other there.
func goldens(folder string) map[string]struct {
	minor  uint8
	values []copying
} {
	type golden = struct {
		minor  uint8
		values []copying
	}
	times := func(n int, c copying) []copying { return slices.Repeat([]copying{c}, n) }
	lists := append(times(3, copyStrings), copyNested)
	all := map[string]golden{
		"content-address": {38, times(3, copyCA)}, "optional-content-address": {38, times(2, copyCA)},
		"store-path": {38, times(2, copyPath)}, "optional-store-path": {38, times(2, copyPath)},
		"string": {38, times(5, copyString)}, "set": {38, lists}, "vector": {38, lists},
		"drv-output": {38, times(2, copyID)}, "realisation": {38, times(2, copyNewer)}, "realisation-with-deps": {38, times(1, copyRealisation)},
	}
	if folder == "common-protocol" {
		return all
	}
	maps.Copy(all, map[string]golden{
		"build-mode": {38, times(3, copyMode)}, "optional-trusted-flag": {38, times(3, copyTrust)},
		"derived-path-1.29": {29, times(3, copyDerived)}, "derived-path-1.30": {30, times(4, copyDerived)},
		"build-result-1.27": {27, times(3, copyResult)}, "build-result-1.28": {28, times(3, copyResult)},
		"build-result-1.29": {29, times(3, copyResult)}, "build-result-1.29-compat": {29, times(3, copyResult)},
		"build-result-1.37": {37, times(3, copyResult)}, "keyed-build-result-1.29": {29, times(2, copyKeyed)},
		"unkeyed-valid-path-info-1.15": {15, times(2, copyUnkeyed)},
		"valid-path-info-1.15":         {15, times(2, copyInfo)}, "valid-path-info-1.16": {16, times(3, copyInfo)},
		"build-result-realisation-with-path-not-hash":        {38, times(1, notSpoken)},
		"drv-output-realisation-with-path-not-hash":          {38, times(1, notSpoken)},
		"realisation-realisation-with-path-not-hash":         {38, times(1, notSpoken)},
		"unkeyed-realisation-realisation-with-path-not-hash": {38, times(1, notSpoken)},
		"handshake-to-client":                                {10, times(1, byHandshake)},
		"client-handshake-info_1_30":                         {30, times(1, byHandshake)}, "client-handshake-info_1_33": {33, times(1, byHandshake)},
		"client-handshake-info_1_35": {35, times(1, byHandshake)},
	})
	return all
}

// Nix's golden bytes are read and written again: all of them.
func TestVectors(t *testing.T) {
	t.Parallel()
	for _, folder := range []string{"common-protocol", "worker-protocol"} {
		files, err := filepath.Glob(filepath.Join(vectors, folder, "*.bin"))
		if err != nil {
			t.Fatal(err)
		}
		if len(files) == 0 {
			t.Skip("needs Nix's test vectors beside the checkout")
		}
		known := goldens(folder)
		for _, file := range files {
			name := strings.TrimSuffix(filepath.Base(file), ".bin")
			t.Run(folder+"/"+name, func(t *testing.T) {
				t.Parallel()
				g, ok := known[name]
				if !ok {
					t.Fatal("nobody knows what this vector is")
				}
				if g.values[0] == nil {
					return
				}
				golden, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				c, out := conn(golden, g.minor)
				for i, value := range g.values {
					if got, err := value(c); err != nil {
						t.Fatalf("value %d = %+v, %v", i, got, err)
					}
				}
				if err := c.W.Flush(); err != nil || !bytes.Equal(out.Bytes(), golden) {
					t.Errorf("written again = %q, %v; want %q", out, err, golden)
				}
				if _, err := c.R.Uint64(); !errors.Is(err, io.EOF) {
					t.Errorf("behind the last value: %v", err)
				}
			})
		}
		for name := range known {
			if !slices.ContainsFunc(files, func(f string) bool { return filepath.Base(f) == name+".bin" }) {
				t.Errorf("%s: vector %s is not there", folder, name)
			}
		}
	}
}

// What the golden bytes mean, where that is not plain.
func TestVectorValues(t *testing.T) {
	t.Parallel()
	read := func(name string, minor uint8) *workerproto.Conn {
		b, err := os.ReadFile(filepath.Join(vectors, "worker-protocol", name+".bin"))
		if errors.Is(err, os.ErrNotExist) {
			t.Skip("needs Nix's test vectors beside the checkout")
		}
		if err != nil {
			t.Fatal(err)
		}
		c, _ := conn(b, minor)
		return c
	}
	bar, foo := path(t, "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-bar.drv"), path(t, "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo")
	for minor, want := range map[uint8][]workerproto.DerivedPath{
		29: {{Path: foo}, {Path: bar, Built: true}, {Path: bar, Built: true, Outputs: []string{"x", "y"}}},
		30: {
			{Path: foo},
			{Path: path(t, "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo.drv")},
			{Path: bar, Built: true},
			{Path: bar, Built: true, Outputs: []string{"x", "y"}},
		},
	} {
		c := read(map[uint8]string{29: "derived-path-1.29", 30: "derived-path-1.30"}[minor], minor)
		var got []workerproto.DerivedPath
		for range want {
			d, err := workerproto.ReadDerivedPath(c)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, d)
		}
		if diff := cmp.Diff(want, got, exact); diff != "" {
			t.Errorf("1.%d, -want +got:\n%s", minor, diff)
		}
	}
	c := read("build-result-1.37", 37)
	var r nixwire.BuildResult
	for range 3 {
		var err error
		if r, err = c.ReadBuildResult(); err != nil {
			t.Fatal(err)
		}
	}
	if r.Status != nixwire.Built || r.TimesBuilt != 1 || r.Start != 30 || r.Stop != 50 || *r.CPUUser != 500_000_000 || *r.CPUSystem != 604_000_000 || len(r.Outputs) != 2 {
		t.Errorf("the third result of 1.37 = %+v", r)
	}
	c = read("valid-path-info-1.16", 16)
	var infos []nix.PathInfo
	for range 3 {
		info, err := c.ReadPathInfo()
		if err != nil {
			t.Fatal(err)
		}
		infos = append(infos, info)
	}
	if i := infos[0]; !i.Ultimate || i.NarSize != 34878 || i.RegistrationTime != 23423 || i.NarHash.SRI() != "sha256-FePFYIlMuycIXPZbWi7LGEiMmZSX9FMbaQenWBzm1Sc=" {
		t.Errorf("the first info of 1.16 = %+v", i)
	}
	if i := infos[1]; len(i.Signatures) != 2 || len(i.References) != 2 || i.Deriver != bar || i.Ultimate {
		t.Errorf("the second info of 1.16 = %+v", i)
	}
	if i := infos[2]; i.CA.Method != nix.MethodNAR || len(i.References) != 2 {
		t.Errorf("the third info of 1.16 = %+v", i)
	}
}

// The golden bytes of handshakes, by both sides.
func TestHandshakeVectors(t *testing.T) {
	t.Parallel()
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(vectors, "worker-protocol", name+".bin"))
		if errors.Is(err, os.ErrNotExist) {
			t.Skip("needs Nix's test vectors beside the checkout")
		}
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	const last = 0x616c7473
	c, err := workerproto.Open(strings.NewReader(read("handshake-to-client")+number(last)), io.Discard, dir, workerproto.Latest)
	if err != nil || c.Version != (nixwire.Version{Major: 1, Minor: 10}) {
		t.Errorf("Open = %+v, %v; want version 1.10", c, err)
	}
	greetings := []workerproto.Greeting{{Program: "foo", Trust: workerproto.NotTrusted}, {Program: "bar", Trust: workerproto.Trusted}}
	for name, minor := range map[string]uint8{"client-handshake-info_1_30": 30, "client-handshake-info_1_33": 33, "client-handshake-info_1_35": 35} {
		golden, all := read(name), ""
		version := nixwire.Version{Major: 1, Minor: minor}
		for _, greeting := range greetings {
			var out bytes.Buffer
			in := number(workerproto.ClientMagic) + number(version.Number()) + number(0) + number(0)
			server, err := workerproto.Accept(strings.NewReader(in), &out, dir, greeting)
			if err == nil {
				err = server.W.Flush()
			}
			if err != nil || server.Version != version {
				t.Fatalf("%s: Accept = %+v, %v", name, server, err)
			}
			hello := out.String()
			all += hello[16:]
			want := greeting
			if minor < 33 {
				want.Program = ""
			}
			if minor < 35 {
				want.Trust = workerproto.TrustUnknown
			}
			c, err := workerproto.Open(strings.NewReader(hello+number(last)), io.Discard, dir, version)
			if err != nil || c.Version != version || c.Server != want {
				t.Errorf("%s: Open = %+v, %v; want %+v", name, c, err, want)
			}
		}
		if all != golden {
			t.Errorf("%s: the server writes %q; want %q", name, all, golden)
		}
	}
}
