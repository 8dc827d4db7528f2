package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/owner"
	"github.com/narfs/narfs/daemon/session"
)

func newServe(p *process) *cobra.Command {
	var write bool
	var how compression
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve Nix clients that come by ssh",
		Long: "Speak Nix's serve protocol on the standard input and output, as nix-store --serve does, which is what " +
			"nix-copy-closure and the ssh:// stores of nix start on the other machine. With --write, clients may add paths, as far " +
			"as the store's owner lets their user do so.\n\n" +
			"The owner of the store does the work; where there is none one is started, which leaves some seconds after its last " +
			"client.\n\n" +
			"Called by the name nix-store with --serve, narfs does the same: so a link to it in the PATH of non-interactive shells, " +
			"or a line in ~/.ssh/authorized_keys, makes a host that unchanged clients can copy to:\n\n" +
			"  command=\"narfs serve --write\",restrict ssh-ed25519 AAAA… alice@laptop",
		Example: "  nix-copy-closure --to host ./result\n  nix copy --to ssh://host?remote-program=/usr/local/bin/nix-store ./result",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if p.keeper == nil {
				return p.doElsewhere(cmd.Context(), write)
			}
			in, out, err := p.nixStreams()
			if err != nil {
				return err
			}
			err = p.keeper.daemon.Serve(cmd.Context(), p.session, in, out, session.ServeOptions{Write: write, Compression: how.how, Log: p.stderr})
			return p.sayToNix(err)
		},
	}
	how.define(p, cmd)
	cmd.Flags().BoolVar(&write, "write", false, "let clients add paths")
	return cmd
}

// nixStreams returns the descriptors of a Nix client that another process has handed over.
func (p *process) nixStreams() (in, out *owner.Stream, err error) {
	in, isIn := p.stdin.(*owner.Stream)
	out, isOut := p.stdout.(*owner.Stream)
	if !isIn || !isOut || p.session == nil {
		return nil, nil, errors.New("this is for clients from outside")
	}
	_ = p.wideOut()
	return in, out, nil
}

// sayToNix says what was wrong as Nix does.
func (p *process) sayToNix(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, session.ErrHangup) || isHangup(err):
	default:
		p.say("error: %v\n", err)
	}
	return &exitError{exitFailed}
}

// startTime is how long an owner may take until it can be talked to.
const startTime = 60 * time.Second

// doElsewhere has the owner of the store do this command, and starts one if there is none. Creates says that there need be no store yet.
func (p *process) doElsewhere(ctx context.Context, creates bool) error {
	dir, err := p.stateDir()
	if err != nil {
		return err
	}
	begin, cancel := context.WithTimeoutCause(ctx, startTime, fmt.Errorf("no owner of %s answers", dir))
	defer cancel()
	for pause := time.Duration(0); ; pause = min(2*pause+2*time.Millisecond, 250*time.Millisecond) {
		code, err := p.handOver(ctx, dir, use{})
		var declined *owner.DeclinedError
		switch {
		case err == nil && code == exitDone:
			return nil
		case err == nil:
			return &exitError{code}
		case errors.Is(err, owner.ErrAbsent):
			if !creates && !storeExists(dir) {
				return hint(fmt.Errorf("no store in %s", dir), "narfs add PATH makes one; $"+envState+" names another place")
			}
			if err := p.startOwner(begin, dir); err != nil {
				return err
			}
		case errors.As(err, &declined):
		default:
			return err
		}
		if err := wait(begin, pause); err != nil {
			return err
		}
	}
}

// serveIdle is how long an owner that was started for a client stays after its last one.
const serveIdle = 5 * time.Second

// startOwner starts an owner that leaves after its last client, and returns when it can be talked to, or when
// somebody else has become the owner meanwhile.
func (p *process) startOwner(ctx context.Context, dir string) error {
	args := []string{"daemon", "--ready", "--state=" + dir, "--idle=" + serveIdle.String()}
	if p.storeDir != "" {
		args = append(args, "--store-dir="+p.storeDir)
	}
	return p.startBackground(ctx, dir, "daemon.log", args)
}

// isNixDaemon recognises how Nix's daemon is started.
func isNixDaemon(name string) bool { return name == "nix-daemon" }

// nixDaemonArgs turns the command line of nix-daemon into one of narfs. The store is the one in Nix's state directory if the
// environment names one, and its clients find it at Nix's socket.
func nixDaemonArgs(args []string, getenv func(string) string) []string {
	out := []string{"daemon"}
	state := getenv("NIX_STATE_DIR")
	if state != "" && getenv(envState) == "" {
		out = append(out, "--state="+state)
	}
	out = append(out, withStore(args, "--daemon")...) // once the only way
	if slices.Contains(args, "--stdio") {
		return out
	}
	socket := getenv("NIX_DAEMON_SOCKET_PATH")
	if socket == "" {
		if state == "" {
			state = "/nix/var/nix"
		}
		socket = filepath.Join(state, "daemon-socket", "socket")
	}
	if getenv("NIX_LOG_DIR") == "" {
		out = append(out, "--log-dir=/nix/var/log/nix") // where its clients look, wherever the state is
	}
	return append(out, "--listen="+socket)
}

// isNixStore recognises how Nix clients start the other side: nix-store --serve.
func isNixStore(name string) bool { return name == "nix-store" }

// nixServeArgs turns the command line of nix-store --serve into one of narfs. Nix clients send --store for the store parameter remote-store.
func nixServeArgs(args []string) ([]string, error) {
	if !slices.Contains(args, "--serve") {
		return nil, errors.New("this nix-store is narfs, which under that name only knows --serve")
	}
	return append([]string{"serve"}, withStore(args, "--serve")...), nil
}

// withStore returns arguments without one that says nothing here, and with what follows --store as the state directory, if it is a path.
func withStore(args []string, without string) (out []string) {
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == without:
		case arg == "--store" && i+1 < len(args):
			i++
			if strings.HasPrefix(args[i], "/") {
				out = append(out, "--state="+args[i])
			}
		default:
			out = append(out, arg)
		}
	}
	return out
}
