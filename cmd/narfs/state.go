package main

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/narfs/narfs/daemon/lock"
	"github.com/narfs/narfs/daemon/owner"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

// The variables that narfs itself reads; others tell about the terminal.
const (
	envState    = "NARFS_STATE_DIR"
	envStoreDir = "NIX_STORE_DIR"
)

// systemState is the state directory of root's store.
const systemState = "/var/lib/narfs"

const defaultStateText = systemState + " for root and those who have no store of their own, or narfs in $XDG_STATE_HOME or ~/.local/state"

// sentEnv returns the names of the variables that a command which is done by another process needs.
func sentEnv() []string {
	return append(sentFrom(), envState, envStoreDir, "HOME", "XDG_STATE_HOME", "TERM", "COLUMNS", "LS_COLORS", "NO_COLOR")
}

// stateDir returns the absolute name of the state directory.
func (p *process) stateDir() (string, error) {
	if p.guest {
		return p.keeper.store.StateDir(), nil // it is what the guest has come for
	}
	for _, dir := range []string{p.state, p.getenv(envState)} {
		if dir != "" {
			return p.abs(dir), nil
		}
	}
	if os.Geteuid() == 0 {
		return systemState, nil
	}
	own := ""
	if dir := p.getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) { // as its specification wants
		own = filepath.Join(dir, "narfs")
	} else if home := p.getenv("HOME"); filepath.IsAbs(home) {
		own = filepath.Join(home, ".local", "state", "narfs")
	}
	switch {
	case own != "" && (storeExists(own) || !exists(filepath.Join(systemState, owner.PublicSocket))):
		return own, nil
	case exists(filepath.Join(systemState, owner.PublicSocket)):
		return systemState, nil // that of the machine, whose daemon is there for all
	}
	return "", hint(errors.New("no state directory: $HOME is not set"), "name one with --state DIR or $"+envState)
}

// use says what a command wants of the store.
type use struct {
	creates  bool // there need be no store yet
	lasts    bool // goes on until somebody ends it
	rebuilds bool // the index, first
	passing  bool // lasts as long as there are clients

	// Further sockets of an owner that lasts: see daemon.Options.
	listen    []string
	listeners []*net.UnixListener
	logDir    string // of builds; see session.Options
}

// withStore calls fn with the store, which is open as long as fn runs. If another process has it open, that one does the
// whole command instead, and the result is an *exitError with its exit code.
func (p *process) withStore(ctx context.Context, u use, fn func(ctx context.Context, s *store.Store) error) error {
	dir, err := p.stateDir()
	if err != nil {
		return err
	}
	if p.keeper != nil {
		if !sameDir(dir, p.keeper.store.StateDir()) {
			return fmt.Errorf("state directory %s is not that of process %d, %s", dir, os.Getpid(), p.keeper.store.StateDir())
		}
		if err := p.sameStoreDir(p.keeper.store); err != nil {
			return err
		}
		return p.keeper.use(ctx, fn)
	}
	if !u.creates && !storeExists(dir) {
		return hint(fmt.Errorf("no store in %s", dir), "narfs add PATH makes one; --state DIR or $"+envState+" names another place")
	}
	if err := p.own(ctx, dir, u); err != nil {
		return err
	}
	k := p.keeper
	defer func() { p.keeper = nil }()
	if u.lasts {
		// Who tells a mount to end means all that it does.
		defer context.AfterFunc(ctx, func() { _ = k.daemon.Refuse() })()
	}
	err = k.use(ctx, fn)
	return errors.Join(err, k.leave(ctx, p, u))
}

func storeExists(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "store"))
	return !errors.Is(err, iofs.ErrNotExist)
}

func sameDir(a, b string) bool {
	if filepath.Clean(a) == filepath.Clean(b) {
		return true
	}
	ai, err := os.Stat(a)
	if err != nil {
		return false
	}
	bi, err := os.Stat(b)
	return err == nil && os.SameFile(ai, bi)
}

// sameStoreDir refuses a store for another directory than the command line names.
func (p *process) sameStoreDir(s *store.Store) error {
	if p.storeDir == "" {
		return nil
	}
	dir, err := nix.ParseStoreDir(p.storeDir)
	if err == nil && dir != s.Dir() {
		err = fmt.Errorf("%s is a store for %s and not for %s: choose another state directory", s.StateDir(), s.Dir(), dir)
	}
	return err
}

