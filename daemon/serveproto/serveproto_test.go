package serveproto_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/narfs/narfs/daemon/serveproto"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
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

// vector returns the bytes of one of Nix's test vectors, which are not part of this project.
func vector(tb testing.TB, name string) []byte {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "..", "shared", "vectors", name+".bin"))
	if errors.Is(err, os.ErrNotExist) {
		tb.Skip("needs Nix's test vectors beside the checkout")
	}
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func conn(in []byte, minor uint8) (*serveproto.Conn, *bytes.Buffer) {
	var out bytes.Buffer
	return &serveproto.Conn{
		Conn:    nixwire.Conn{R: wire.NewReader(bytes.NewReader(in)), W: wire.NewWriter(&out), Dir: dir},
		Version: serveproto.Version{Major: 2, Minor: minor},
	}, &out
}

func flushed(tb testing.TB, c *serveproto.Conn, out *bytes.Buffer, err error) []byte {
	tb.Helper()
	if err := errors.Join(err, c.W.Flush()); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

// Nix's golden bytes are read and written again.
func TestVectors(t *testing.T) {
	t.Parallel()
	t.Run("build options", func(t *testing.T) {
		t.Parallel()
		for minor, want := range map[uint8]serveproto.BuildOptions{
			1: {MaxSilentTime: 5, BuildTimeout: 6},
			2: {MaxSilentTime: 5, BuildTimeout: 6, MaxLogSize: 7},
			3: {MaxSilentTime: 5, BuildTimeout: 6, MaxLogSize: 7, Repeats: 8, EnforceDeterminism: true},
			7: {MaxSilentTime: 5, BuildTimeout: 6, MaxLogSize: 7, Repeats: 8, KeepFailed: true},
		} {
			golden := vector(t, fmt.Sprintf("serve-protocol/build-options-2.%d", minor))
			c, out := conn(golden, minor)
			got, err := c.ReadBuildOptions()
			if err != nil || got != want {
				t.Errorf("2.%d: ReadBuildOptions = %+v, %v; want %+v", minor, got, err, want)
			}
			if b := flushed(t, c, out, c.WriteBuildOptions(got)); !bytes.Equal(b, golden) {
				t.Errorf("2.%d: WriteBuildOptions = %x; want %x", minor, b, golden)
			}
		}
	})
	t.Run("build results", func(t *testing.T) {
		t.Parallel()
		for version, minor := range map[string]uint8{"2.2": 2, "2.3": 3, "2.6": 6, "2.7-compat": 7} {
			golden := vector(t, "serve-protocol/build-result-"+version)
			want := []nixwire.BuildResult{
				{Status: nixwire.OutputRejected, ErrorMsg: "no idea why"},
				{Status: nixwire.NotDeterministic, ErrorMsg: "no idea why", TimesBuilt: 3, NonDeterministic: true, Start: 30, Stop: 50},
				{Status: nixwire.Built, TimesBuilt: 1, Start: 30, Stop: 50},
			}
			c, out := conn(golden, minor)
			var err error
			for i := range want {
				if minor == 3 {
					want[i].TimesBuilt = []uint64{0, 3, 0}[i]
				}
				if minor < 3 {
					want[i] = nixwire.BuildResult{Status: want[i].Status, ErrorMsg: want[i].ErrorMsg}
				}
				var r nixwire.BuildResult
				if r, err = serveproto.ReadBuildResult(c); err != nil {
					t.Fatalf("%s: %v", version, err)
				}
				if outputs := len(r.Outputs); (outputs == 2) != (i == 2 && minor >= 6) {
					t.Errorf("%s: result %d has %d outputs", version, i, outputs)
				}
				err = c.WriteBuildResult(r)
				r.Outputs = nil
				if diff := cmp.Diff(want[i], r); diff != "" {
					t.Errorf("%s: result %d, -want +got:\n%s", version, i, diff)
				}
			}
			if _, err := c.R.Uint64(); !errors.Is(err, io.EOF) {
				t.Errorf("%s: bytes are left after three results: %v", version, err)
			}
			if b := flushed(t, c, out, err); !bytes.Equal(b, golden) {
				t.Errorf("%s: WriteBuildResult = %x; want %x", version, b, golden)
			}
		}
	})
	t.Run("path infos", func(t *testing.T) {
		t.Parallel()
		for _, minor := range []uint8{3, 4} {
			name := fmt.Sprintf("serve-protocol/unkeyed-valid-path-info-2.%d", minor)
			golden := vector(t, name)
			c, out := conn(golden, minor)
			var err error
			for i := range 2 {
				var info nix.PathInfo
				if info, err = serveproto.ReadPathInfo(c, path(t, "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-bar")); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if info.NarSize != 34878 || minor == 4 && info.NarHash.SRI() != "sha256-FePFYIlMuycIXPZbWi7LGEiMmZSX9FMbaQenWBzm1Sc=" {
					t.Errorf("%s: info %d = %+v", name, i, info)
				}
				if i == 1 && minor == 4 && (len(info.Signatures) != 2 || info.CA.Method != nix.MethodNAR || len(info.References) != 2) {
					t.Errorf("%s: info 1 = %+v", name, info)
				}
				err = serveproto.WriteUnkeyedPathInfo(c, info)
			}
			if b := flushed(t, c, out, err); !bytes.Equal(b, golden) {
				t.Errorf("%s: written again = %x; want %x", name, b, golden)
			}
		}
	})
	t.Run("store paths", func(t *testing.T) {
		t.Parallel()
		for _, folder := range []string{"serve-protocol", "common-protocol"} {
			for _, name := range []string{"store-path", "optional-store-path"} {
				golden := vector(t, folder+"/"+name)
				c, out := conn(golden, 7)
				var err error
				for range 2 {
					var p nix.StorePath
					if p, err = c.ReadOptionalPath(); err != nil {
						t.Fatal(err)
					}
					err = c.WritePath(p)
				}
				if b := flushed(t, c, out, err); !bytes.Equal(b, golden) {
					t.Errorf("%s/%s written again = %x; want %x", folder, name, b, golden)
				}
			}
		}
	})
	t.Run("handshake", func(t *testing.T) {
		t.Parallel()
		golden := vector(t, "serve-protocol/handshake-to-client")
		client, err := serveproto.Open(bytes.NewReader(golden), io.Discard, dir)
		if err != nil || client.Version != (serveproto.Version{Major: 2, Minor: 5}) {
			t.Errorf("Open = %+v, %v; want version 2.5", client, err)
		}
	})
}

// number is one as it goes over the wire.
func number(n uint64) string {
	var b bytes.Buffer
	w := wire.NewWriter(&b)
	_ = w.Uint64(n)
	_ = w.Flush()
	return b.String()
}

func TestHandshake(t *testing.T) {
	t.Parallel()
	greeting := number(serveproto.ServerMagic) + number(2<<8|7)
	tests := []struct {
		name, in, out, err string
		version            serveproto.Version
	}{
		{"2.7", number(serveproto.ClientMagic) + number(2<<8|7), greeting, "", serveproto.Version{Major: 2, Minor: 7}},
		{"2.0", number(serveproto.ClientMagic) + number(2<<8), greeting, "", serveproto.Version{Major: 2}},
		{"newer", number(serveproto.ClientMagic) + number(2<<8|9), greeting, "", serveproto.Version{Major: 2, Minor: 7}},
		{"other major", number(serveproto.ClientMagic) + number(3<<8|1), greeting, "", serveproto.Version{Major: 2, Minor: 1}},
		{"wrong magic", number(0x6e697863) + number(1<<8|34), "", "protocol mismatch", serveproto.Version{}},
		{"nothing", "", "", "unexpected EOF", serveproto.Version{}},
		{"half a magic", number(serveproto.ClientMagic)[:5], "", "unexpected EOF", serveproto.Version{}},
		{"no version", number(serveproto.ClientMagic), greeting, "unexpected EOF", serveproto.Version{}},
	}
	for _, test := range tests {
		var out bytes.Buffer
		c, err := serveproto.Accept(strings.NewReader(test.in), &out, dir)
		switch {
		case test.err == "" && (err != nil || c.Version != test.version):
			t.Errorf("%s: Accept = %+v, %v; want version %v", test.name, c, err, test.version)
		case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
			t.Errorf("%s: Accept = %v; want %q", test.name, err, test.err)
		}
		if out.String() != test.out {
			t.Errorf("%s: the server wrote %x; want %x", test.name, out.String(), test.out)
		}
	}
	for in, want := range map[string]string{
		"Welcome to host\n":              `not begin as a Nix store does, but with "Welcome "`,
		number(serveproto.ServerMagic):   "unexpected EOF",
		greeting[:8] + number(1<<8|11):   "version 1.11",
		"":                               "unexpected EOF",
		greeting[:8] + number(1<<40|0x7): "version",
	} {
		if _, err := serveproto.Open(strings.NewReader(in), io.Discard, dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open with %q = %v; want %q", in, err, want)
		}
	}
}

// someInfo has every field.
func someInfo(tb testing.TB) nix.PathInfo {
	tb.Helper()
	key, err := nix.GenerateSecretKey("test-1")
	if err != nil {
		tb.Fatal(err)
	}
	info := nix.PathInfo{
		Path: path(tb, "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo"), NarHash: nix.NewSHA256([32]byte{1, 2, 3}), NarSize: 1234,
		References: nix.SortPaths([]nix.StorePath{path(tb, "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo"), path(tb, "n5wkd9frr45pa74if5gpz9j7mifg27fh-foo")}),
		Deriver:    path(tb, "g1w7hyyyy1w7hy3qg1w7hy3qgqqqqy3q-foo.drv"), RegistrationTime: 1_700_000_000, Ultimate: true,
		CA: nix.ContentAddress{Method: nix.MethodNAR, Hash: nix.NewSHA256([32]byte{9})},
	}
	if err := info.Sign(dir, key); err != nil {
		tb.Fatal(err)
	}
	return info
}

// requests is one of each command, as a client sends them.
func requests(tb testing.TB) []byte {
	tb.Helper()
	info := someInfo(tb)
	var out bytes.Buffer
	greeting := number(serveproto.ServerMagic) + number(2<<8|7)
	var answers bytes.Buffer
	answers.WriteString(greeting)
	w := wire.NewWriter(&answers)
	_ = w.Uint64(0)  // valid paths
	_ = w.String("") // infos
	_ = w.Uint64(0)  // closure
	_ = w.Uint64(1)  // added
	_ = w.Uint64(1)  // imported
	if err := w.Flush(); err != nil {
		tb.Fatal(err)
	}
	c, err := serveproto.Open(&answers, &out, dir)
	if err != nil {
		tb.Fatal(err)
	}
	nothing := func(*wire.Reader) error { return nil }
	_, err1 := c.QueryValidPaths([]nix.StorePath{info.Path}, true, false)
	_, err2 := c.QueryPathInfos([]nix.StorePath{info.Path})
	_, err3 := c.QueryClosure([]nix.StorePath{info.Path})
	err4 := c.AddToStoreNar(info, func(w io.Writer) error { _, err := io.WriteString(w, "12345678"); return err }, nil)
	err5 := c.Finish()
	err6 := c.ImportPaths(func(w io.Writer) error { _, err := io.WriteString(w, number(0)); return err })
	err7 := c.DumpStorePath(info.Path, nothing)
	err8 := c.ExportPaths([]nix.StorePath{info.Path}, nothing)
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7, err8); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

// serve reads requests as a server does, to the end or the first error.
func serve(in io.Reader, budget func(int64) error) (seen []string, err error) {
	c, err := serveproto.Accept(in, io.Discard, dir)
	if err != nil {
		return nil, err
	}
	c.Budget = budget
	for {
		command, err := c.Command()
		if errors.Is(err, io.EOF) {
			return seen, nil
		}
		if err != nil {
			return seen, err
		}
		var what any
		switch command {
		case serveproto.QueryValidPaths:
			what, err = c.ReadQueryValidPaths()
		case serveproto.QueryPathInfos:
			what, err = c.ReadPaths()
		case serveproto.DumpStorePath:
			what, err = c.ReadPath()
		case serveproto.ImportPaths:
			if what, err = c.R.Uint64(); errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
		case serveproto.ExportPaths:
			what, err = c.ReadExportPaths()
		case serveproto.BuildPaths:
			what, err = c.ReadBuildPaths()
		case serveproto.QueryClosure:
			_, what, err = c.ReadQueryClosure()
		case serveproto.BuildDerivation:
			what, err = c.ReadBuildDerivation()
		case serveproto.AddToStoreNar:
			if what, err = c.ReadAddToStoreNar(); err == nil {
				err = c.R.Discard(8)
			}
		default:
			return seen, fmt.Errorf("unknown serve command %d", uint64(command))
		}
		if err != nil {
			return seen, err
		}
		seen = append(seen, fmt.Sprintf("%v %v", command, what))
	}
}

func TestRequests(t *testing.T) {
	t.Parallel()
	in := requests(t)
	seen, err := serve(bytes.NewReader(in), nil)
	if err != nil || len(seen) != 7 {
		t.Fatalf("the server saw %q, %v; want seven commands", seen, err)
	}
	// Whatever pieces it comes in, and wherever it ends: nothing but an error, and no command that is not whole.
	again, err := serve(iotest.OneByteReader(bytes.NewReader(in)), nil)
	if diff := cmp.Diff(seen, again); err != nil || diff != "" {
		t.Errorf("byte by byte: %v, -whole +bytes:\n%s", err, diff)
	}
	for n := range in {
		part, err := serve(bytes.NewReader(in[:n]), nil)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("after %d bytes: %v; want io.ErrUnexpectedEOF", n, err)
		}
		if diff := cmp.Diff(seen[:len(part)], part, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("after %d bytes, -want +got:\n%s", n, diff)
		}
	}
}

