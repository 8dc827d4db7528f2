package session_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/daemon/session"
	"github.com/narfs/narfs/daemon/workerproto"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
)

// bad are objects that cannot be imported by who is not trusted, and why.
func bad(t *testing.T) map[string]object {
	t.Helper()
	unsigned := someObject(t, "unsigned")
	hash := addressed(t, "hash")
	hash.NarHash = someHash([]byte("another"))
	size := addressed(t, "size")
	size.NarSize -= 8
	contents := addressed(t, "contents")
	contents.archive = archive("something else")
	contents.NarHash, contents.NarSize = someHash(contents.archive), uint64(len(contents.archive))
	broken := addressed(t, "broken")
	broken.archive = slices.Concat(broken.archive[:40], []byte("rubbish!"), broken.archive[48:])
	long := addressed(t, "long")
	long.archive = archive(strings.Repeat("long", 1<<18)) // more than anybody reads ahead
	missing := addressed(t, "missing")
	missing.References = []nix.StorePath{somePath(t, "absent")}
	var err error
	if missing.Path, err = nix.MakePathFromCA(nix.DefaultStoreDir, "missing", missing.CA, missing.References, false); err != nil {
		t.Fatal(err)
	}
	return map[string]object{
		"because it lacks a valid signature": unsigned, "hash mismatch importing path": hash, "size mismatch importing path": size,
		fmt.Sprintf("size mismatch importing path '%s'", nix.DefaultStoreDir.Path(long.Path)): long,
		"ca hash mismatch importing path": contents, "bad NAR": broken, "is not valid": missing, "because its outputs are not right": wrongOutputs(t),
	}
}

// wrongOutputs is a derivation that wants to have its output where it does not belong.
func wrongOutputs(t *testing.T) object {
	t.Helper()
	d := &drv.Derivation{BasicDerivation: drv.BasicDerivation{
		Name: "wrong", Platform: "x86_64-linux", Builder: "/bin/sh",
		Outputs: map[string]drv.Output{"out": {Kind: drv.InputAddressed, Path: somePath(t, "wrong")}},
		Env:     map[string]string{"out": nix.DefaultStoreDir.Path(somePath(t, "wrong"))},
	}}
	file, err := d.File(nix.DefaultStoreDir)
	if err != nil {
		t.Fatal(err)
	}
	b := archive(string(file.Text))
	return object{nix.PathInfo{Path: file.Path, CA: file.CA, NarHash: someHash(b), NarSize: uint64(len(b))}, b}
}

// What is wrong with a path is said, the path is not there, the stream is read to its end, and the connection goes on: in all forms in
// which NARs come, but for a naked one that is broken.
func TestWorkerImportErrors(t *testing.T) {
	t.Parallel()
	for want, o := range bad(t) {
		for _, minor := range []uint8{17, 20, 21, 22, 23, 31, 38} {
			t.Run(fmt.Sprintf("%s 1.%d", want, minor), func(t *testing.T) {
				t.Parallel()
				s := open(t)
				m := manager(t, s, session.Options{})
				c := connectWorker(t, m, untrusted, minor)
				fails(t, c, addNar(c, o, true), want)
				if minor > 20 || want != "bad NAR" {
					c.usable(t)
				}
				if valid, err := s.IsValid(o.Path); err != nil || valid {
					t.Errorf("the path is valid: %v, %v", valid, err)
				}
				_ = c.end(t)
				nothingHeld(t, s, m)
			})
		}
		t.Run(want+" among several", func(t *testing.T) {
			t.Parallel()
			s := open(t)
			m := manager(t, s, session.Options{})
			c := connectWorker(t, m, untrusted, 38)
			before, after := addressed(t, "before"), addressed(t, "after")
			fails(t, c, several(c, false, before, o, after), want)
			c.usable(t)
			for p, want := range map[nix.StorePath]bool{before.Path: true, o.Path: false, after.Path: false} {
				if valid, err := s.IsValid(p); err != nil || valid != want {
					t.Errorf("%s: valid %v, %v", p, valid, err)
				}
			}
			if err := several(c, false, before, after, before); err != nil {
				t.Errorf("the good ones: %v", err)
			}
			if err := c.end(t); err != nil {
				t.Error(err)
			}
			nothingHeld(t, s, m)
		})
	}
}

