package session_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/daemon/session"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/daemon/workerproto"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
	"github.com/narfs/narfs/internal/nixwire"
)

// line is a pipe that holds all that is written to it, as a socket holds some.
type line struct {
	mu     sync.Mutex // guards the rest
	more   sync.Cond
	buf    bytes.Buffer
	all    bytes.Buffer // what was ever written, while records is set
	closed bool

	records bool
}

func newLine() *line {
	l := &line{}
	l.more.L = &l.mu
	return l
}

// Read implements io.Reader.
func (l *line) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.buf.Len() == 0 && !l.closed {
		l.more.Wait()
	}
	return l.buf.Read(p)
}

// Write implements io.Writer.
func (l *line) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, io.ErrClosedPipe
	}
	l.more.Broadcast()
	if l.records {
		l.all.Write(p)
	}
	return l.buf.Write(p)
}

// recorded returns what was written since it was last called, and goes on recording.
func (l *line) recorded() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := bytes.Clone(l.all.Bytes())
	l.all.Reset()
	l.records = true
	return b
}

// Close implements io.Closer.
func (l *line) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.more.Broadcast()
	return nil
}

// workerClient is a connected client of a session of the worker protocol.
type workerClient struct {
	*workerproto.Client

	session *session.Session
	in, out *line // to the server, from it
	cancel  context.CancelFunc
	done    chan struct{}
	err     error // of the server, when done is closed
	heard   []workerproto.Message
}

// patience is for what must not hang.
const patience = time.Minute

// startWorker begins a session.
func startWorker(tb testing.TB, m *session.Manager, who acl.Access) *workerClient {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	ctx, s, err := m.Begin(ctx, session.KindWorker, who, "", "")
	if err != nil {
		tb.Fatal(err)
	}
	c := &workerClient{session: s, in: newLine(), out: newLine(), cancel: cancel, done: make(chan struct{})}
	context.AfterFunc(ctx, func() { _, _ = c.in.Close(), c.out.Close() })
	go func() {
		defer close(c.done)
		defer s.End()
		c.err = m.Work(ctx, s, c.in, c.out)
		_, _ = c.in.Close(), c.out.Close()
	}()
	tb.Cleanup(func() { _ = c.end(tb) })
	return c
}

// connectWorker begins a session with a client of version 1.minor.
func connectWorker(tb testing.TB, m *session.Manager, who acl.Access, minor uint8) *workerClient {
	tb.Helper()
	c := startWorker(tb, m, who)
	var err error
	c.Client, err = workerproto.Open(c.out, c.in, nix.DefaultStoreDir, nixwire.Version{Major: 1, Minor: minor})
	if err != nil {
		tb.Fatal(err)
	}
	c.Hear = func(m workerproto.Message) { c.heard = append(c.heard, m) }
	return c
}

// end closes the client's side and returns what went wrong at the server's.
func (c *workerClient) end(tb testing.TB) error {
	tb.Helper()
	_ = c.in.Close()
	timer := time.AfterFunc(patience, func() { panic("the session does not end") })
	defer timer.Stop()
	<-c.done
	c.cancel()
	return c.err
}

// usable fails the test if the connection is not.
func (c *workerClient) usable(t *testing.T) {
	t.Helper()
	if _, err := c.IsValidPath(somePath(t, "nothing")); err != nil {
		t.Errorf("the connection cannot be used on: %v", err)
	}
}

// made is a derivation in a store, without inputs, and its one output, which is what it says: known by a realisation.
type made struct {
	derivation *drv.Derivation
	file       drv.File
	id         nix.DrvOutput
	out        object
}

// someDerivation is one whose output is floating.
func someDerivation(tb testing.TB, name string) made {
	tb.Helper()
	d := &drv.Derivation{BasicDerivation: drv.BasicDerivation{
		Name: name, Platform: "x86_64-linux", Builder: "/bin/sh", Env: map[string]string{"out": "", "name": name},
		Outputs: map[string]drv.Output{"out": {Kind: drv.Floating, Method: nix.MethodNAR, Algo: nix.SHA256}},
	}}
	file, err := d.File(nix.DefaultStoreDir)
	if err != nil {
		tb.Fatal(err)
	}
	modulo, err := d.OwnModulo(nix.DefaultStoreDir, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return made{d, file, nix.DrvOutput{Hash: modulo.Hash, Output: "out"}, addressed(tb, name)}
}

// realisation is that of its output.
func (d made) realisation() nix.Realisation { return nix.Realisation{ID: d.id, OutPath: d.out.Path} }

// put adds the derivation to a store, with its output, and what this is.
func (d made) put(tb testing.TB, s *store.Store) {
	tb.Helper()
	imported(tb, s, d.out)
	_, err := s.Add(tb.Context(), bytes.NewReader(d.file.Text), store.AddOptions{Name: d.derivation.Name + ".drv", Method: nix.MethodText})
	if err != nil {
		tb.Fatal(err)
	}
	put(tb, s, d.realisation())
}

func put(tb testing.TB, s *store.Store, r nix.Realisation) {
	tb.Helper()
	if err := s.RealiseAnew(tb.Context(), r); err != nil {
		tb.Fatal(err)
	}
}

func realisationOf(tb testing.TB, r nix.Realisation) workerproto.Realisation {
	tb.Helper()
	json, err := r.JSON()
	if err != nil {
		tb.Fatal(err)
	}
	return workerproto.Realisation{ID: r.ID.String(), Path: r.OutPath.BaseName(), JSON: string(json)}
}

func writing(b []byte) func(io.Writer) error {
	return func(w io.Writer) error { _, err := w.Write(b); return err }
}

// addNar is what AddToStoreNar is asked with for an object.
func addNar(c *workerClient, o object, check bool) error {
	return c.AddToStoreNar(workerproto.AddToStoreNarRequest{Info: o.PathInfo, DontCheckSigs: !check}, o.write)
}

// several is what AddMultipleToStore is asked with.
func several(c *workerClient, check bool, objects ...object) error {
	var all []workerproto.Added
	for _, o := range objects {
		all = append(all, workerproto.Added{Info: o.PathInfo, NAR: o.write})
	}
	return c.AddMultipleToStore(workerproto.AddMultipleToStoreRequest{DontCheckSigs: !check}, all)
}

func isRemote(err error) bool {
	_, ok := errors.AsType[*workerproto.RemoteError](err)
	return ok
}

// rootLink makes a link to a path of the store in a new folder.
func rootLink(tb testing.TB, p nix.StorePath) string {
	tb.Helper()
	link := filepath.Join(tb.TempDir(), "root")
	if err := os.Symlink(nix.DefaultStoreDir.Path(p), link); err != nil {
		tb.Fatal(err)
	}
	return link
}
