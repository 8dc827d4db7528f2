package session_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/daemon/serveproto"
	"github.com/narfs/narfs/daemon/session"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nixwire"
	"github.com/narfs/narfs/internal/wire"
)

// Everything that Nix's clients do, in one session.
func TestServe(t *testing.T) {
	t.Parallel()
	s := open(t)
	m := manager(t, s, session.Options{})
	c := connect(t, m, trusted, session.ServeOptions{Write: true})
	a := someObject(t, "a")
	b := someObject(t, "b", a.Path)
	self := someObject(t, "self", a.Path, somePath(t, "self"))
	all := paths(a, b, self)
	if got, err := c.QueryValidPaths(all, false, false); err != nil || len(got) > 0 {
		t.Fatalf("QueryValidPaths of an empty store = %v, %v", got, err)
	}
	if err := c.add(a, b, self, b); err != nil {
		t.Fatal(err)
	}
	if got, err := c.QueryValidPaths(append(all, somePath(t, "absent")), false, true); err != nil || !slices.Equal(got, nix.SortPaths(all)) {
		t.Errorf("QueryValidPaths = %v, %v; want %v", got, err, all)
	}
	infos, err := c.QueryPathInfos(append(all, somePath(t, "absent")))
	if err != nil || len(infos) != 3 {
		t.Fatalf("QueryPathInfos = %v, %v; want three", infos, err)
	}
	for _, info := range infos {
		if info.Path == b.Path && (info.NarHash != b.NarHash || info.NarSize != b.NarSize || !slices.Equal(info.References, b.References)) {
			t.Errorf("info of b = %+v", info)
		}
	}
	if got, err := c.QueryClosure([]nix.StorePath{b.Path}); err != nil || !slices.Equal(got, nix.SortPaths(paths(a, b))) {
		t.Errorf("QueryClosure = %v, %v; want a and b", got, err)
	}
	var dump bytes.Buffer
	err = c.DumpStorePath(b.Path, func(r *wire.Reader) error { _, err := io.CopyN(&dump, r, int64(b.NarSize)); return err })
	if err != nil || !bytes.Equal(dump.Bytes(), b.archive) {
		t.Errorf("DumpStorePath = %q, %v", dump.Bytes(), err)
	}
	// What is exported can be imported by another one.
	s2 := open(t)
	m2 := manager(t, s2, session.Options{})
	c2 := connect(t, m2, trusted, session.ServeOptions{Write: true})
	err = c2.ImportPaths(func(w io.Writer) error {
		return c.ExportPaths(paths(a, b), func(r *wire.Reader) error { return copyExport(w, r, a, b) })
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.end(), c2.end()); err != nil {
		t.Errorf("the sessions ended with %v", err)
	}
	for _, o := range []object{a, b} {
		info, err := s2.PathInfo(o.Path)
		if err != nil || info.NarHash != o.NarHash {
			t.Errorf("imported: %+v, %v", info, err)
		}
	}
	nothingHeld(t, s, m)
	nothingHeld(t, s2, m2)
}

// copyExport copies an export stream of two paths.
func copyExport(w io.Writer, r *wire.Reader, objects ...object) error {
	var b bytes.Buffer
	ww := wire.NewWriter(&b)
	for _, o := range objects {
		_ = ww.Uint64(1)
		_, _ = ww.Write(o.archive)
		_ = ww.Uint64(0x4558494e)
		_ = ww.String(nix.DefaultStoreDir.Path(o.Path))
		_ = ww.Uint64(uint64(len(o.References)))
		for _, ref := range o.References {
			_ = ww.String(nix.DefaultStoreDir.Path(ref))
		}
		_ = ww.String("")
		_ = ww.Uint64(0)
	}
	_ = ww.Uint64(0)
	_ = ww.Flush()
	got := make([]byte, b.Len())
	if _, err := io.ReadFull(r, got); err != nil {
		return err
	}
	if !bytes.Equal(got, b.Bytes()) {
		return errors.New("the export stream is not what Nix writes")
	}
	_, err := w.Write(got)
	return err
}

// The table of the protocol: what each command is answered, with and without --write, by level of trust.
func TestPermissions(t *testing.T) {
	t.Parallel()
	const noImport, noBuild, fine = "importing paths is not allowed", "building paths is not allowed", "no error"
	known := someObject(t, "known")
	drv := somePath(t, "x.drv")
	send := map[serveproto.Command]func(t *testing.T, c *client) error{
		serveproto.QueryValidPaths: func(_ *testing.T, c *client) error { _, err := c.QueryValidPaths(paths(known), true, true); return err },
		serveproto.QueryPathInfos:  func(_ *testing.T, c *client) error { _, err := c.QueryPathInfos(paths(known)); return err },
		serveproto.QueryClosure:    func(_ *testing.T, c *client) error { _, err := c.QueryClosure(paths(known)); return err },
		serveproto.DumpStorePath: func(_ *testing.T, c *client) error {
			return c.DumpStorePath(known.Path, func(r *wire.Reader) error { return r.Discard(int64(known.NarSize)) })
		},
		serveproto.ExportPaths: func(_ *testing.T, c *client) error {
			return c.ExportPaths(nil, func(r *wire.Reader) error { _, err := r.Uint64(); return err })
		},
		serveproto.ImportPaths: func(_ *testing.T, c *client) error {
			return c.ImportPaths(func(w io.Writer) error { _, err := w.Write(make([]byte, 8)); return err })
		},
		serveproto.AddToStoreNar: func(t *testing.T, c *client) error { t.Helper(); return c.add(addressed(t, "addressed")) },
		serveproto.BuildPaths: func(_ *testing.T, c *client) error {
			_ = c.W.Uint64(uint64(serveproto.BuildPaths))
			_ = c.W.Uint64(1)
			_ = c.W.String(nix.DefaultStoreDir.Path(drv))
			_ = c.WriteBuildOptions(serveproto.BuildOptions{})
			_ = c.W.Flush()
			status, err := c.R.Uint64()
			if err == nil && status == 0 {
				return errors.New("a derivation counts as built")
			}
			if err == nil {
				_, err = c.R.String(1000, "message")
			}
			return err
		},
		serveproto.BuildDerivation: func(_ *testing.T, c *client) error {
			_ = c.W.Uint64(uint64(serveproto.BuildDerivation))
			_ = c.W.String(nix.DefaultStoreDir.Path(drv))
			for _, n := range []uint64{0, 0} { // outputs, inputs
				_ = c.W.Uint64(n)
			}
			_, _ = c.W.String("x86_64-linux"), c.W.String("/bin/sh")
			for _, n := range []uint64{0, 0} { // arguments, environment
				_ = c.W.Uint64(n)
			}
			_ = c.WriteBuildOptions(serveproto.BuildOptions{})
			_ = c.W.Flush()
			status, err := c.R.Uint64()
			if err == nil && nixwire.Status(status) != nixwire.MiscFailure {
				return errors.New("status is not that of a failure")
			}
			return err
		},
	}
	needsWrite := map[serveproto.Command]string{
		serveproto.ImportPaths: noImport, serveproto.AddToStoreNar: noImport, serveproto.BuildPaths: noBuild, serveproto.BuildDerivation: noBuild,
	}
	for command := serveproto.QueryValidPaths; command <= serveproto.AddToStoreNar; command++ {
		for _, who := range []acl.Access{trusted, untrusted, {User: "eve", Level: acl.Refused}} {
			for _, write := range []bool{true, false} {
				want := fine
				if text := needsWrite[command]; text != "" && !write {
					want = text
				} else if who.Level == acl.Refused {
					want = "you are not allowed to use this store"
				}
				t.Run(command.String()+" "+who.User+" "+map[bool]string{true: "write", false: "read"}[write], func(t *testing.T) {
					t.Parallel()
					s := open(t)
					imported(t, s, known)
					m := manager(t, s, session.Options{})
					c := connect(t, m, who, session.ServeOptions{Write: write})
					clientErr := send[command](t, c)
					serverErr := c.end()
					if got := textOf(serverErr); got != want {
						t.Errorf("the server said %q; want %q", got, want)
					}
					if (clientErr == nil) != (want == fine) {
						t.Errorf("the client met %v", clientErr)
					}
					nothingHeld(t, s, m)
				})
			}
		}
	}
}

func TestSignatures(t *testing.T) {
	t.Parallel()
	key, err := nix.GenerateSecretKey("test-1")
	if err != nil {
		t.Fatal(err)
	}
	plain, signed, forged := someObject(t, "plain"), someObject(t, "signed"), someObject(t, "forged")
	other, err := nix.GenerateSecretKey("test-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(signed.Sign(nix.DefaultStoreDir, key), forged.Sign(nix.DefaultStoreDir, other)); err != nil {
		t.Fatal(err)
	}
	claims := addressed(t, "claims")
	claims.Path = somePath(t, "claims")
	wrong := addressed(t, "wrong")
	wrong.archive = archive("something else of " + "wrong")
	wrong.NarHash, wrong.NarSize = someHash(wrong.archive), uint64(len(wrong.archive))
	const lacks = "because it lacks a valid signature"
	tests := []struct {
		name     string
		who      acl.Access
		settings []string
		object   object
		want     string
	}{
		{"unsigned by one who is not trusted", untrusted, nil, plain, lacks},
		{"unsigned by one who is", trusted, nil, plain, "no error"},
		{"unsigned where it need not be", untrusted, []string{"require-sigs=false"}, plain, "no error"},
		{"signed", untrusted, nil, signed, "no error"},
		{"signed by another key", untrusted, nil, forged, lacks},
		{"content-addressed", untrusted, nil, addressed(t, "addressed"), "no error"},
		{"content-addressed by its own word", untrusted, nil, claims, lacks},
		{"content-addressed with other contents", untrusted, nil, wrong, "ca hash mismatch importing path"},
		{"content-addressed with other contents by one who is trusted", trusted, nil, wrong, "ca hash mismatch importing path"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			m := manager(t, s, session.Options{}, append(test.settings, "trusted-public-keys="+key.Public().String())...)
			c := connect(t, m, test.who, session.ServeOptions{Write: true})
			clientErr := c.add(test.object)
			serverErr := c.end()
			if got := textOf(serverErr); !strings.Contains(got, test.want) {
				t.Errorf("the server said %q; want %q", got, test.want)
			}
			valid, err := s.IsValid(test.object.Path)
			if err != nil || valid != (test.want == "no error") || valid != (clientErr == nil) {
				t.Errorf("valid: %v, %v; the client met %v", valid, err, clientErr)
			}
			nothingHeld(t, s, m)
		})
	}
}

