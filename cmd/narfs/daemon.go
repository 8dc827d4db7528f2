package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/fs"
)

type daemonOptions struct {
	mountDir string
	mount    mountOptions
	listen   []string
	idle     time.Duration
	stdio    bool
	logDir   string
}

func newDaemon(p *process) *cobra.Command {
	var o daemonOptions
	cmd := &cobra.Command{
		Use:   "daemon",
		Short: "Own the store, and serve everybody who may use it",
		Long: "Own the store until interrupted, and do what clients want: other narfs commands, Nix's own commands with " +
			"NIX_REMOTE=unix://STATE/daemon.sock, and Nix clients that come by ssh. Users are known by their processes and get in by the socket daemon.sock in the state directory, as far as " +
			"allowed-users and trusted-users of nix.conf let them: see narfs config and narfs whoami. With --mount, also show the store " +
			"on a folder; narfs mount does the same with a mount alone.\n\n" +
			"Of several owners of one store only the first begins. SIGHUP has it read the settings again. SIGTERM and SIGINT end it: it " +
			"takes in nobody any more, and those who are there get shutdown-timeout seconds to finish; a second signal ends their " +
			"sessions at once. A service manager of systemd's kind can give it sockets, is told when it is ready, and may watch it: " +
			"scripts/narfs.service.\n\n" +
			"Called by the name nix-daemon, narfs does the same, with the state directory $NIX_STATE_DIR if that is set, and listens also at " +
			"$NIX_DAEMON_SOCKET_PATH, or where Nix's clients look for their daemon, and keeps logs where they look for these. With --stdio it serves one client and asks the owner of the " +
			"store to do the work, which it starts where there is none.\n\n" +
			"Derivations are built on Linux, and on other machines that builders lists, with the settings of nix.conf that narfs config shows. " +
			"Root's builders run as users of their own, anybody else's as himself; all in user namespaces.",
		Example: "  narfs daemon --mount /nix/store --allow-other",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.stdio {
				return p.daemonStdio(cmd.Context())
			}
			if p.keeper != nil {
				return p.daemonElsewhere(o)
			}
			u := use{creates: true, lasts: true, listen: o.listen, passing: o.idle > 0, logDir: o.logDir}
			var err error
			if u.listeners, err = inherited(); err != nil {
				return err
			}
			var mo fs.Options
			if o.mountDir != "" {
				o.mountDir = p.abs(o.mountDir)
				if err := o.mount.parseList(p); err != nil {
					return err
				}
				if mo, err = o.mount.fs(p, o.mountDir); err != nil {
					return err
				}
			}
			for i, path := range o.listen {
				o.listen[i] = p.abs(path)
			}
			if u.logDir != "" {
				u.logDir = p.abs(u.logDir)
			}
			return p.withStore(cmd.Context(), u, func(ctx context.Context, s *store.Store) error {
				mo.Name = mountName(s.StateDir())
				return p.runDaemon(ctx, mo, o)
			})
		},
	}
	o.mount.define(p, cmd)
	flags := cmd.Flags()
	flags.StringVar(&o.mountDir, "mount", "", "mount the store on the folder `DIR`, with the options of narfs mount")
	flags.StringArrayVar(&o.listen, "listen", nil, "listen also on the unix socket `PATH`, which is open to all users as daemon.sock is; its folder is made")
	flags.StringVar(&o.logDir, "log-dir", "", "keep the logs of builds in `DIR`, where nix log looks for them (default $NIX_LOG_DIR, or log/nix in the state directory)")
	p.defineOptions(cmd)
	flags.BoolVar(&o.stdio, "stdio", false, "speak Nix's worker protocol on the standard input and output with one client, as nix-daemon --stdio does for ssh-ng://")
	flags.DurationVar(&o.idle, "idle", 0, "leave after so much `TIME` without clients; 0 for never")
	return cmd
}

// daemonStdio serves one client of the worker protocol.
func (p *process) daemonStdio(ctx context.Context) error {
	if p.keeper == nil {
		return p.doElsewhere(ctx, true)
	}
	in, out, err := p.nixStreams()
	if err != nil {
		return err
	}
	return p.sayToNix(p.keeper.daemon.Work(ctx, p.session, in, out))
}