func TestAddToStoreNarRoundTrip(t *testing.T) {
	t.Parallel()
	want := someInfo(t)
	r, w := io.Pipe()
	ar, aw := io.Pipe()
	done := make(chan error, 1)
	var got nix.PathInfo
	go func() {
		c, err := serveproto.Accept(r, aw, dir)
		if err == nil {
			_, err = c.Command()
		}
		if err == nil {
			got, err = c.ReadAddToStoreNar()
		}
		if err == nil {
			err = c.R.Discard(8)
		}
		if err == nil {
			err = errors.Join(c.WriteOK(), c.W.Flush())
		}
		done <- err
	}()
	client, err := serveproto.Open(ar, w, dir)
	if err == nil {
		err = client.AddToStoreNar(want, func(w io.Writer) error { _, err := io.WriteString(w, "12345678"); return err }, nil)
	}
	if err == nil {
		err = client.Finish()
	}
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, exact); diff != "" {
		t.Errorf("the server got, -sent +got:\n%s", diff)
	}
}

// Many paths are sent without waiting; the first that has no answer is named.
func TestAddToStoreNarFails(t *testing.T) {
	t.Parallel()
	info := someInfo(t)
	r, w := io.Pipe()
	ar, aw := io.Pipe()
	go func() {
		c, err := serveproto.Accept(r, aw, dir)
		for i := 0; err == nil; i++ {
			if _, err = c.Command(); err == nil {
				_, err = c.ReadAddToStoreNar()
			}
			if err == nil {
				err = c.R.Discard(8)
			}
			if i == 2 {
				_, _ = aw.CloseWithError(io.EOF), r.CloseWithError(io.ErrClosedPipe)
				return
			}
			_ = c.WriteOK()
			_ = c.W.Flush()
		}
	}()
	client, err := serveproto.Open(ar, w, dir)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"a", "b", "c", "d", "e"}
	for _, name := range names {
		info.Path = path(t, "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-"+name)
		if err = client.AddToStoreNar(info, func(w io.Writer) error { _, err := io.WriteString(w, "12345678"); return err }, nil); err != nil {
			break
		}
	}
	if err == nil {
		err = client.Finish()
	}
	if err == nil || !strings.Contains(err.Error(), "add path '/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-c': unexpected EOF") {
		t.Errorf("error = %v; want that of c, whose answer is missing", err)
	}
}

