package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/daemon/build"
	"github.com/narfs/narfs/daemon/store"
)

// Kind says what a session speaks.
type Kind string

// The kinds.
const (
	KindCommand Kind = "command" // a command line of narfs
	KindServe   Kind = "serve"   // Nix's serve protocol
	KindWorker  Kind = "worker"  // Nix's worker protocol
)

// Options of a Manager.
type Options struct {
	// Settings returns the settings in force; a session takes them at its beginning. It must not be nil.
	Settings func() *acl.Settings
	// Memory is the Budget in bytes; 0 means no limit to speak of.
	Memory int64
	// Views are the mounts of the store; nil means that there are none.
	Views Views
	// Program is what clients are told that they speak with: narfs and its version.
	Program string
	// Builder builds; nil means that nothing is built here.
	Builder *build.Builder
	// LogDir is where the logs of builds are kept: nix's log directory. "" means log/nix in the state directory.
	LogDir string
	// Logger hears of sessions that end with an error; nil discards.
	Logger *slog.Logger
}

// Views are the mounts of a store. Its methods may be called concurrently.
type Views interface {
	// Dirs returns the folders in which the store is seen.
	Dirs() []string
	// Sync returns when what has happened to the store can be seen in all mounts.
	Sync(ctx context.Context) error
	// Mount returns a folder in which the store can be read exactly as it is.
	Mount(ctx context.Context) (string, error)
	// LetGo gives back what is open of deleted paths and in use by nobody, before a sweep.
	LetGo(ctx context.Context)
}

// noViews is a store without mounts.
type noViews struct{}

// Dirs implements Views.
func (noViews) Dirs() []string { return nil }

// Sync implements Views.
func (noViews) Sync(context.Context) error { return nil }

// Mount implements Views.
func (noViews) Mount(context.Context) (string, error) {
	return "", errors.New("this process mounts nothing")
}

// LetGo implements Views.
func (noViews) LetGo(context.Context) {}

// Manager has the sessions of a store. Its methods may be called concurrently.
type Manager struct {
	store  *store.Store
	opts   Options
	budget *Budget

	mu       sync.Mutex // guards the rest
	sessions map[uint64]*Session
	last     uint64
}

// NewManager returns a Manager without sessions.
func NewManager(s *store.Store, o Options) *Manager {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Views == nil {
		o.Views = noViews{}
	}
	if o.LogDir == "" {
		o.LogDir = filepath.Join(s.StateDir(), "log", "nix")
	}
	return &Manager{store: s, opts: o, budget: NewBudget(o.Memory), sessions: map[uint64]*Session{}}
}

// Budget returns what the sessions' requests may take.
func (m *Manager) Budget() *Budget { return m.budget }

// Session is one client's stay.
type Session struct {
	m        *Manager
	id       uint64
	kind     Kind
	access   acl.Access
	from     string
	since    time.Time
	settings *acl.Settings
	cancel   context.CancelCauseFunc
	ended    chan struct{}

	in, out atomic.Int64
	doing   atomic.Pointer[string]
	gone    atomic.Bool // the stream from the client, or that to it, has ended

	// pins are what the client uploads or wants to be kept, asked what it asked about: these do not keep it from having them
	// collected itself.
	pins   *store.Pins
	asked  *store.Pins
	pinned atomic.Int64 // bytes of the budget that pins have
	once   sync.Once
}

// ErrTooMany says that there are as many sessions as the settings allow.
var ErrTooMany = errors.New("too many sessions")

// KilledError is the cause of the end of the context of a session that somebody has killed.
type KilledError struct{ By string }

// Error implements error.
func (e *KilledError) Error() string { return "the session was killed by " + e.By }

// Begin begins a session, to be ended by End, and returns its context. From says where the client comes from, as far as it
// says so itself; it may be empty.
func (m *Manager) Begin(ctx context.Context, kind Kind, who acl.Access, from, doing string) (context.Context, *Session, error) {
	s := &Session{
		m: m, kind: kind, access: who, from: from, since: time.Now(), settings: m.opts.Settings(), ended: make(chan struct{}),
	}
	s.setDoing(doing)
	m.mu.Lock()
	defer m.mu.Unlock()
	// Who looks after the store must get in also when it is full.
	if limit := s.settings.MaxSessions; limit > 0 && len(m.sessions) >= limit && who.Level != acl.Trusted {
		return nil, nil, fmt.Errorf("%w: there are %d", ErrTooMany, len(m.sessions))
	}
	m.last++
	s.id = m.last
	s.pins, s.asked = m.store.Pin(s.holder()), m.store.Pin(s.holder())
	ctx, s.cancel = context.WithCancelCause(ctx)
	m.sessions[s.id] = s
	return ctx, s, nil
}

