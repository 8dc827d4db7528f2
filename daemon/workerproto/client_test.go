package workerproto_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/narfs/narfs/daemon/workerproto"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nixwire"
)

func text(s string) string { return number(uint64(len(s))) + s + strings.Repeat("\x00", -len(s)&7) }

// The messages.
const (
	msgNext  = 0x6f6c6d67
	msgRead  = 0x64617461
	msgLast  = 0x616c7473
	msgError = 0x63787470
)

// greeting is what a server of version 1.minor begins with.
func greeting(minor uint8) string {
	hello := number(workerproto.ServerMagic) + number(1<<8|uint64(minor))
	if minor >= 38 {
		hello += number(0)
	}
	if minor >= 33 {
		hello += text("narfs")
	}
	if minor >= 35 {
		hello += number(1)
	}
	return hello + number(msgLast)
}

// answers gives a client for what a server says, and what it is sent.
func answers(tb testing.TB, minor uint8, in string) (*workerproto.Client, *bytes.Buffer) {
	tb.Helper()
	var out bytes.Buffer
	c, err := workerproto.Open(strings.NewReader(greeting(minor)+in), &out, dir, nixwire.Version{Major: 1, Minor: minor})
	if err != nil {
		tb.Fatal(err)
	}
	out.Reset()
	return c, &out
}

// A server of 1.21 or 1.22 asks for a NAR piece by piece, says something between, and may have enough before the end.
func TestAskedNAR(t *testing.T) {
	t.Parallel()
	req := workerproto.AddToStoreNarRequest{Info: nix.PathInfo{Path: path(t, "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-a")}}
	nar := func(w io.Writer) error { _, err := io.WriteString(w, "0123456789abcdef"); return err }
	read := func(n uint64) string { return number(msgRead) + number(n) }
	refusal := number(msgError) + text("no") + number(1)
	tests := []struct{ name, says, sent, want string }{
		{"in one piece", read(1<<40) + number(msgLast), text("0123456789abcdef"), ""},
		{"in three", read(5) + number(msgNext) + text("well\n") + read(8) + read(100) + number(msgLast), text("01234") + text("56789abc") + text("def"), ""},
		{"not to its end", read(5) + number(msgLast), text("01234"), ""},
		{"refused", refusal, "", "no"},
		{"refused on the way", read(5) + refusal, text("01234"), "no"},
		{"more than there is", read(16) + read(16), text("0123456789abcdef"), "unexpected EOF"},
		{"nothing", read(0), "", "what there is not"},
	}
	for _, test := range tests {
		c, out := answers(t, 22, test.says)
		err := c.AddToStoreNar(req, nar)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v; want %q", test.name, err, test.want)
		}
		if !strings.HasSuffix(out.String(), text("")+number(0)+number(0)+test.sent) {
			t.Errorf("%s: the client sent %q; want %q in the end", test.name, out, test.sent)
		}
	}
	c, _ := answers(t, 22, read(5)+number(msgLast))
	failure := errors.New("a failure")
	if err := c.AddToStoreNar(req, func(io.Writer) error { return failure }); !errors.Is(err, failure) {
		t.Errorf("the error of the source = %v", err)
	}
	// What is not asked for belongs to nobody.
	c, _ = answers(t, 22, refusal+read(5))
	if err := c.AddToStoreNar(req, nar); err == nil {
		t.Error("a refusal is no error")
	}
	if _, err := c.IsValidPath(req.Info.Path); err == nil || !strings.Contains(err.Error(), "what there is not") {
		t.Errorf("IsValidPath asked for a NAR = %v", err)
	}
}

// gone is the way to a server that has hung up, once it is set.
type gone struct{ err error }

func (g *gone) Write(p []byte) (int, error) { return len(p), g.err }