// What a client was told it need not send stays while the client lasts, whatever is collected: also where it did not ask for
// that, as no client of Nix does.
func TestNoRaceWithCollector(t *testing.T) {
	t.Parallel()
	for _, lock := range []bool{false, true} {
		s := open(t)
		m := manager(t, s, session.Options{})
		base := someObject(t, "base")
		lib := someObject(t, "lib", base.Path)
		app := someObject(t, "app", lib.Path)
		imported(t, s, base, lib, someObject(t, "rubbish"))
		c := connect(t, m, trusted, session.ServeOptions{Write: true})
		if got, err := c.QueryValidPaths(paths(base, lib, app), lock, false); err != nil || len(got) != 2 {
			t.Fatalf("QueryValidPaths = %v, %v; want base and lib", got, err)
		}
		if n := collect(t, s); n != 1 {
			t.Errorf("%d paths were collected; want the rubbish alone", n)
		}
		if err := c.add(app); err != nil {
			t.Fatalf("the rest after a collection: %v", err)
		}
		if n := collect(t, s); n != 0 {
			t.Errorf("%d paths were collected; what was sent belongs to the session", n)
		}
		if err := c.end(); err != nil {
			t.Error(err)
		}
		if n := collect(t, s); n != 3 {
			t.Errorf("%d paths were collected after the session; want all", n)
		}
		nothingHeld(t, s, m)
	}
}