// answers gives a client for what a server says, and what it is sent.
func answers(tb testing.TB, in string) (*serveproto.Client, *bytes.Buffer) {
	tb.Helper()
	var out bytes.Buffer
	c, err := serveproto.Open(strings.NewReader(number(serveproto.ServerMagic)+number(2<<8|7)+in), &out, dir)
	if err != nil {
		tb.Fatal(err)
	}
	out.Reset()
	return c, &out
}

func text(s string) string { return number(uint64(len(s))) + s + strings.Repeat("\x00", -len(s)&7) }

// An answer other than 1 is none, and who sends on after an error gets the same error.
func TestAddToStoreNarRefused(t *testing.T) {
	t.Parallel()
	info := someInfo(t)
	there := 0
	add := func(c *serveproto.Client) error {
		return c.AddToStoreNar(info, func(w io.Writer) error { _, err := io.WriteString(w, "12345678"); return err }, func() { there++ })
	}
	c, _ := answers(t, number(1)+number(0)+number(1))
	var err error
	for range 3 {
		if err = add(c); err != nil {
			break
		}
	}
	if err == nil {
		err = c.Finish()
	}
	if err == nil || !strings.Contains(err.Error(), "answers 0 instead of 1") || there != 1 {
		t.Errorf("error = %v after %d paths; want one about the answer 0 after 1", err, there)
	}
	if again := add(c); again == nil || again.Error() != err.Error() {
		t.Errorf("AddToStoreNar after that = %v; want %v", again, err)
	}
	c, _ = answers(t, number(2))
	if err := c.ImportPaths(func(io.Writer) error { return nil }); err == nil {
		t.Error("ImportPaths with the answer 2 = nil")
	}
}

