package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/daemon/session"
)

// process is what one command line has to do with: its standard files, its place in the file system and its environment,
// be they this process's own or those of another one that has handed its command line over.
type process struct {
	args           []string
	stdin          io.Reader
	stdout, stderr io.Writer
	dir            string // where relative paths begin
	getenv         func(string) string
	again          <-chan struct{} // closed when the user insists on the end; nil never is
	signals        *signals        // of this process; nil for one that has handed its command line over

	keeper *keeper // the open store; nil until a command needs it

	// Of a command line that was handed over.
	session *session.Session
	access  acl.Access
	guest   bool              // the client's files are not this process's to touch: see abs
	leadTo  map[string]string // where those of a guest's arguments lead that are in his file system: see links

	// Where another user is the owner.
	outLink string                                        // links to make, since he cannot: see makeLinks
	asGuest func(ctx context.Context, state string) error // done instead of handing over what he would not do; nil for nothing

	// Of the commands that read settings.
	options []string // NAME=VALUE

	// Flags of all commands.
	state, storeDir              string
	quiet, showProgress, verbose bool
}

func newProcess(args []string, stdin io.Reader, stdout, stderr io.Writer) *process {
	if args == nil {
		args = []string{} // cobra takes nil for the arguments of this process
	}
	return &process{args: args, stdin: stdin, stdout: stdout, stderr: stderr, getenv: os.Getenv, dir: workingDir()}
}

// noDir stands for a working directory that has been removed: nothing can be in it.
const noDir = "/dev/null/(the working directory is gone)"

// workingDir returns where relative paths begin.
func workingDir() string {
	dir, err := os.Getwd()
	if err != nil {
		dir, err = unix.Getwd() // the other one wants to see into it
	}
	if err != nil || !filepath.IsAbs(dir) {
		return noDir
	}
	return dir
}

// abs returns the path that a relative one means to the user: to a guest none, so that no file is found by any name.
func (p *process) abs(path string) string {
	if p.guest {
		return ""
	}
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(p.dir, path)
}

// wideOut is the standard output, made a wide pipe if it is one: but not that of a guest, whose pipes would count as the owner's and
// pass the limit that the guest has.
func (p *process) wideOut() io.Writer {
	if !p.guest {
		wide(p.stdout)
	}
	return p.stdout
}

// logger returns what the packages of narfs talk to.
func (p *process) logger() *slog.Logger {
	level := slog.LevelWarn
	switch {
	case p.verbose:
		level = slog.LevelDebug
	case p.quiet:
		level = slog.LevelError
	}
	return slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{} // who reads a log of the past has its time from elsewhere
			}
			return a
		},
	}))
}

// remark tells something that is not the result, unless nobody wants to know.
func (p *process) remark(format string, args ...any) {
	if !p.quiet {
		p.say(format, args...)
	}
}

// interruption says why a context ended.
func interruption(ctx context.Context) error {
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) && !isHangup(cause) {
		return cause
	}
	return errInterrupted
}

func isBrokenPipe(err error) bool { return errors.Is(err, syscall.EPIPE) }