// storeOptions are those for opening the store in a state directory.
func (p *process) storeOptions(dir string, u use) (store.Options, error) {
	opts := store.Options{What: p.what(), Logger: p.logger(), RebuildIndex: u.rebuilds}
	if u.lasts {
		opts.Content.CacheBytes = serveCache
	}
	name := p.storeDir
	if name == "" && !storeExists(dir) {
		name = p.getenv(envStoreDir)
	}
	if name != "" {
		var err error
		if opts.StoreDir, err = nix.ParseStoreDir(name); err != nil {
			return opts, &usageError{err}
		}
	}
	return opts, nil
}

// what is the command line as others may read it.
func (p *process) what() string {
	const enough = 80
	text := "narfs " + strings.Join(p.args, " ")
	if len(text) > enough {
		text = strings.ToValidUTF8(text[:enough-3], "") + "..."
	}
	return text
}

// own opens the store, as its owner from then on. It returns when that was possible, or when the owner has done the command.
func (p *process) own(ctx context.Context, dir string, u use) error {
	opts, err := p.storeOptions(dir, u)
	if err != nil {
		return err
	}
	begun, told := time.Now(), false
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		s, err := p.open(dir, opts) //nolint:contextcheck // it cannot be interrupted
		var owned *lock.OwnedError
		if !errors.As(err, &owned) {
			if errors.Is(err, iofs.ErrPermission) {
				return p.askOtherOwner(ctx, dir, u, err)
			}
			if err != nil {
				return err
			}
			p.keeper, err = newKeeper(ctx, p, s, u)
			return err
		}
		if u.rebuilds {
			return err
		}
		code, handErr := p.handOver(ctx, dir, u)
		var declined *owner.DeclinedError
		switch {
		case handErr == nil:
			return &exitError{code}
		case errors.Is(handErr, errNoFiles):
			return err
		case errors.Is(handErr, owner.ErrAbsent) || errors.As(handErr, &declined):
			// It begins, or it ends, or it will end: its turn first.
		default:
			return fmt.Errorf("%w: %w", err, handErr)
		}
		if !told && time.Since(begun) > time.Second {
			told = true
			p.remark("narfs: waiting: %v\n", owned)
		}
		if err := wait(ctx, pause); err != nil {
			return err
		}
	}
}

// askOtherOwner has the owner of another user's state directory do this command.
func (p *process) askOtherOwner(ctx context.Context, dir string, u use, cause error) error {
	if p.asGuest != nil {
		if door, err := owner.Connect(ctx, dir); err == nil {
			if err := errors.Join(door.Close(), p.asGuest(ctx, dir)); err != nil {
				return err
			}
			return &exitError{exitDone}
		}
	}
	code, err := p.handOver(ctx, dir, u)
	var declined *owner.DeclinedError
	switch {
	case err == nil:
		return &exitError{code}
	case errors.As(err, &declined):
		return err
	case errors.Is(err, errNoFiles):
		return cause
	}
	return hint(cause, "the state directory is another user's, and no daemon answers there, or it does not let you in; --state DIR or $"+envState+" names another one")
}

// open opens the store and shows progress while its packs are read.
func (p *process) open(dir string, opts store.Options) (*store.Store, error) {
	var m *meter
	defer func() { m.close() }()
	opts.Content.Replay = func(done, total int64) {
		if m == nil {
			m = p.meter("read the packs")
		}
		m.set(done, total)
	}
	return store.Open(dir, opts)
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

var errNoFiles = errors.New("no files to hand over")

// handOver has the owner of a state directory do this command, and returns its exit code.
func (p *process) handOver(ctx context.Context, dir string, u use) (int, error) {
	stdin, in := p.stdin.(*os.File)
	stdout, out := p.stdout.(*os.File)
	stderr, err := p.stderr.(*os.File)
	if !in || !out || !err {
		return 0, errNoFiles // only in tests
	}
	req := owner.Request{Args: p.args, Dir: p.dir, Stdin: stdin, Stdout: stdout, Stderr: stderr, Lasts: u.lasts, Door: p.door(ctx, dir)}
	for _, name := range sentEnv() {
		if value := p.getenv(name); value != "" {
			req.Env = append(req.Env, name+"="+value)
		}
	}
	return owner.Do(ctx, dir, req)
}

func isHangup(cause error) bool { return errors.Is(cause, owner.ErrHangup) }