// What clients below 1.25 add without frames is read to its end, too.
func TestWorkerAddErrors(t *testing.T) {
	t.Parallel()
	s := open(t)
	m := manager(t, s, session.Options{})
	folder := message("nix-archive-1", "(", "type", "directory", "entry", "(", "name", "a", "node", "(", "type", "regular", "contents", strings.Repeat("a", 200000), ")", ")",
		"entry", "(", "name", "b", "node", "(", "type", "symlink", "target", "a", ")", ")", ")")
	broken := bytes.Replace(folder, []byte("symlink"), []byte("hardlink"), 1)
	for minor := uint8(10); minor < 25; minor++ {
		c := connectWorker(t, m, untrusted, minor)
		add := func(name string, method nix.Method, contents []byte) error {
			_, err := c.AddToStore(workerproto.AddToStoreRequest{Name: name, Method: method, Algo: nix.SHA256}, func(w io.Writer) error {
				_, err := w.Write(contents)
				return err
			})
			return err
		}
		fails(t, c, add("a folder", nix.MethodNAR, folder), "illegal character")
		fails(t, c, add("folder", nix.MethodFlat, folder), "regular file expected")
		c.usable(t)
		if err := errors.Join(add("file", nix.MethodFlat, archive("a file")), add("folder", nix.MethodNAR, folder)); err != nil {
			t.Errorf("1.%d: what is right: %v", minor, err)
		}
		fails(t, c, add("broken", nix.MethodNAR, broken), "bad NAR")
		if _, err := c.IsValidPath(somePath(t, "nothing")); err == nil {
			t.Errorf("1.%d: the connection goes on after a NAR whose end nobody knows", minor)
		}
		_ = c.end(t)
		nothingHeld(t, s, m)
	}
}

func fails(t *testing.T, c *workerClient, err error, want string) {
	t.Helper()
	if !isRemote(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("1.%d: %v; want an error of the server's with %q", c.Version.Minor, err, want)
	}
}

// Unsigned paths: only from who is trusted and says so.
func TestWorkerSignatures(t *testing.T) {
	t.Parallel()
	const lacks = "because it lacks a valid signature"
	for _, test := range []struct {
		who      acl.Access
		check    bool
		override [][2]string
		want     string
	}{
		{untrusted, true, nil, lacks},
		{untrusted, false, nil, lacks},
		{untrusted, false, [][2]string{{"require-sigs", "false"}}, lacks},
		{trusted, true, nil, lacks},
		{trusted, false, nil, ""},
		{trusted, true, [][2]string{{"require-sigs", "false"}}, ""},
		{trusted, true, [][2]string{{"require-sigs", "rubbish"}}, lacks},
	} {
		s := open(t)
		m := manager(t, s, session.Options{})
		for _, level := range []workerproto.Level{workerproto.LevelInfo, workerproto.LevelDebug} {
			c := connectWorker(t, m, test.who, 38)
			if err := c.SetOptions(workerproto.Options{Verbosity: level, Overrides: test.override}); err != nil {
				t.Fatal(err)
			}
			ignored := len(test.override) > 0 && (test.who.Level != acl.Trusted || test.override[0][1] == "rubbish")
			if heard := len(c.heard) > 0; heard != (ignored && level == workerproto.LevelDebug) {
				t.Errorf("%+v at level %d: the server said %+v", test, level, c.heard)
			}
			o := someObject(t, fmt.Sprintf("o%d", level))
			o.Ultimate = true
			for _, err := range []error{addNar(c, o, test.check), several(c, test.check, o)} {
				if test.want == "" && err != nil || test.want != "" && !strings.Contains(textOf(err), test.want) {
					t.Errorf("%+v: %v; want %q", test, err, test.want)
				}
			}
			if info, err := s.PathInfo(o.Path); err == nil && info.Ultimate != (test.who.Level == acl.Trusted) {
				t.Errorf("%+v: the path counts as built here", test)
			}
			if err := c.end(t); err != nil {
				t.Error(err)
			}
		}
		// It was said to that session alone.
		c := connectWorker(t, m, test.who, 38)
		fails(t, c, addNar(c, someObject(t, "later"), true), lacks)
	}
}