func TestQueryPathInfosRefuses(t *testing.T) {
	t.Parallel()
	asked := path(t, "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-a")
	full := dir.Path(asked)
	info := text("") + number(0) + number(8) + number(8) + text("sha256:"+strings.Repeat("0", 64)) + text("")
	for in, want := range map[string]string{
		text("/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-b"):                 "which was not asked for",
		text(full) + info + number(0) + text(full):                            "which was not asked for",
		text(full) + text("") + number(1<<40):                                 "path '" + full + "': references: length",
		text(full) + info + number(1<<40):                                     "signatures: length",
		text(full) + text("") + number(0) + number(8) + number(8) + text("x"): "path '" + full + "': parse hash",
	} {
		c, _ := answers(t, in)
		if infos, err := c.QueryPathInfos([]nix.StorePath{asked}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("QueryPathInfos of %q = %v, %v; want an error with %q", in, infos, err, want)
		}
	}
	// Nix 2.8 may have signatures that are none; they make the others no worse.
	sig := nix.Signature{KeyName: "key-1"}
	c, _ := answers(t, text(full)+info+number(3)+text("rubbish")+text(sig.String())+text("")+text(""))
	infos, err := c.QueryPathInfos([]nix.StorePath{asked})
	if err != nil || len(infos) != 1 || len(infos[0].Signatures) != 1 || infos[0].Signatures[0] != sig {
		t.Errorf("QueryPathInfos = %v, %v; want the one signature", infos, err)
	}
}

