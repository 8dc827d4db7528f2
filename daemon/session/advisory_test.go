package session_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/daemon/serveproto"
	"github.com/narfs/narfs/daemon/session"
	"github.com/narfs/narfs/daemon/workerproto"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
	"github.com/narfs/narfs/internal/nixwire"
	"github.com/narfs/narfs/internal/wire"
)

// narOf is a NAR from its tokens and the NARs of entries.
func narOf(tokens ...any) []byte {
	var b bytes.Buffer
	w := wire.NewWriter(&b)
	for _, token := range tokens {
		switch v := token.(type) {
		case string:
			_ = w.String(v)
		case []byte:
			_, _ = w.Write(v)
		}
	}
	_ = w.Flush()
	return b.Bytes()
}

// ways are those by which a NAR comes in. Each is used by a new client of who is trusted, who gets everything in that can get in.
func ways() map[string]func(t *testing.T, m *session.Manager, o object) error {
	worker := func(minor uint8, add func(c *workerClient, o object) error) func(t *testing.T, m *session.Manager, o object) error {
		return func(t *testing.T, m *session.Manager, o object) error {
			t.Helper()
			c := connectWorker(t, m, trusted, minor)
			err := add(c, o)
			if minor > 24 { // older ones send a naked NAR, whose end nobody knows now
				c.usable(t)
			}
			_ = c.end(t)
			return err
		}
	}
	toStore := func(c *workerClient, o object) error {
		_, err := c.AddToStore(workerproto.AddToStoreRequest{Name: o.Path.Name(), Method: nix.MethodNAR, Algo: nix.SHA256}, o.write)
		return err
	}
	nar := func(c *workerClient, o object) error { return addNar(c, o, false) }
	serve := func(do func(c *client, o object) error) func(t *testing.T, m *session.Manager, o object) error {
		return func(t *testing.T, m *session.Manager, o object) error {
			t.Helper()
			c := connect(t, m, trusted, session.ServeOptions{Write: true})
			err := do(c, o)
			return errors.Join(c.end(), err)
		}
	}
	return map[string]func(t *testing.T, m *session.Manager, o object) error{
		"AddToStore 1.24": worker(24, toStore), "AddToStore 1.38": worker(38, toStore),
		"AddToStoreNar 1.20": worker(20, nar), "AddToStoreNar 1.22": worker(22, nar), "AddToStoreNar 1.38": worker(38, nar),
		"AddMultipleToStore":  worker(38, func(c *workerClient, o object) error { return several(c, false, o) }),
		"serve AddToStoreNar": serve(func(c *client, o object) error { return c.add(o) }),
		"serve ImportPaths": serve(func(c *client, o object) error {
			return c.ImportPaths(func(w io.Writer) error {
				ww := wire.NewWriter(w)
				_ = ww.Uint64(1)
				_, _ = ww.Write(o.archive)
				_ = ww.Uint64(0x4558494e)
				_ = ww.String(nix.DefaultStoreDir.Path(o.Path))
				_, _, _, _ = ww.Uint64(0), ww.String(""), ww.Uint64(0), ww.Uint64(0)
				return ww.Flush()
			})
		}),
	}
}

// refusedNARs has NARs come in by all ways, all of which must say what is wrong with them. Nothing of them is left, and the next client
// is served.
func refusedNARs(t *testing.T, want string, archives map[string][]byte) {
	t.Helper()
	for name, archive := range archives {
		for way, add := range ways() {
			t.Run(name+" by "+way, func(t *testing.T) {
				t.Parallel()
				s := open(t)
				m := manager(t, s, session.Options{})
				o := object{nix.PathInfo{Path: somePath(t, "bad"), NarHash: someHash(archive), NarSize: uint64(len(archive))}, archive}
				if err := add(t, m, o); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v; want an error with %q", err, want)
				}
				for info, err := range s.All() {
					if err != nil {
						t.Fatal(err)
					}
					t.Errorf("%s is valid", info.Path)
				}
				nothingHeld(t, s, m)
				if err := add(t, m, addressed(t, "good")); err != nil {
					t.Errorf("the next one: %v", err)
				}
			})
		}
	}
}

func entryOf(name string, node ...any) []byte {
	return narOf("entry", "(", "name", name, "node", narOf(node...), ")")
}

func folderOf(entries ...[]byte) []byte {
	return narOf("nix-archive-1", "(", "type", "directory", bytes.Join(entries, nil), ")")
}

var (
	aFile   = []any{"(", "type", "regular", "contents", "", ")"}
	aLink   = []any{"(", "type", "symlink", "target", "/etc", ")"}
	aFolder = []any{"(", "type", "directory", entryOf("passwd", aFile...), ")"}
)