func TestWorkerCollectGarbage(t *testing.T) {
	t.Parallel()
	s := open(t)
	m := manager(t, s, session.Options{})
	base := someObject(t, "base")
	lib := someObject(t, "lib", base.Path)
	held, rubbish := someObject(t, "held"), someObject(t, "rubbish")
	imported(t, s, base, lib, held, rubbish)
	c := connectWorker(t, m, untrusted, 38)
	if err := c.AddTempRoot(held.Path); err != nil {
		t.Fatal(err)
	}
	full := func(objects ...object) (all []string) {
		for _, o := range objects {
			all = append(all, nix.DefaultStoreDir.Path(o.Path))
		}
		slices.Sort(all)
		return all
	}
	do := func(req workerproto.CollectGarbageRequest, want []string) {
		t.Helper()
		got, err := c.CollectGarbage(req)
		if err != nil || !slices.Equal(got.Paths, want) {
			t.Errorf("CollectGarbage(%+v) = %v, %v; want %v", req, got.Paths, err, want)
		}
	}
	const all = 1<<64 - 1
	do(workerproto.CollectGarbageRequest{Action: workerproto.GCReturnLive, MaxFreed: all}, full(held))
	do(workerproto.CollectGarbageRequest{Action: workerproto.GCReturnDead, MaxFreed: all}, full(base, lib, rubbish))
	do(workerproto.CollectGarbageRequest{Action: workerproto.GCDeleteDead}, nil)
	do(workerproto.CollectGarbageRequest{Action: workerproto.GCDeleteSpecific, Paths: paths(rubbish), MaxFreed: all}, full(rubbish))
	for want, req := range map[string]workerproto.CollectGarbageRequest{
		"since it is still alive":                {Action: workerproto.GCDeleteSpecific, Paths: paths(held), MaxFreed: all},
		"refers to it":                           {Action: workerproto.GCDeleteSpecific, Paths: paths(base), MaxFreed: all},
		"you are not allowed to ignore liveness": {Action: workerproto.GCDeleteDead, IgnoreLiveness: true, MaxFreed: all},
	} {
		_, err := c.CollectGarbage(req)
		fails(t, c, err, want)
	}
	c.heard = nil
	do(workerproto.CollectGarbageRequest{Action: workerproto.GCDeleteDead, MaxFreed: all}, full(base, lib))
	var said string
	for _, message := range c.heard {
		said += message.Text
	}
	for _, text := range []string{"finding garbage collector roots...\n", "deleting '" + nix.DefaultStoreDir.Path(lib.Path) + "'\n"} {
		if !strings.Contains(said, text) {
			t.Errorf("the server said %q; want %q", said, text)
		}
	}
	if err := c.SetOptions(workerproto.Options{Verbosity: workerproto.LevelError}); err != nil {
		t.Fatal(err)
	}
	c.heard = nil
	do(workerproto.CollectGarbageRequest{Action: workerproto.GCDeleteDead, MaxFreed: all}, nil)
	if len(c.heard) > 0 {
		t.Errorf("the server said %+v to who wants to hear of errors alone", c.heard)
	}
	if err := c.Do(workerproto.CollectGarbage, func() { _ = c.W.Uint64(4) }); !strings.Contains(textOf(err), "action 4 is unknown") {
		t.Errorf("an unknown action: %v", err)
	}
	_ = c.end(t)
	nothingHeld(t, s, m)
}

