package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/narfs/narfs/daemon"
	"github.com/narfs/narfs/daemon/gc"
	"github.com/narfs/narfs/daemon/owner"
	"github.com/narfs/narfs/daemon/session"
	"github.com/narfs/narfs/daemon/store"
)

// keeper is this process as the owner of a state directory: it has the store open, serves mounts of it, and does what
// clients want.
type keeper struct {
	store   *store.Store
	views   *views
	daemon  *daemon.Daemon // nil if it could not listen
	started chan struct{}  // closed when daemon is set
	tidying atomic.Bool    // somebody does
	logDir  string         // where logs of builds are
	yields  atomic.Bool    // an owner that was only started for clients leaves as soon as they have: another one waits

	mounting sync.Once // see readyForMounts
}

func newKeeper(ctx context.Context, p *process, s *store.Store, u use) (*keeper, error) {
	k := &keeper{
		store: s, views: newViews(s, p.logger()), started: make(chan struct{}),
		logDir: cmp.Or(u.logDir, p.getenv("NIX_LOG_DIR"), filepath.Join(s.StateDir(), "log", "nix")),
	}
	k.views.clear(ctx)
	if u.lasts {
		if err := gc.MakeLayout(s.StateDir()); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	o := daemon.Options{
		Handle: k.do, Load: p.loadSettings, Leaving: !u.lasts, Public: u.lasts, Listen: u.listen, Listeners: u.listeners, Logger: p.logger(),
		Views: sessionViews{k.views}, Program: "narfs " + version(), LogDir: k.logDir,
		SSHOpts: p.getenv("NIX_SSHOPTS"),
	}
	if u.passing {
		o.Declines = k.yield
	}
	var err error
	k.daemon, err = daemon.Start(ctx, s, o)
	close(k.started)
	if err != nil {
		// One command works all the same. A mount without it would lock all others out.
		p.logger().InfoContext(ctx, "other commands cannot use this store meanwhile", "err", err)
		if u.lasts {
			return nil, errors.Join(err, k.close(ctx))
		}
	}
	return k, nil
}

// yield has a daemon that was started for good follow one that was started for some clients.
func (k *keeper) yield(args []string) (why string) {
	isIdle := func(arg string) bool { return strings.HasPrefix(arg, "--idle") }
	if !slices.Contains(args, "daemon") || slices.ContainsFunc(args, isIdle) {
		return ""
	}
	k.yields.Store(true)
	return "it leaves when its clients have"
}

// use calls fn with the store. What fn changes can be seen in all mounts when use returns.
func (k *keeper) use(ctx context.Context, fn func(ctx context.Context, s *store.Store) error) error {
	err := fn(ctx, k.store)
	if serr := k.views.sync(ctx); serr != nil {
		err = errors.Join(err, fmt.Errorf("the mounts do not show yet what has changed: %w", serr))
	}
	return err
}

// sentFrom are the variables of which the first that a client has says where it comes from.
func sentFrom() []string { return []string{"SSH_CONNECTION", "SSH_CLIENT"} }

// do does a command of another process.
func (k *keeper) do(ctx context.Context, c *owner.Command) int {
	<-k.started
	env := map[string]string{}
	for _, pair := range c.Env {
		name, value, _ := strings.Cut(pair, "=")
		env[name] = value
	}
	from := ""
	for _, name := range sentFrom() {
		if value := env[name]; value != "" && from == "" {
			from = "ssh from " + printable(strings.Join(firstFields(value, 2), " port "))
		}
	}
	kind := session.KindCommand
	switch {
	case slices.Contains(c.Args, "serve"):
		kind = session.KindServe
	case slices.Contains(c.Args, "--stdio"):
		kind = session.KindWorker
	}
	p := &process{
		args: c.Args, stdin: c.Stdin, stdout: c.Stdout, stderr: c.Stderr, dir: c.Dir,
		getenv: func(name string) string { return env[name] },
		keeper: k, access: c.Access, guest: c.Guest,
	}
	if c.Access.User == "" { // by the private socket
		p.access = k.daemon.Access(c.Access.Peer)
		p.access.Level = c.Access.Level
	}
	if p.guest {
		_ = json.Unmarshal([]byte(env[envLinks]), &p.leadTo) // what is not understood leads nowhere
	}
	ctx, s, err := k.daemon.Sessions().Begin(ctx, kind, p.access, from, p.what())
	if err != nil {
		p.say("narfs: %v\n", err)
		return exitFailed
	}
	defer s.End()
	defer context.AfterFunc(ctx, c.Cancel)()
	p.session = s
	return p.run(ctx)
}

func firstFields(text string, n int) []string {
	fields := strings.Fields(text)
	return fields[:min(n, len(fields))]
}

// leave ends the ownership when no other process has a command done here any more. Those who insist do not wait for that; and
// where ctx, whose end means the end of all, has ended, there is not all the time in the world.
func (k *keeper) leave(ctx context.Context, p *process, u use) error {
	var err error
	if k.daemon != nil {
		end, cancel := context.WithCancel(context.WithoutCancel(ctx))
		if grace := k.daemon.Settings().ShutdownTimeout; u.lasts && ctx.Err() != nil {
			end, cancel = context.WithTimeout(context.WithoutCancel(ctx), grace)
		}
		defer cancel()
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			err = k.daemon.Drain(end)
		}()
		tell := time.NewTimer(time.Second)
		defer tell.Stop()
		for waiting := true; waiting; {
			select {
			case <-drained:
				waiting = false
			case <-p.again:
				cancel()
				<-drained
				waiting = false
			case <-tell.C:
				k.tellRunning(p)
			}
		}
	}
	return errors.Join(err, k.close(ctx))
}

// tellRunning says what this process waits for.
func (k *keeper) tellRunning(p *process) {
	for _, s := range k.daemon.Sessions().List() {
		p.remark("narfs: finishing what process %d began meanwhile: %s\n", s.PID, s.Doing)
	}
}

func (k *keeper) close(ctx context.Context) error {
	k.views.close(ctx)
	return k.store.Close()
}

// completeElsewhere has the owner answer a shell's question for completions, if there is an owner: by the time that a
// completion finds it needs the store, cobra would print what it found without.
func (p *process) completeElsewhere(ctx context.Context) (code int, done bool) {
	if p.keeper != nil || !p.completes() {
		return 0, false
	}
	if slices.ContainsFunc(p.args, func(arg string) bool { return strings.HasPrefix(arg, "--state") }) {
		return 0, false // flags are not parsed yet
	}
	dir, err := p.stateDir()
	if err != nil || !storeExists(dir) {
		return 0, false
	}
	code, err = p.handOver(ctx, dir, use{})
	return code, err == nil
}

// executable is this program, for starting it once more.
func executable() (string, error) {
	name, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	return name, nil
}
