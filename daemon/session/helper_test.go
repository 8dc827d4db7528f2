package session_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/daemon/build"
	"github.com/narfs/narfs/daemon/serveproto"
	"github.com/narfs/narfs/daemon/session"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/wire"
)

func open(tb testing.TB) *store.Store {
	tb.Helper()
	s, err := store.Open(tb.TempDir(), store.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func manager(tb testing.TB, s *store.Store, o session.Options, settings ...string) *session.Manager {
	tb.Helper()
	loaded, err := acl.Load(acl.LoadOptions{Options: settings})
	if err != nil {
		tb.Fatal(err)
	}
	o.Settings = func() *acl.Settings { return loaded }
	o.Builder, err = build.New(s, build.Options{Mount: func(context.Context) (string, error) { return "", errNoMount }})
	if err != nil {
		tb.Fatal(err)
	}
	return session.NewManager(s, o)
}

var errNoMount = errors.New("nothing is mounted here")

var (
	trusted   = acl.Access{User: "root", Level: acl.Trusted}
	untrusted = acl.Access{User: "alice", Peer: acl.Peer{UID: 1001}, Level: acl.Untrusted}
)

// client is a connected client of a session.
type client struct {
	*serveproto.Client

	session *session.Session
	in      *io.PipeWriter // to the server
	out     *io.PipeReader
	cancel  context.CancelFunc
	done    chan struct{}
	err     error // of the server, when done is closed
	once    sync.Once
}

// connect begins a session and greets the server.
func connect(tb testing.TB, m *session.Manager, who acl.Access, o session.ServeOptions) *client {
	tb.Helper()
	c := start(tb, m, who, o)
	var err error
	if c.Client, err = serveproto.Open(c.out, c.in, nix.DefaultStoreDir); err != nil {
		tb.Fatal(err)
	}
	return c
}

// start begins a session.
func start(tb testing.TB, m *session.Manager, who acl.Access, o session.ServeOptions) *client {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	ctx, s, err := m.Begin(ctx, session.KindServe, who, "", "")
	if err != nil {
		tb.Fatal(err)
	}
	r, in := io.Pipe()
	out, w := io.Pipe()
	c := &client{session: s, in: in, out: out, cancel: cancel, done: make(chan struct{})}
	context.AfterFunc(ctx, func() { _, _ = r.CloseWithError(context.Canceled), w.CloseWithError(context.Canceled) })
	go func() {
		defer close(c.done)
		defer s.End()
		c.err = m.Serve(ctx, s, r, w, o)
		_, _ = w.Close(), r.Close()
	}()
	tb.Cleanup(func() { _ = c.end() })
	return c
}

// end closes the client's side and returns what went wrong at the server's.
func (c *client) end() error {
	c.once.Do(func() { _ = c.in.Close() })
	go func() { _, _ = io.Copy(io.Discard, c.out) }()
	<-c.done
	return c.err
}

func somePath(tb testing.TB, name string) nix.StorePath {
	tb.Helper()
	sum := sha256.Sum256([]byte(name))
	p, err := nix.ParseBaseName(nix.EncodeNix32(sum[:20]) + "-" + name)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// archive is the NAR of a file.
func archive(text string) []byte {
	var b bytes.Buffer
	w := wire.NewWriter(&b)
	for _, token := range []string{"nix-archive-1", "(", "type", "regular", "contents", text, ")"} {
		_ = w.String(token)
	}
	_ = w.Flush()
	return b.Bytes()
}

// object is a path with its NAR.
type object struct {
	nix.PathInfo

	archive []byte
}

func someObject(tb testing.TB, name string, refs ...nix.StorePath) object {
	tb.Helper()
	b := archive("contents of " + name)
	return object{nix.PathInfo{
		Path: somePath(tb, name), NarHash: nix.NewSHA256(sha256.Sum256(b)), NarSize: uint64(len(b)), References: nix.SortPaths(refs), RegistrationTime: 1,
	}, b}
}

// addressed is an object whose path follows from its contents.
func addressed(tb testing.TB, name string) object {
	tb.Helper()
	o := someObject(tb, name)
	o.CA = nix.ContentAddress{Method: nix.MethodNAR, Hash: o.NarHash}
	var err error
	if o.Path, err = nix.MakePathFromCA(nix.DefaultStoreDir, name, o.CA, nil, false); err != nil {
		tb.Fatal(err)
	}
	return o
}

func (o object) write(w io.Writer) error { _, err := w.Write(o.archive); return err }

func (c *client) add(objects ...object) error {
	for _, o := range objects {
		if err := c.AddToStoreNar(o.PathInfo, o.write, nil); err != nil {
			return err
		}
	}
	return c.Finish()
}

func imported(tb testing.TB, s *store.Store, objects ...object) {
	tb.Helper()
	for _, o := range objects {
		if err := s.Import(tb.Context(), o.PathInfo, bytes.NewReader(o.archive), store.ImportOptions{}); err != nil {
			tb.Fatal(err)
		}
	}
}

func paths(objects ...object) (all []nix.StorePath) {
	for _, o := range objects {
		all = append(all, o.Path)
	}
	return all
}

// collect deletes everything that nothing holds and returns how much that was.
func collect(tb testing.TB, s *store.Store) (n int) {
	tb.Helper()
	c, err := s.BeginCollection(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Close()
	for again := true; again; {
		again = false
		var all []nix.StorePath
		for info, err := range s.All() {
			if err != nil {
				tb.Fatal(err)
			}
			all = append(all, info.Path)
		}
		err := c.Delete(tb.Context(), all, store.CollectReport{Deleted: func(infos []nix.PathInfo) { n += len(infos); again = true }})
		if err != nil {
			tb.Fatal(err)
		}
	}
	return n
}

func nothingHeld(tb testing.TB, s *store.Store, m *session.Manager) {
	tb.Helper()
	if held := s.Pinned(); len(held) > 0 {
		tb.Errorf("pins are left: %v", held)
	}
	if locks := s.Locks(); len(locks) > 0 {
		tb.Errorf("locks are left: %v", locks)
	}
	if list := m.List(); len(list) > 0 {
		tb.Errorf("sessions are left: %v", list)
	}
	if n := m.Budget().Taken(); n != 0 {
		tb.Errorf("%d bytes of the budget are still taken", n)
	}
}

func someHash(b []byte) nix.Hash { return nix.NewSHA256(sha256.Sum256(b)) }

var errNone = errors.New("no error")

func textOf(err error) string {
	if err == nil {
		err = errNone
	}
	return fmt.Sprint(err)
}
