// Package remote speaks with other machines that build, through ssh and either of Nix's protocols.
//
// A connection is a process of ssh with a nix-store --serve, or nix-daemon --stdio, at its other end, which is used for one build at a
// time. Between builds it is kept for some time, so that the next build need not wait for ssh. What it asked about stays valid on the
// other side until it ends; so it ends also if there is always something to do.
//
// Ssh is the user's own, whose configuration counts, with $NIX_SSHOPTS. There is nobody to ask for a password or about a new host: keys
// must do without, and the host be known, by the setting builders or to ssh.
package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/narfs/narfs/daemon/build"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
	"github.com/narfs/narfs/internal/nixwire"
	"github.com/narfs/narfs/internal/ssh"
)

const (
	idleTime = time.Minute      // how long a connection is kept for the next build, by default
	maxAge   = 10 * time.Minute // how old it may be then
	dialTime = time.Minute      // for the other side to say hello
)

// Options of a Pool.
type Options struct {
	SSHOpts string        // as in $NIX_SSHOPTS
	Idle    time.Duration // how long a connection is kept for the next build; 0 means a minute
}

// Pool has the connections of one store. Its methods may be called concurrently.
type Pool struct {
	store *store.Store
	opts  Options

	mu     sync.Mutex // guards the rest
	idle   map[key][]*session
	closed bool
}

// key tells connections apart.
type key struct{ store, key, hostKey string }

// New returns a Pool without connections.
func New(s *store.Store, o Options) *Pool {
	return &Pool{store: s, opts: o, idle: map[key][]*session{}}
}

var _ build.Session = (*session)(nil)

// session is a connection, as a build has it.
type session struct {
	conversation
	*process

	pool   *Pool
	key    key
	opened time.Time
	unbind func() bool // from the context of the build
	expire *time.Timer // while it is idle
}

// conversation is what the protocols differ in.
type conversation interface {
	Upload(ctx context.Context, paths []nix.StorePath, substitute bool) error
	Build(ctx context.Context, p nix.StorePath, d *drv.BasicDerivation, l build.Limits, log io.Writer) (nixwire.BuildResult, error)
	Fetch(paths []nix.StorePath, take func(info nix.PathInfo, nar io.Reader) error) error
	// ping has the other side say something.
	ping() error
}

// knownHosts makes a file that lets in one host, whatever it is called.
func (p *Pool) knownHosts(key string) (name string, remove func(), err error) {
	dir, err := p.store.TempDir()
	if err != nil {
		return "", nil, err
	}
	f, err := os.CreateTemp(dir, "known-hosts-*")
	if err != nil {
		return "", nil, err
	}
	_, err = fmt.Fprintf(f, "* %s\n", key)
	return f.Name(), func() { _ = os.Remove(f.Name()) }, errors.Join(err, f.Close())
}

// Dial begins to use a connection to a machine.
func (p *Pool) Dial(ctx context.Context, m build.Machine) (build.Session, error) {
	k := key{m.Store, m.Key, m.HostKey}
	for s := p.take(k); s != nil; s = p.take(k) {
		s.bind(ctx)
		if err := s.ping(); err == nil {
			return s, nil
		}
		s.Close(false) // it has died meanwhile
	}
	s, err := p.open(ctx, m)
	if err != nil {
		return nil, err
	}
	s.key = k
	return s, nil
}

// bind has the session end with ctx.
func (s *session) bind(ctx context.Context) { s.unbind = context.AfterFunc(ctx, s.kill) }

// take returns the connection that was used last.
func (p *Pool) take(k key) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle[k])
	if n == 0 {
		return nil
	}
	s := p.idle[k][n-1]
	p.forget(s)
	return s
}

// forget takes an idle connection out. p.mu is held.
func (p *Pool) forget(s *session) {
	s.expire.Stop()
	if p.idle[s.key] = slices.DeleteFunc(p.idle[s.key], func(other *session) bool { return other == s }); len(p.idle[s.key]) == 0 {
		delete(p.idle, s.key)
	}
}

// Close implements build.Session.
func (s *session) Close(keep bool) {
	p := s.pool
	p.mu.Lock()
	keep = s.unbind() && keep && !p.closed && time.Since(s.opened) < maxAge
	if keep {
		p.idle[s.key] = append(p.idle[s.key], s)
		s.expire = time.AfterFunc(cmp.Or(p.opts.Idle, idleTime), func() {
			p.mu.Lock()
			idle := slices.Contains(p.idle[s.key], s)
			if idle {
				p.forget(s)
			}
			p.mu.Unlock()
			if idle {
				s.end()
			}
		})
	}
	p.mu.Unlock()
	if !keep {
		s.end()
	}
}

// Close ends the connections that nobody uses, and those that are used when they are not any more.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	var all []*session
	for _, sessions := range p.idle {
		all = append(all, sessions...)
	}
	for _, s := range all {
		p.forget(s)
	}
	p.mu.Unlock()
	for _, s := range all {
		s.end()
	}
}

// open opens a connection.
func (p *Pool) open(ctx context.Context, m build.Machine) (*session, error) {
	if !ssh.Is(m.Store) {
		return nil, errors.New("narfs reaches builders by ssh:// and ssh-ng:// only")
	}
	t, err := ssh.Parse(m.Store)
	if err != nil {
		return nil, err
	}
	more := []string{"-oBatchMode=yes", "-oConnectTimeout=30", "-oServerAliveInterval=15", "-oServerAliveCountMax=4"}
	if m.Key != "" {
		more = append(more, "-i", m.Key)
	}
	if m.HostKey != "" {
		file, remove, err := p.knownHosts(m.HostKey)
		if err != nil {
			return nil, err
		}
		defer remove() // ssh has read it by the time that the other side has said hello
		more = append(more, "-oUserKnownHostsFile="+file, "-oGlobalKnownHostsFile=/dev/null", "-oStrictHostKeyChecking=yes", "-oUpdateHostKeys=no")
	}
	pr, err := start(ctx, "ssh", t.Args(p.opts.SSHOpts, more...))
	if err != nil {
		return nil, err
	}
	s := &session{process: pr, pool: p, opened: time.Now()}
	s.bind(ctx)
	slow := time.AfterFunc(dialTime, pr.kill)
	defer slow.Stop()
	if t.Worker {
		s.conversation, err = openWorker(pr, p.store)
	} else {
		s.conversation, err = openServe(pr, p.store)
	}
	if err == nil {
		pr.ill = "the connection has ended"
		return s, nil
	}
	err = pr.explain(err)
	s.unbind()
	pr.end()
	return nil, err
}