// Who is not trusted sees links, and that others hold something, not who.
func TestWorkerFindRoots(t *testing.T) {
	t.Parallel()
	s := open(t)
	m := manager(t, s, session.Options{})
	known := someObject(t, "known")
	imported(t, s, known)
	link := rootLink(t, known.Path)
	for _, who := range []acl.Access{trusted, untrusted} {
		c := connectWorker(t, m, who, 38)
		if err := errors.Join(c.AddIndirectRoot(link), c.AddTempRoot(known.Path)); err != nil {
			t.Fatal(err)
		}
		roots, err := c.FindRoots()
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"{censored}", link}
		if who.Level == acl.Trusted {
			want[0] = fmt.Sprintf("{temp:session %d (root)}", c.session.ID())
		}
		var got []string
		for _, r := range roots {
			if r.Path == known.Path {
				got = append(got, r.Link)
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("FindRoots by %s = %q; want %q", who.User, got, want)
		}
		fails(t, c, c.AddIndirectRoot("relative"), "not an absolute file name")
		_, err = c.AddPermRoot(workerproto.AddPermRootRequest{Path: somePath(t, "absent"), Root: filepath.Join(t.TempDir(), "l")})
		fails(t, c, err, map[acl.Level]string{acl.Trusted: "is not valid", acl.Untrusted: "you are not privileged to create perm roots"}[who.Level])
		c.usable(t)
		if err := c.end(t); err != nil {
			t.Error(err)
		}
	}
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	c := connectWorker(t, m, untrusted, 38)
	const all = 1<<64 - 1
	if got, err := c.CollectGarbage(workerproto.CollectGarbageRequest{Action: workerproto.GCDeleteDead, MaxFreed: all}); err != nil || len(got.Paths) != 1 {
		t.Errorf("CollectGarbage = %v, %v; want what the link has kept", got, err)
	}
}