// The same for one who fetches: between asking for the closure and the contents.
func TestFetchAgainstCollector(t *testing.T) {
	t.Parallel()
	s := open(t)
	m := manager(t, s, session.Options{})
	base := someObject(t, "base")
	lib := someObject(t, "lib", base.Path)
	imported(t, s, base, lib)
	c := connect(t, m, untrusted, session.ServeOptions{})
	if got, err := c.QueryClosure(paths(lib)); err != nil || len(got) != 2 {
		t.Fatalf("QueryClosure = %v, %v", got, err)
	}
	if n := collect(t, s); n != 0 {
		t.Errorf("%d paths were collected", n)
	}
	for _, o := range []object{base, lib} {
		if err := c.DumpStorePath(o.Path, func(r *wire.Reader) error { return r.Discard(int64(o.NarSize)) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.end(); err != nil {
		t.Error(err)
	}
}

// A session cut off after any number of bytes leaves nothing behind, and the store as good as before.
func TestTruncated(t *testing.T) {
	t.Parallel()
	s := open(t)
	m := manager(t, s, session.Options{})
	o := someObject(t, "o")
	var stream bytes.Buffer
	w := wire.NewWriter(&stream)
	for _, n := range []uint64{serveproto.ClientMagic, 2<<8 | 7, uint64(serveproto.AddToStoreNar)} {
		_ = w.Uint64(n)
	}
	_, _, _ = w.String(nix.DefaultStoreDir.Path(o.Path)), w.String(""), w.String(o.NarHash.Base16())
	for _, n := range []uint64{0, 1, o.NarSize, 0, 0} {
		_ = w.Uint64(n)
	}
	_ = w.String("")
	_, _ = w.Write(o.archive)
	_ = w.Flush()
	for n := range stream.Len() {
		c := start(t, m, trusted, session.ServeOptions{Write: true})
		go func() { _, _ = io.Copy(io.Discard, c.out) }()
		if _, err := c.in.Write(stream.Bytes()[:n]); err != nil {
			t.Fatal(err)
		}
		err := c.end()
		if (err == nil) != (n == 16) { // between two commands a client may leave
			t.Errorf("after %d bytes of %d: %v", n, stream.Len(), err)
		}
		if valid, err := s.IsValid(o.Path); err != nil || valid {
			t.Fatalf("after %d bytes of %d the path is valid: %v, %v", n, stream.Len(), valid, err)
		}
	}
	nothingHeld(t, s, m)
	c := start(t, m, trusted, session.ServeOptions{Write: true})
	go func() { _, _ = io.Copy(io.Discard, c.out) }()
	if _, err := c.in.Write(stream.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := c.end(); err != nil {
		t.Fatal(err)
	}
	if valid, err := s.IsValid(o.Path); err != nil || !valid {
		t.Errorf("the whole stream: valid %v, %v", valid, err)
	}
}

func TestBudget(t *testing.T) {
	t.Parallel()
	s := open(t)
	m := manager(t, s, session.Options{Memory: 100_000})
	var many []nix.StorePath
	for i := range 2000 {
		many = append(many, somePath(t, "p"+strings.Repeat("x", i%7)+string(rune('a'+i%26))+time.Unix(int64(i), 0).UTC().Format("150405")))
	}
	c := connect(t, m, untrusted, session.ServeOptions{})
	if _, err := c.QueryValidPaths(many[:10], false, false); err != nil {
		t.Fatal(err)
	}
	_, _ = c.QueryValidPaths(many, false, false)
	err := c.end()
	var memory *session.MemoryError
	if !errors.As(err, &memory) || !strings.HasPrefix(err.Error(), "narfs daemon out of memory: ") {
		t.Errorf("the server said %v; want that it is out of memory", err)
	}
	nothingHeld(t, s, m)
	// The next one is served; and with more memory, so is this one.
	m.Budget().SetLimit(0)
	c = connect(t, m, untrusted, session.ServeOptions{})
	if _, err := c.QueryValidPaths(many, false, false); err != nil {
		t.Error(err)
	}
	if err := c.end(); err != nil {
		t.Error(err)
	}
	m.Budget().SetLimit(100_000)
	c = connect(t, m, untrusted, session.ServeOptions{})
	if _, err := c.QueryValidPaths(many[:10], false, false); err != nil {
		t.Error(err)
	}
	if err := c.end(); err != nil {
		t.Error(err)
	}
}

func TestKill(t *testing.T) {
	t.Parallel()
	s := open(t)
	m := manager(t, s, session.Options{})
	o := someObject(t, "o")
	c := connect(t, m, untrusted, session.ServeOptions{Write: true})
	if _, err := c.QueryValidPaths(paths(o), true, false); err != nil {
		t.Fatal(err)
	}
	list := m.List()
	if len(list) != 1 || list[0].User != "alice" || list[0].Kind != session.KindServe || list[0].Pins != 1 || list[0].Received == 0 || list[0].Sent == 0 {
		t.Errorf("List = %+v", list)
	}
	bob := acl.Access{User: "bob", Peer: acl.Peer{UID: 1002}, Level: acl.Untrusted}
	if err := m.Kill(t.Context(), list[0].ID, bob); err == nil || !strings.Contains(err.Error(), "you are not privileged") {
		t.Errorf("Kill by another user = %v", err)
	}
	if err := m.Kill(t.Context(), 99, trusted); !errors.Is(err, session.ErrNoSession) {
		t.Errorf("Kill of no session = %v", err)
	}
	if err := m.Kill(t.Context(), list[0].ID, untrusted); err != nil {
		t.Errorf("Kill by the same user = %v", err)
	}
	var killed *session.KilledError
	if err := c.end(); !errors.As(err, &killed) {
		t.Errorf("the session ended with %v", err)
	}
	nothingHeld(t, s, m)
}

func TestMaxSessions(t *testing.T) {
	t.Parallel()
	m := manager(t, open(t), session.Options{}, "max-sessions=1")
	_, first, err := m.Begin(t.Context(), session.KindServe, untrusted, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.Begin(t.Context(), session.KindServe, untrusted, "", ""); !errors.Is(err, session.ErrTooMany) {
		t.Errorf("Begin = %v; want ErrTooMany", err)
	}
	_, second, err := m.Begin(t.Context(), session.KindServe, trusted, "", "")
	if err != nil {
		t.Errorf("Begin of one who is trusted = %v", err)
	}
	first.End()
	second.End()
	if err := context.Cause(t.Context()); err != nil {
		t.Error(err)
	}
}