// NARs are asked for ahead, but never more than a pipe of one page takes while the other side writes.
func TestDumpStorePathsAhead(t *testing.T) {
	t.Parallel()
	var paths []nix.StorePath
	for i := range 300 {
		name := fmt.Sprintf("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-%d%s", i, strings.Repeat("x", i*7%200))
		paths = append(paths, path(t, name))
	}
	c, out := answers(t, strings.Repeat("12345678", len(paths)))
	next, most := 0, 0
	var begun int // bytes of the requests that are answered, or being answered
	err := c.DumpStorePaths(paths, func(i int, r *wire.Reader) error {
		if i != next {
			t.Errorf("path %d comes after %d", i, next-1)
		}
		next++
		full := dir.Path(paths[i])
		begun += 16 + (len(full)+7)/8*8
		most = max(most, out.Len()-begun)
		return r.Discard(8)
	})
	if err != nil || next != len(paths) || out.Len() != begun {
		t.Errorf("%d paths and %d of %d bytes, %v; want all", next, begun, out.Len(), err)
	}
	if most > 4096 || most < 2048 {
		t.Errorf("%d bytes are asked for ahead; want most of a page", most)
	}
}

// What a hostile peer says about lengths costs nothing.
func TestLimits(t *testing.T) {
	t.Parallel()
	hello := number(serveproto.ClientMagic) + number(2<<8|7)
	foo := "/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo"
	tests := []struct{ name, in, want string }{
		{"paths without end", hello + number(2) + number(1<<40), "paths: length 1099511627776 exceeds"},
		{"a path of 2^40 bytes", hello + number(3) + number(1<<40), "store path: length 1099511627776 exceeds"},
		{"a path of another store", hello + number(3) + text("/gnu/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo"), "is not in the Nix store"},
		{"traversal", hello + number(3) + text("/nix/store/../../etc/passwd"), ""},
		{"no path", hello + number(3) + text(""), "is empty"},
		{"padding", hello + number(3) + number(uint64(len(foo))) + foo + "x", "non-zero padding"},
		{"a signature that is none", hello + number(9) + text(foo) + text("") + text(strings.Repeat("0", 64)) + number(0) + number(0) + number(8) + number(0) + number(1) + text("rubbish"), ""},
		{"no NAR size", hello + number(9) + text(foo) + text("") + text(strings.Repeat("0", 64)) + number(0) + number(0) + number(0), "NAR size is 0"},
		{"no NAR hash", hello + number(9) + text(foo) + text("") + text(""), ""},
		{"an unknown command", hello + number(77), "unknown serve command 77"},
	}
	for _, test := range tests {
		seen, err := serve(io.MultiReader(strings.NewReader(test.in), zeros{}), nil)
		if err == nil || len(seen) > 0 || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %q, %v; want an error with %q", test.name, seen, err, test.want)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestBudget(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	w := wire.NewWriter(&out)
	_, _ = out.WriteString(number(serveproto.ClientMagic) + number(2<<8|7) + number(2) + number(1000))
	for i := range 1000 {
		_ = w.String(fmt.Sprintf("/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-%d", i))
	}
	_ = w.Flush()
	full := errors.New("narfs daemon out of memory")
	left := int64(20_000)
	_, err := serve(&out, func(n int64) error {
		if left -= n; left < 0 {
			return full
		}
		return nil
	})
	if !errors.Is(err, full) {
		t.Errorf("error = %v; want that of the budget", err)
	}
}

// One long string must not take its memory before the budget is asked.
func TestBudgetOfLongText(t *testing.T) {
	file := "/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-a.drv"
	in := number(serveproto.ClientMagic) + number(2<<8|7) + number(8) + number(uint64(len(file))) + file + strings.Repeat("\x00", -len(file)&7) +
		number(0) + number(0) + number(0) + number(0) + // outputs, inputs, platform, builder
		number(1) + number(60<<20) // an argument of 60 MiB
	full := errors.New("narfs daemon out of memory")
	left := int64(1 << 20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := serve(io.MultiReader(strings.NewReader(in), zeros{}), func(n int64) error {
		if left -= n; left < 0 {
			return full
		}
		return nil
	})
	runtime.ReadMemStats(&after)
	if !errors.Is(err, full) {
		t.Errorf("error = %v; want that of the budget", err)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 10<<20 {
		t.Errorf("%d bytes were allocated for a budget of 1 MiB", got)
	}
}

// The real nix-store --serve takes what the client sends, and gives it back.
func TestClientAgainstNix(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("nix-store"); err != nil {
		t.Skip("needs nix-store, as in Debian's package nix-bin")
	}
	root := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "nix-store", "--serve", "--write")
	cmd.Env = append(os.Environ(), "NIX_REMOTE="+root, "HOME="+root)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("nix-store --serve: %v", err)
		}
		_ = filepath.WalkDir(root, func(name string, d os.DirEntry, err error) error { // the store is read-only
			if err == nil && d.IsDir() {
				return os.Chmod(name, 0o700)
			}
			return err
		})
	}()
	c, err := serveproto.Open(stdout, stdin, dir)
	if err != nil {
		t.Fatal(err)
	}
	// A file "hello" as a NAR, and a second path that refers to the first.
	var archive bytes.Buffer
	w := wire.NewWriter(&archive)
	for _, token := range []string{"nix-archive-1", "(", "type", "regular", "contents", "hello", ")"} {
		_ = w.String(token)
	}
	_ = w.Flush()
	sum := sha256Sum(archive.Bytes())
	a := nix.PathInfo{Path: path(t, "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-a"), NarHash: sum, NarSize: uint64(archive.Len())}
	b := nix.PathInfo{
		Path: path(t, "n5wkd9frr45pa74if5gpz9j7mifg27fh-b"), NarHash: sum, NarSize: uint64(archive.Len()), References: []nix.StorePath{a.Path},
	}
	write := func(w io.Writer) error { _, err := w.Write(archive.Bytes()); return err }
	if err := errors.Join(c.AddToStoreNar(a, write, nil), c.AddToStoreNar(b, write, nil), c.Finish()); err != nil {
		t.Fatal(err)
	}
	both := []nix.StorePath{a.Path, b.Path}
	if got, err := c.QueryValidPaths(append(both, path(t, "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-absent")), false, false); err != nil || len(got) != 2 {
		t.Errorf("QueryValidPaths = %v, %v; want both", got, err)
	}
	if got, err := c.QueryClosure([]nix.StorePath{b.Path}); err != nil || len(got) != 2 {
		t.Errorf("QueryClosure = %v, %v; want both", got, err)
	}
	infos, err := c.QueryPathInfos([]nix.StorePath{b.Path})
	if diff := cmp.Diff([]nix.PathInfo{b}, infos, exact); err != nil || diff != "" {
		t.Errorf("QueryPathInfos: %v, -want +got:\n%s", err, diff)
	}
	got := make([]byte, archive.Len())
	if err := c.DumpStorePath(b.Path, func(r *wire.Reader) error { _, err := io.ReadFull(r, got); return err }); err != nil || !bytes.Equal(got, archive.Bytes()) {
		t.Errorf("DumpStorePath = %q, %v", got, err)
	}
}