func TestWorkerRealisations(t *testing.T) {
	t.Parallel()
	u, m := inUse(t)
	other, err := nix.GenerateSecretKey("other-1")
	if err != nil {
		t.Fatal(err)
	}
	signed := func(r nix.Realisation, keys ...nix.SecretKey) nix.Realisation {
		for _, key := range keys {
			if err := r.Sign(key); err != nil {
				t.Fatal(err)
			}
		}
		return r
	}
	get := func(id nix.DrvOutput) nix.Realisation {
		t.Helper()
		got, err := u.s.Realisation(id.String())
		if err != nil {
			t.Fatal(err)
		}
		r, err := nix.ParseRealisation(got.JSON)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	d := someDerivation(t, "d")
	r := nix.Realisation{ID: d.id, OutPath: u.known.Path, Dependencies: map[nix.DrvOutput]nix.StorePath{u.made.id: u.made.out.Path}}
	bare := nix.Realisation{ID: d.id, OutPath: u.known.Path}
	alice, root, old := connectWorker(t, m, untrusted, 38), connectWorker(t, m, trusted, 38), connectWorker(t, m, trusted, 30)
	const refused = "you are not privileged to register realisations that lack a valid signature"
	fails(t, alice, alice.RegisterDrvOutput(realisationOf(t, r)), refused)
	fails(t, alice, alice.RegisterDrvOutput(realisationOf(t, signed(r, other))), refused)
	fails(t, alice, alice.RegisterDrvOutput(workerproto.Realisation{JSON: "{"}), "parse realisation")
	absent := signed(nix.Realisation{ID: d.id, OutPath: somePath(t, "absent")}, u.key)
	fails(t, alice, alice.RegisterDrvOutput(realisationOf(t, absent)), "is not valid")
	if err := alice.RegisterDrvOutput(realisationOf(t, signed(r, u.key))); err != nil {
		t.Fatal(err)
	}
	// Signatures come together; what says less takes nothing away.
	if err := root.RegisterDrvOutput(realisationOf(t, signed(r, other))); err != nil {
		t.Fatal(err)
	}
	want := signed(r, u.key, other)
	for range 2 {
		if got := get(d.id); same(got, want, nil) != nil || got.Verify([]nix.PublicKey{u.key.Public(), other.Public()}) != 2 {
			t.Errorf("the store has %+v; want %+v", got, want)
		}
		if err := errors.Join(old.RegisterDrvOutput(realisationOf(t, bare)), root.RegisterDrvOutput(realisationOf(t, bare))); err != nil {
			t.Fatal(err)
		}
	}
	for _, conflict := range []nix.Realisation{
		{ID: d.id, OutPath: u.user.Path},
		{ID: d.id, OutPath: u.known.Path, Dependencies: map[nix.DrvOutput]nix.StorePath{u.made.id: u.user.Path}},
	} {
		fails(t, root, root.RegisterDrvOutput(realisationOf(t, conflict)), "but we already have another one locally")
	}
	// What says more is taken.
	e := someDerivation(t, "e")
	bare.ID, r.ID = e.id, e.id
	if err := errors.Join(root.RegisterDrvOutput(realisationOf(t, signed(bare, other))), alice.RegisterDrvOutput(realisationOf(t, signed(r, u.key)))); err != nil {
		t.Fatal(err)
	}
	if got := get(e.id); len(got.Dependencies) != 1 || got.Verify([]nix.PublicKey{u.key.Public()}) != 1 {
		t.Errorf("the store has %+v; want what has dependencies", got)
	}
	for _, c := range []*workerClient{alice, root, old} {
		c.usable(t)
		if err := c.end(t); err != nil {
			t.Error(err)
		}
	}
	// A realisation goes with its path.
	collect(t, u.s)
	c := connectWorker(t, m, untrusted, 38)
	if got, err := c.QueryRealisation(d.id.String()); err != nil || got != "" {
		t.Errorf("QueryRealisation after a collection = %q, %v", got, err)
	}
}

// What is held is paid for once, however often it is sent, and settings that a client sends do not stay in memory for nothing.
func TestWorkerBudget(t *testing.T) {
	t.Parallel()
	s := open(t)
	m := manager(t, s, session.Options{Memory: 200_000})
	base := addressed(t, "base")
	imported(t, s, base)
	c := connectWorker(t, m, trusted, 38)
	o := someObject(t, "o", base.Path)
	for i := range 1000 {
		if err := addNar(c, o, false); err != nil {
			t.Fatalf("after %d times: %v", i, err)
		}
	}
	if got := m.Budget().Taken(); got > 3000 {
		t.Errorf("%d bytes are taken for two paths", got)
	}
	for range 1000 {
		if _, err := c.AddToStore(workerproto.AddToStoreRequest{Name: "base", Method: nix.MethodNAR, Algo: nix.SHA256}, base.write); err != nil {
			t.Fatal(err)
		}
	}
	if err := several(c, false, slices.Repeat([]object{o}, 1000)...); err != nil {
		t.Error(err)
	}
	// More than there is, within work and before.
	var many []nix.StorePath
	for i := range 1000 {
		many = append(many, somePath(t, fmt.Sprintf("p%d", i)))
	}
	_, err := c.QueryValidPaths(workerproto.QueryValidPathsRequest{Paths: many})
	fails(t, c, err, "narfs daemon out of memory")
	c.usable(t)
	_, err = c.QueryValidPaths(workerproto.QueryValidPathsRequest{Paths: slices.Repeat(many, 3)})
	fails(t, c, err, "narfs daemon out of memory")
	_ = c.end(t)
	nothingHeld(t, s, m)
}

// The outputs of a derivation to have are a set, and results are paid for.
func TestWorkerBuildBudget(t *testing.T) {
	t.Parallel()
	u, _ := inUse(t)
	m := manager(t, u.s, session.Options{Memory: 1 << 20})
	c := connectWorker(t, m, untrusted, 38)
	want := workerproto.DerivedPath{Path: u.made.file.Path, Built: true, Outputs: slices.Repeat([]string{"out"}, 1000)}
	got, err := c.BuildPathsWithResults(workerproto.BuildPathsRequest{Paths: []workerproto.DerivedPath{want}})
	if err != nil || len(got) != 1 || len(got[0].Result.Outputs) != 1 {
		t.Errorf("%d results, %v; want one with one output", len(got), err)
	}
	want.Outputs = nil
	_, err = c.BuildPathsWithResults(workerproto.BuildPathsRequest{Paths: slices.Repeat([]workerproto.DerivedPath{want}, 4000)})
	fails(t, c, err, "narfs daemon out of memory")
	c.usable(t)
	if err := c.end(t); err != nil {
		t.Error(err)
	}
	nothingHeld(t, u.s, m)
}