// CVE-2024-45593, GHSA-h4vv-h3jq-v493: what stood under a name twice was written through the link that came first. (Names that differ by
// case alone are two names: nothing is unpacked.)
func TestCVE202445593NamesTwice(t *testing.T) {
	t.Parallel()
	refusedNARs(t, "bad NAR", map[string][]byte{
		"a name twice":         folderOf(entryOf("a", aFile...), entryOf("a", aFile...)),
		"a link, and a folder": folderOf(entryOf("a", aLink...), entryOf("a", aFolder...)),
		"a folder, and a link": folderOf(entryOf("a", aFolder...), entryOf("a", aLink...)),
		"in disorder":          folderOf(entryOf("b", aFile...), entryOf("a", aFile...)),
		"the folder above":     folderOf(entryOf("..", aFile...)),
		"a slash":              folderOf(entryOf("a/b", aFile...)),
		"no name":              folderOf(entryOf("", aFile...)),
	})
}

func nested(depth int) []byte {
	var b bytes.Buffer
	b.Write(narOf("nix-archive-1"))
	for range depth {
		b.Write(narOf("(", "type", "directory", "entry", "(", "name", "a", "node"))
	}
	b.Write(narOf(aFile...))
	for range depth {
		b.Write(narOf(")", ")"))
	}
	return b.Bytes()
}

// CVE-2026-44028, GHSA-vh5x-56v6-4368: the depth of folders was not bounded, and with it the stack.
func TestCVE202644028DeepNAR(t *testing.T) {
	t.Parallel()
	refusedNARs(t, "nested deeper than 64 levels", map[string][]byte{"65 folders": nested(65), "100,000 folders": nested(100_000)})
	refusedNARs(t, "bad NAR", map[string][]byte{
		"NUL in a target": narOf("nix-archive-1", "(", "type", "symlink", "target", "/etc\x00/passwd", ")"),
		"NUL in a name":   folderOf(entryOf("a\x00b", aFile...)),
		"a name of 2^40 bytes": append(narOf("nix-archive-1", "(", "type", "directory", "entry", "(", "name"),
			[]byte{0, 0, 0, 0, 0, 1, 0, 0}...),
	})
}

// Nix's PR 16256 of 2026: who is not trusted could say which path the output of a derivation is, for everybody.
func TestPR16256UnsignedRealisation(t *testing.T) {
	t.Parallel()
	for _, minor := range []uint8{27, 30, 31, 38} {
		u, m := inUse(t)
		c := connectWorker(t, m, untrusted, minor)
		fresh := someDerivation(t, "fresh").realisation()
		fresh.OutPath = u.known.Path
		wrong := u.made.realisation()
		wrong.OutPath = u.known.Path
		if minor >= 31 { // over something else
			r := wrong
			r.OutPath = u.user.Path
			if err := r.Sign(u.key); err != nil {
				t.Fatal(err)
			}
			wrong.Signatures = r.Signatures
		}
		for _, r := range []nix.Realisation{fresh, wrong} {
			fails(t, c, c.RegisterDrvOutput(realisationOf(t, r)), "you are not privileged to register realisations that lack a valid signature")
		}
		got, err := c.QueryDerivationOutputMap(u.made.file.Path)
		if err != nil || len(got) != 1 || got[0].Path != u.made.out.Path {
			t.Errorf("1.%d: the output is now %v, %v", minor, got, err)
		}
		if got, err := c.QueryRealisation(fresh.ID.String()); err != nil || got != "" {
			t.Errorf("1.%d: QueryRealisation = %q, %v", minor, got, err)
		}
	}
}

// Nix 2.8 ended by an assertion when somebody who is not trusted had a derivation built whose output is nowhere, and whose variable says so.
func TestAssertViaBuildDerivation(t *testing.T) {
	t.Parallel()
	fixed := drv.Output{Kind: drv.Fixed, CA: nix.ContentAddress{Method: nix.MethodFlat, Hash: someHash(nil)}}
	floating := drv.Output{Kind: drv.Floating, Method: nix.MethodNAR, Algo: nix.SHA256}
	addressedAt := drv.Output{Kind: drv.InputAddressed, Path: somePath(t, "x")}
	for name, outputs := range map[string]map[string]drv.Output{
		"none": {}, "deferred": {"out": {Kind: drv.Deferred}}, "input-addressed": {"out": addressedAt}, "fixed": {"out": fixed}, "two fixed": {"out": fixed, "dev": fixed},
		"fixed and floating": {"out": fixed, "dev": floating}, "floating and deferred": {"out": floating, "dev": {Kind: drv.Deferred}},
		"impure": {"out": {Kind: drv.Impure, Method: nix.MethodNAR, Algo: nix.SHA256}}, "floating": {"out": floating},
	} {
		for _, value := range []string{"", "/nix/store/x"} {
			s := open(t)
			m := manager(t, s, session.Options{})
			c := connectWorker(t, m, untrusted, 38)
			d := &drv.BasicDerivation{Name: "x", Platform: "x86_64-linux", Builder: "/bin/sh", Outputs: outputs, Env: map[string]string{"out": value}}
			_, err := c.BuildDerivation(somePath(t, "x.drv"), d, workerproto.BuildNormal)
			switch {
			case name == "deferred" || name == "input-addressed":
				fails(t, c, err, "you are not privileged to build input-addressed derivations")
			case err != nil && !isRemote(err):
				t.Errorf("%s: %v", name, err)
			}
			next := connectWorker(t, m, untrusted, 38)
			next.usable(t)
		}
	}
}