// BuildDerivation sends what the server's side reads, and reads what that answers.
func TestBuildDerivation(t *testing.T) {
	t.Parallel()
	req := serveproto.BuildDerivationRequest{
		Path: path(t, "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-a.drv"),
		Derivation: drv.BasicDerivation{
			Name: "a", Platform: "here", Builder: "/bin/sh", Env: map[string]string{"out": "x"},
			Outputs: map[string]drv.Output{"out": {Kind: drv.Floating, Method: nix.MethodNAR, Algo: nix.SHA256}},
		},
		Options: serveproto.BuildOptions{MaxSilentTime: 1, BuildTimeout: 2, MaxLogSize: 3, KeepFailed: true},
	}
	result := nixwire.BuildResult{
		Status: nixwire.TimedOut, ErrorMsg: "why", TimesBuilt: 1, Start: 5, Stop: 6, Outputs: []nixwire.BuiltOutput{{ID: "sha256:0!out", Realisation: "{}"}},
	}
	var answer bytes.Buffer
	conn := &serveproto.Conn{Conn: nixwire.Conn{W: wire.NewWriter(&answer), Dir: dir}, Version: serveproto.Latest}
	if err := errors.Join(conn.WriteBuildResult(result), conn.W.Flush()); err != nil {
		t.Fatal(err)
	}
	c, sent := answers(t, answer.String())
	got, err := c.BuildDerivation(req)
	if diff := cmp.Diff(result, got); err != nil || diff != "" {
		t.Errorf("BuildDerivation: %v (-want +got):\n%s", err, diff)
	}
	conn = &serveproto.Conn{Conn: nixwire.Conn{R: wire.NewReader(sent), Dir: dir}, Version: serveproto.Latest}
	if command, err := conn.Command(); err != nil || command != serveproto.BuildDerivation {
		t.Fatalf("it sends %v, %v", command, err)
	}
	read, err := conn.ReadBuildDerivation()
	if diff := cmp.Diff(req, read, exact, cmpopts.EquateEmpty()); err != nil || diff != "" {
		t.Errorf("it sends: %v (-want +got):\n%s", err, diff)
	}
	c, _ = answers(t, answer.String()[:answer.Len()-8])
	if _, err := c.BuildDerivation(req); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("of half an answer: %v", err)
	}
}