// daemonElsewhere says what becomes of a second owner, which the first does.
func (p *process) daemonElsewhere(o daemonOptions) error {
	if o.idle > 0 && o.mountDir == "" && len(o.listen) == 0 {
		// Whoever started it only wants that there is one.
		return p.sayReady(o.mount.ready)
	}
	return hint(fmt.Errorf("process %d is the owner of %s already", os.Getpid(), p.keeper.store.StateDir()),
		"narfs mount DIR has it mount the store, narfs sessions shows its clients")
}

func (p *process) sayReady(wanted bool) error {
	if !wanted {
		return nil
	}
	_, err := fmt.Fprintln(p.stdout, readyWord)
	return err
}

// inherited returns the sockets that a service manager has given to this process.
func inherited() (sockets []*net.UnixListener, err error) {
	listeners, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("sockets of the service manager: %w", err)
	}
	for _, l := range listeners {
		if l == nil {
			continue // no stream socket
		}
		ln, ok := l.(*net.UnixListener)
		if !ok {
			return nil, fmt.Errorf("socket %s of the service manager is not a unix socket: users would not be known there", l.Addr())
		}
		ln.SetUnlinkOnClose(false)
		sockets = append(sockets, ln)
	}
	return sockets, nil
}

// runDaemon serves until ctx ends, or there has been nothing to do for so long as o says.
func (p *process) runDaemon(ctx context.Context, mo fs.Options, o daemonOptions) (err error) {
	k := p.keeper
	thrifty()
	var mount *fs.Mount
	var unmounted <-chan struct{}
	if o.mountDir != "" {
		m, end, err := p.beginMount(ctx, o.mountDir, mo, o.mount)
		if err != nil {
			return err
		}
		defer end()
		mount, unmounted = m, m.Done()
		defer func() {
			if mount != nil {
				err = errors.Join(err, p.unmount(context.WithoutCancel(ctx), mount))
			}
		}()
	} else if o.mount.compressAfter > 0 {
		defer k.tidyWhenIdle(ctx, o.mount.compressAfter, p.logger())()
	}
	if err := k.daemon.OpenDoors(ctx); err != nil {
		return err
	}
	defer p.onHangup(func() {
		notify(systemd.SdNotifyReloading)
		if err := k.daemon.Reload(); err != nil {
			p.logger().ErrorContext(ctx, "the settings stay as they were", "err", err)
		} else {
			p.logger().InfoContext(ctx, "settings read again")
		}
		notify(systemd.SdNotifyReady)
	})()
	notify(systemd.SdNotifyReady)
	defer notify(systemd.SdNotifyStopping)
	if err := p.sayReady(o.mount.ready); err != nil {
		return err
	}
	if !o.mount.ready && isTerminal(p.stderr) {
		p.remark("narfs: serving %s; Ctrl-C ends that\n", k.store.StateDir())
	}
	watchdog, stop := watchdogTicks()
	defer stop()
	idle := time.NewTicker(max(o.idle/8, 10*time.Millisecond))
	defer idle.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-unmounted:
			p.logger().WarnContext(ctx, "somebody has unmounted the store; it is still served", "dir", o.mountDir)
			mount, unmounted = nil, nil
		case <-watchdog:
			if _, err := k.store.Occupied(); err == nil {
				notify(systemd.SdNotifyWatchdog)
			}
		case now := <-idle.C:
			since, nobody := k.daemon.Idle()
			if o.idle > 0 && nobody && mount == nil && (now.Sub(since) >= o.idle || k.yields.Load()) {
				return nil
			}
		}
	}
}

// notify tells a service manager, if there is one, where errors are of no use.
func notify(state string) { _, _ = systemd.SdNotify(false, state) }

// watchdogTicks returns a channel that says when a service manager that watches this process wants to hear from it.
func watchdogTicks() (ticks <-chan time.Time, stop func()) {
	every, err := systemd.SdWatchdogEnabled(false)
	if err != nil || every == 0 {
		return nil, func() {}
	}
	tick := time.NewTicker(every / 3)
	return tick.C, tick.Stop
}

// loadSettings reads the settings, with what the command line of this process says.
func (p *process) loadSettings() (*acl.Settings, error) {
	s, err := acl.Load(acl.LoadOptions{Getenv: p.getenv, Options: p.options})
	if err != nil {
		return nil, hint(err, "narfs config shows what is set where")
	}
	return s, nil
}
