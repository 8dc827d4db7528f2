package session_test

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/narfs/narfs/daemon/serveproto"
	"github.com/narfs/narfs/daemon/session"
	"github.com/narfs/narfs/internal/nixwire"
	"github.com/narfs/narfs/internal/wire"
)

// message encodes numbers, texts, lists of texts and raw bytes.
func message(parts ...any) []byte {
	var b bytes.Buffer
	w := wire.NewWriter(&b)
	for _, part := range parts {
		switch v := part.(type) {
		case int:
			_ = w.Uint64(uint64(v))
		case string:
			_ = w.String(v)
		case []string:
			_ = w.Uint64(uint64(len(v)))
			for _, s := range v {
				_ = w.String(s)
			}
		case []byte:
			_, _ = w.Write(v)
		default:
			panic(fmt.Sprintf("message(%T)", part))
		}
	}
	_ = w.Flush()
	return b.Bytes()
}

// join is message for parts that depend on the version.
func join(parts []any, since bool, more ...any) []any {
	if since {
		return append(parts, more...)
	}
	return parts
}

// Every command in every version that a client may speak: what it sends, and the very bytes that it is answered. Nix 1.11 speaks 2.2, Nix 2.0
// 2.4, 2.2 and 2.3 2.5, all since 2.4 2.7; nobody spoke the others, which Nix serves all the same.
func TestEveryVersion(t *testing.T) {
	t.Parallel()
	s := open(t)
	m := manager(t, s, session.Options{})
	a := someObject(t, "a")
	imported(t, s, a)
	path, absent := s.Dir().Path(a.Path), s.Dir().Path(somePath(t, "absent"))
	drv := s.Dir().Path(somePath(t, "a.drv"))
	size := len(a.archive)
	const magic = 0x4558494e
	for minor := range 8 {
		since := func(v int) bool { return minor >= v }
		options := join(join(join([]any{1, 2}, since(2), 3), since(3), 0, 0), since(7), 0)
		info := append(join([]any{path, "", 0, size, size}, since(4), a.NarHash.String(), "", 0), "")
		result := join(join([]any{int(nixwire.MiscFailure), "derivation '" + drv + "': must have at least one output"}, since(3), 0, 0, 0, 0), since(6), 0)
		b := someObject(t, fmt.Sprint("b", minor))
		sent := s.Dir().Path(b.Path)
		export := []any{1, b.archive, magic, sent, 0, "", 0, 0}
		tests := []struct {
			command serveproto.Command
			ask     []any
			want    []any
			err     string
		}{
			{serveproto.QueryValidPaths, []any{1, 0, []string{absent, path}}, []any{[]string{path}}, ""},
			{serveproto.QueryPathInfos, []any{[]string{absent, path}}, info, ""},
			{serveproto.DumpStorePath, []any{path}, []any{a.archive}, ""},
			{serveproto.ImportPaths, export, []any{1}, ""},
			{serveproto.ExportPaths, []any{0, []string{path}}, []any{1, a.archive, magic, path, 0, "", 0, 0}, ""},
			{serveproto.BuildPaths, append([]any{[]string{path}}, options...), []any{0}, ""},
			{serveproto.BuildPaths, append([]any{[]string{drv + "!out"}}, options...), []any{100, "path '" + drv + "' is not valid"}, ""},
			{serveproto.QueryClosure, []any{0, []string{path}}, []any{[]string{path}}, ""},
			{serveproto.BuildDerivation, append([]any{drv, 0, 0, "x86_64-linux", "/bin/sh", 0, 0}, options...), result, ""},
			{serveproto.AddToStoreNar, []any{sent, "", b.NarHash.Base16(), 0, 1, len(b.archive), 0, 0, "", b.archive}, []any{1}, ""},
			{serveproto.AddToStoreNar + 1, nil, nil, "unknown serve command 10"},
		}
		for _, test := range tests {
			if test.command == serveproto.AddToStoreNar && !since(5) {
				test.want, test.err = nil, "unknown serve command 9"
			}
			// A second command shows that both sides are in step.
			in := message(append([]any{serveproto.ClientMagic, 2<<8 | minor, int(test.command)}, test.ask...)...)
			in = append(in, message(int(serveproto.QueryValidPaths), 0, 0, []string{path})...)
			want := message(serveproto.ServerMagic, 2<<8|7)
			want = append(want, message(test.want...)...)
			if test.err == "" {
				want = append(want, message([]string{path})...)
			}
			c := start(t, m, trusted, session.ServeOptions{Write: true})
			go func() { _, _ = c.in.Write(in); _ = c.in.Close() }()
			got, err := io.ReadAll(c.out)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("2.%d, %v: the server answers\n%q, %v; want\n%q", minor, test.command, got, err, want)
			}
			if err := c.end(); textOf(err) != "no error" && test.err == "" || !strings.Contains(textOf(err), test.err) {
				t.Errorf("2.%d, %v: the server ends with %v; want %q", minor, test.command, err, test.err)
			}
		}
		if ok, err := s.IsValid(b.Path); err != nil || !ok {
			t.Errorf("2.%d: what was sent is valid: %v, %v", minor, ok, err)
		}
	}
}