// The serve protocol leads to the same builder: who is not trusted does not choose a path there either, and a derivation of his counts
// under its own path alone.
func TestBuildDerivationByServe(t *testing.T) {
	t.Parallel()
	for name, output := range map[string]drv.Output{
		"input-addressed": {Kind: drv.InputAddressed, Path: somePath(t, "x")},
		"deferred":        {Kind: drv.Deferred},
		"floating":        {Kind: drv.Floating, Method: nix.MethodNAR, Algo: nix.SHA256},
	} {
		for _, who := range []acl.Access{trusted, untrusted} {
			s := open(t)
			m := manager(t, s, session.Options{})
			c := connect(t, m, who, session.ServeOptions{Write: true})
			d := &drv.BasicDerivation{
				Name: "x", Platform: "x86_64-linux", Builder: "/bin/sh", Env: map[string]string{"out": ""}, Outputs: map[string]drv.Output{"out": output},
			}
			claimed := somePath(t, "x.drv")
			_, _ = c.W.Uint64(uint64(serveproto.BuildDerivation)), c.WritePath(claimed)
			if err := errors.Join(c.WriteDerivation(d), c.WriteBuildOptions(serveproto.BuildOptions{}), c.W.Flush()); err != nil {
				t.Fatal(err)
			}
			status, err := c.R.Uint64()
			var text string
			if err == nil {
				text, err = c.R.String(1000, "message")
			}
			if who.Level != acl.Trusted && name != "floating" {
				if got, want := textOf(c.end()), "you are not privileged to build input-addressed derivations"; err == nil || got != want {
					t.Errorf("%s: status %d, %q, %v; the server said %q; want %q", name, status, text, err, got, want)
				}
				continue
			}
			// Without a mount nothing is built.
			if err != nil || nixwire.Status(status) != nixwire.MiscFailure {
				t.Errorf("%s: status %d, %q, %v; want a failure", name, status, text, err)
			}
			_ = c.end()
			file, err := (&drv.Derivation{BasicDerivation: *d}).File(nix.DefaultStoreDir)
			if err != nil {
				t.Fatal(err)
			}
			if stored, err := s.IsValid(file.Path); err != nil || stored != (who.Level != acl.Trusted) {
				t.Errorf("%s: the derivation of %s is stored under its own path: %v, %v", name, who.User, stored, err)
			}
			nothingHeld(t, s, m)
		}
	}
}

// What the table of advisories says about ACLs: adding logs, links and signatures is for who is trusted, and nothing is left of a try.
func TestAdvisoriesACL(t *testing.T) {
	t.Parallel()
	u, m := inUse(t)
	c := connectWorker(t, m, untrusted, 38)
	link := t.TempDir() + "/link"
	_, permErr := c.AddPermRoot(workerproto.AddPermRootRequest{Path: u.known.Path, Root: link})
	for p, err := range map[acl.Permission]error{
		acl.PermRoot: permErr, acl.AddLog: c.AddBuildLog(u.made.file.Path, writing(bytes.Repeat([]byte("x"), 1<<20))),
		acl.Sign: c.AddSignatures(u.known.Path, u.user.Signatures),
	} {
		fails(t, c, err, untrusted.May(p).Error())
	}
	for _, mode := range []workerproto.BuildMode{workerproto.BuildRepair} {
		want := "repairing is not allowed because you are not in 'trusted-users'"
		req := workerproto.BuildPathsRequest{Paths: []workerproto.DerivedPath{{Path: u.known.Path}}, Mode: mode}
		_, err := c.BuildPathsWithResults(req)
		fails(t, c, err, want)
		fails(t, c, c.BuildPaths(req), want)
	}
	_, err := c.VerifyStore(workerproto.VerifyStoreRequest{Repair: true})
	fails(t, c, err, "you are not privileged to repair paths")
	fails(t, c, c.AddToStoreNar(workerproto.AddToStoreNarRequest{Info: u.known.PathInfo, Repair: true}, u.known.write), "you are not privileged to repair paths")
	c.usable(t)
	for _, name := range []string{"../../../etc/passwd", "x", "n5wkd9frr45pa74if5gpz9j7mifg27fh-../x.drv"} {
		c := connectWorker(t, m, trusted, 38)
		if err := c.Send(workerproto.AddBuildLog, func() { _ = c.W.String(name) }, writing(nil)); !isRemote(err) {
			t.Errorf("a log of %q: %v", name, err)
		}
	}
	root := connectWorker(t, m, trusted, 38)
	fails(t, root, root.AddBuildLog(u.known.Path, writing([]byte("x"))), "is not a derivation")
	for _, link := range []string{"relative", t.TempDir() + "/../x", "/nix/store/x"} {
		_, err := root.AddPermRoot(workerproto.AddPermRootRequest{Path: u.known.Path, Root: link})
		if !isRemote(err) {
			t.Errorf("AddPermRoot of %q: %v", link, err)
		}
	}
	root.usable(t)
	info, err := u.s.PathInfo(u.known.Path)
	if err != nil || len(info.Signatures) > 0 || isRoot(u.s, link) == nil {
		t.Errorf("something is left: %+v, %v", info, err)
	}
}