// A server that hangs up before it has read all has said why.
func TestReasonOfHangup(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken pipe")
	info := nix.PathInfo{Path: path(t, "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-a")}
	nar := func(w io.Writer) error { _, err := w.Write(make([]byte, 1<<20)); return err }
	for name, do := range map[string]func(c *workerproto.Client) error{
		"a NAR": func(c *workerproto.Client) error {
			return c.AddToStoreNar(workerproto.AddToStoreNarRequest{Info: info}, nar)
		},
		"contents": func(c *workerproto.Client) error {
			_, err := c.AddToStore(workerproto.AddToStoreRequest{Name: "a", Method: nix.MethodNAR, Algo: nix.SHA256}, nar)
			return err
		},
		"a question": func(c *workerproto.Client) error { _, err := c.IsValidPath(info.Path); return err },
	} {
		for _, minor := range []uint8{20, 38} {
			for says, want := range map[string]string{"no": "no", "": "broken pipe"} {
				in := ""
				if says != "" {
					in = number(msgError) + text(says) + number(1)
					if minor >= 26 {
						in = number(msgError) + text("Error") + number(0) + text("Error") + text(says) + number(0) + number(0)
					}
				}
				var w gone
				c, err := workerproto.Open(strings.NewReader(greeting(minor)+in), &w, dir, nixwire.Version{Major: 1, Minor: minor})
				if err != nil {
					t.Fatal(err)
				}
				w.err = broken
				if err := do(c); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s by 1.%d of a server that said %q: %v; want %q", name, minor, says, err, want)
				}
			}
		}
	}
}

// Errors of any length are read to their end, and realisations that have many signatures.
func TestLongAnswers(t *testing.T) {
	t.Parallel()
	traces := number(100) + strings.Repeat(number(0)+text("while evaluating"), 100)
	refusal := number(msgError) + text("Error") + number(0) + text("Error") + text("no") + number(0) + traces
	json := `{"signatures":["` + strings.Repeat("x", 10_000) + `"]}`
	c, _ := answers(t, 38, refusal+number(msgLast)+number(1)+text(json))
	if _, err := c.QueryRealisation("x"); err == nil || err.Error() != "no" {
		t.Errorf("QueryRealisation = %v; want the error", err)
	}
	if got, err := c.QueryRealisation("x"); err != nil || got != json {
		t.Errorf("QueryRealisation = %d bytes, %v; want all", len(got), err)
	}
}

// Where what is to be sent cannot be had, nobody waits for the other side: with frames the connection goes on, without it is of no use.
func TestSourceFails(t *testing.T) {
	t.Parallel()
	failure := errors.New("a failure")
	hash, err := nix.ParseHash("sha256:"+strings.Repeat("0", 64), 0)
	if err != nil {
		t.Fatal(err)
	}
	req := workerproto.AddToStoreNarRequest{Info: nix.PathInfo{Path: path(t, "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-a"), NarHash: hash, NarSize: 8}}
	for _, minor := range []uint8{20, 23, 38} {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
		go func() {
			defer theirs.Close() //nolint:errcheck // nobody listens any more
			conn, err := workerproto.Accept(theirs, theirs, dir, workerproto.Greeting{Program: "test"})
			if err == nil {
				conn.StartWork()
				err = errors.Join(conn.StopWork(), conn.W.Flush())
			}
			for err == nil {
				if _, err = conn.Operation(); err == nil {
					_, err = conn.ReadAddToStoreNar()
				}
				if err == nil && minor >= 23 {
					_, err = io.Copy(io.Discard, conn.Framed())
				} else if err == nil {
					_, err = io.Copy(io.Discard, conn.R) // a NAR that does not end
				}
				if err == nil {
					conn.StartWork()
					err = conn.Fail("it ends early")
				}
			}
		}()
		c, err := workerproto.Open(ours, ours, dir, nixwire.Version{Major: 1, Minor: minor})
		if err != nil {
			t.Fatal(err)
		}
		times := 1
		if minor >= 23 {
			times = 3
		}
		for range times {
			err = c.AddToStoreNar(req, func(w io.Writer) error {
				_, err := io.WriteString(w, "half")
				return errors.Join(err, failure)
			})
			if !errors.Is(err, failure) || strings.Contains(err.Error(), "ends early") {
				t.Errorf("1.%d: %v; want %v alone", minor, err, failure)
			}
		}
	}
}