// End ends the session: its context, its pins, its part of the budget. It may be called more than once.
func (s *Session) End() {
	s.once.Do(func() {
		s.cancel(nil)
		s.pins.Release()
		s.asked.Release()
		s.m.budget.give(s.pinned.Load())
		s.m.mu.Lock()
		delete(s.m.sessions, s.id)
		s.m.mu.Unlock()
		close(s.ended)
	})
}

// Hangup ends the session's context because its client is gone.
func (s *Session) Hangup() { s.cancel(ErrHangup) }

// ID returns the session's number.
func (s *Session) ID() uint64 { return s.id }

// Access returns who the client is.
func (s *Session) Access() acl.Access { return s.access }

// Pins returns what the session holds, for who adds to it.
func (s *Session) Pins() *store.Pins { return s.pins }

// holder is what the session is called in lists of locks and pins.
func (s *Session) holder() string { return fmt.Sprintf("session %d (%s)", s.id, s.access.User) }

// waiting is what a session does that does nothing.
const waiting = "waiting for a command"

func (s *Session) setDoing(what string) { s.doing.Store(&what) }

// Read returns r with what is read counted as coming from the client.
func (s *Session) Read(r io.Reader) io.Reader { return &countingReader{r, s} }

// Write returns w with what is written counted as going to the client.
func (s *Session) Write(w io.Writer) io.Writer { return &countingWriter{w, s} }

type countingReader struct {
	r io.Reader
	s *Session
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.s.in.Add(int64(n))
	c.s.noteEnd(err)
	return n, err
}

type countingWriter struct {
	w io.Writer
	s *Session
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.s.out.Add(int64(n))
	c.s.noteEnd(err)
	return n, err
}

// Info describes a session.
type Info struct {
	ID       uint64    `json:"id"`
	Kind     Kind      `json:"kind"`
	User     string    `json:"user"`
	UID      uint32    `json:"uid"`
	PID      int       `json:"pid"` // of the client on this machine; 0 if unknown
	Trusted  bool      `json:"trusted"`
	From     string    `json:"from"` // what the client says; may be empty
	Doing    string    `json:"doing"`
	Since    time.Time `json:"since"`
	Received int64     `json:"received"` // bytes
	Sent     int64     `json:"sent"`     // bytes
	Pins     int       `json:"pins"`     // paths that it holds
	Idle     bool      `json:"idle"`     // it waits for its client to say what to do
}

// Info returns what there is to say of the session now.
func (s *Session) Info() Info {
	return Info{
		ID: s.id, Kind: s.kind, User: s.access.User, UID: s.access.Peer.UID, PID: s.access.Peer.PID,
		Trusted: s.access.Level == acl.Trusted, From: s.from, Doing: *s.doing.Load(), Since: s.since,
		Received: s.in.Load(), Sent: s.out.Load(), Pins: s.pins.Len() + s.asked.Len(), Idle: *s.doing.Load() == waiting,
	}
}

// List returns the sessions, the oldest first.
func (m *Manager) List() []Info {
	m.mu.Lock()
	all := slices.Collect(maps.Values(m.sessions))
	m.mu.Unlock()
	list := make([]Info, 0, len(all))
	for _, s := range all {
		list = append(list, s.Info())
	}
	slices.SortFunc(list, func(a, b Info) int { return int(a.ID) - int(b.ID) })
	return list
}

// ErrNoSession says that there is no session with a number, or none that one may see.
var ErrNoSession = errors.New("no such session")

// Kill ends a session and returns when it has ended, or when ctx does. Who is not trusted kills only his own.
func (m *Manager) Kill(ctx context.Context, id uint64, by acl.Access) error {
	m.mu.Lock()
	s := m.sessions[id]
	m.mu.Unlock()
	if s == nil {
		return fmt.Errorf("session %d: %w", id, ErrNoSession)
	}
	if by.Level != acl.Trusted && by.Peer.UID != s.access.Peer.UID {
		return fmt.Errorf("you are not privileged to kill session %d: it is that of %s", id, s.access.User)
	}
	s.cancel(&KilledError{By: by.User})
	select {
	case <-s.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("session %d: %w", id, context.Cause(ctx))
	}
}

// KillAll ends all sessions of a kind.
func (m *Manager) KillAll(kind Kind, cause error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.sessions {
		if s.kind == kind {
			s.cancel(cause)
		}
	}
}
