package nixwire_test

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
	"github.com/narfs/narfs/internal/nixwire"
	"github.com/narfs/narfs/internal/wire"
)

const (
	hashPart = "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q"
	aPath    = "/nix/store/" + hashPart + "-a"
	bPath    = "/nix/store/" + hashPart + "-b"
)

func path(tb testing.TB, base string) nix.StorePath {
	tb.Helper()
	p, err := nix.ParseBaseName(base)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// list is strings behind a count: that of its groups of per strings.
type list struct {
	per   int // 0 for strings without a count
	texts []string
}

func encode(tb testing.TB, lists ...list) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := wire.NewWriter(&b)
	for _, l := range lists {
		if l.per > 0 {
			_ = w.Uint64(uint64(len(l.texts) / l.per))
		}
		for _, s := range l.texts {
			_ = w.String(s)
		}
	}
	if err := w.Flush(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func derivation(tb testing.TB, outputs, inputs, env []string) []byte {
	tb.Helper()
	return encode(tb, list{4, outputs}, list{1, inputs}, list{0, []string{"x86_64-linux", "/bin/sh"}}, list{1, []string{"-c", ""}}, list{2, env})
}

func conn(in []byte, out io.Writer) *nixwire.Conn {
	return &nixwire.Conn{R: wire.NewReader(bytes.NewReader(in)), W: wire.NewWriter(out), Dir: nix.DefaultStoreDir}
}

func TestDerivation(t *testing.T) {
	t.Parallel()
	in := derivation(t, []string{"out", bPath, "", "", "dev", aPath, "", ""}, []string{bPath, aPath, aPath}, []string{"y", "2", "x", "1\n"})
	want := drv.BasicDerivation{
		Name: "hello",
		Outputs: map[string]drv.Output{
			"dev": {Kind: drv.InputAddressed, Path: path(t, hashPart+"-a")},
			"out": {Kind: drv.InputAddressed, Path: path(t, hashPart+"-b")},
		},
		InputSrcs: []nix.StorePath{path(t, hashPart+"-a"), path(t, hashPart+"-b")},
		Platform:  "x86_64-linux", Builder: "/bin/sh", Args: []string{"-c", ""}, Env: map[string]string{"x": "1\n", "y": "2"},
	}
	at := path(t, hashPart+"-hello.drv")
	var out bytes.Buffer
	c := conn(in, &out)
	got, err := c.ReadDerivation(at)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("ReadDerivation() = %+v, %v; want %+v", got, err, want)
	}
	if err := errors.Join(c.WriteDerivation(&got), c.W.Flush()); err != nil {
		t.Fatal(err)
	}
	ordered := derivation(t, []string{"dev", aPath, "", "", "out", bPath, "", ""}, []string{aPath, bPath}, []string{"x", "1\n", "y", "2"})
	if !bytes.Equal(out.Bytes(), ordered) {
		t.Errorf("WriteDerivation() = %q; want %q", out.Bytes(), ordered)
	}
	for n := range len(in) {
		if _, err := conn(in[:n], io.Discard).ReadDerivation(at); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("ReadDerivation() of the first %d of %d bytes = %v; want %v", n, len(in), err, io.ErrUnexpectedEOF)
		}
	}

	// Each kind of output comes out as it went in.
	md5 := "00000000000000000000000000000000"
	h, err := nix.ParseHash(md5, nix.MD5)
	if err != nil {
		t.Fatal(err)
	}
	fixed, err := nix.MakePathFromCA(nix.DefaultStoreDir, "hello", nix.ContentAddress{Method: nix.MethodNAR, Hash: h}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, fields := range [][]string{
		{"out", nix.DefaultStoreDir.Path(fixed), "r:md5", md5}, {"out", "", "r:sha256", ""}, {"out", "", "", ""}, {"out", "", "sha512", "impure"},
	} {
		in := derivation(t, fields, nil, nil)
		var out bytes.Buffer
		c := conn(in, &out)
		got, err := c.ReadDerivation(at)
		if err := errors.Join(err, c.WriteDerivation(&got), c.W.Flush()); err != nil || !bytes.Equal(out.Bytes(), in) {
			t.Errorf("WriteDerivation(ReadDerivation(%q)) = %q, %v", fields, out.Bytes(), err)
		}
	}
}

func TestDerivationErrors(t *testing.T) {
	t.Parallel()
	at := path(t, hashPart+"-hello.drv")
	for _, tt := range []struct {
		in   []byte
		path nix.StorePath
		want string
	}{
		{derivation(t, nil, nil, nil), path(t, hashPart+"-hello"), "is not a valid derivation path"},
		{derivation(t, []string{"a", "", "", "", "a", "", "", ""}, nil, nil), at, `output "a" comes twice`},
		{derivation(t, []string{"a/b", "", "", ""}, nil, nil), at, "illegal character"},
		{derivation(t, []string{"a", aPath, "md5", "00000000000000000000000000000000"}, nil, nil), at, "does not match its content address"},
		{derivation(t, nil, []string{"/x"}, nil), at, "is not in the Nix store"},
		{derivation(t, nil, nil, []string{"x", "", "x", ""}), at, `variable "x" comes twice`},
		{encode(t, list{4, make([]string, 4*(nixwire.MaxOutputs+1))}), at, "outputs"},
	} {
		if d, err := conn(tt.in, io.Discard).ReadDerivation(tt.path); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("ReadDerivation() = %+v, %v; want an error with %q", d, err, tt.want)
		}
	}
	d := drv.BasicDerivation{Outputs: map[string]drv.Output{"out": {}}}
	var out bytes.Buffer
	c := conn(nil, &out)
	if err := c.WriteDerivation(&d); err == nil || c.W.Flush() != nil || out.Len() > 0 {
		t.Errorf("WriteDerivation() of an output of no kind = %v, after %d bytes", err, out.Len())
	}
}

// The budget is asked for all that is kept: at least for the bytes that came.
func TestDerivationBudget(t *testing.T) {
	t.Parallel()
	in := derivation(t, []string{"out", aPath, "", ""}, []string{aPath}, []string{"x", strings.Repeat("y", 1<<20), "z", ""})
	var total int64
	c := conn(in, io.Discard)
	c.Budget = func(n int64) error { total += n; return nil }
	if _, err := c.ReadDerivation(path(t, hashPart+"-hello.drv")); err != nil || total < int64(len(in)) {
		t.Errorf("ReadDerivation() = %v, and asked the budget for %d of %d bytes", err, total, len(in))
	}
	full := errors.New("full")
	for at := range total {
		if at > 2000 && at < total-100 {
			continue
		}
		c := conn(in, io.Discard)
		left := at
		c.Budget = func(n int64) error {
			if left -= n; left < 0 {
				return full
			}
			return nil
		}
		if _, err := c.ReadDerivation(path(t, hashPart+"-hello.drv")); !errors.Is(err, full) {
			t.Fatalf("ReadDerivation() with %d of %d bytes = %v; want %v", at, total, err, full)
		}
	}
}

func TestStatusNames(t *testing.T) {
	t.Parallel()
	for status, want := range map[nixwire.Status]string{
		nixwire.Built: "Built", nixwire.PermanentFailure: "PermanentFailure", nixwire.TimedOut: "TimedOut", nixwire.NotDeterministic: "NotDeterministic",
		nixwire.NoSubstituters: "NoSubstituters", nixwire.NoSubstituters + 1: "15",
	} {
		if got := status.String(); got != want {
			t.Errorf("Status(%d).String() = %q; want %q", uint64(status), got, want)
		}
	}
}
