package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"syscall"

	"github.com/narfs/narfs/daemon/build/builtin"
)

func main() {
	if code, ran := builtin.Main(os.Args); ran {
		os.Exit(code)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50) // a third less memory for a hundredth more time
	}
	args := os.Args[1:]
	switch name := filepath.Base(os.Args[0]); {
	case isMountHelper(name, args):
		args = append([]string{mountHelper, "--"}, args...)
	case isNixDaemon(name):
		args = nixDaemonArgs(args, os.Getenv)
	case isNixStore(name):
		var err error
		if args, err = nixServeArgs(args); err != nil {
			_, _ = fmt.Fprintf(os.Stderr, "error: %v\n", err)
			os.Exit(exitFailed)
		}
	}
	signals := listenToSignals()
	p := newProcess(args, os.Stdin, os.Stdout, os.Stderr)
	p.again, p.signals = signals.again, signals
	code := p.run(signals.ctx)
	signals.stop()
	os.Exit(code)
}

// errInterrupted is the cause of the end of a context whose process was asked to end.
var errInterrupted = errors.New("interrupted")

// signals are what the outside wants of this process.
type signals struct {
	ctx    context.Context //nolint:containedctx // ends when the process is asked to end
	again  <-chan struct{} // closed when it is asked again; the time after that, it just ends
	stop   func()
	ch     chan<- os.Signal
	hangup atomic.Pointer[func()] // what to do at SIGHUP, if that does not mean the end
}

func listenToSignals() *signals {
	// A broken pipe is an error of the write like any other.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	// No terminal may stop the process that serves a mount, or another command.
	signal.Ignore(syscall.SIGTTIN, syscall.SIGTTOU)
	ending := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		ending = append(ending, syscall.SIGHUP)
	}
	ch := make(chan os.Signal, 4)
	signal.Notify(ch, ending...)
	ctx, cancel := context.WithCancelCause(context.Background())
	urgent := make(chan struct{})
	s := &signals{ctx: ctx, again: urgent, ch: ch, stop: func() { cancel(nil) }}
	next := func() {
		for sig := range ch {
			reload := s.hangup.Load()
			if sig != syscall.SIGHUP || reload == nil {
				return
			}
			(*reload)()
		}
	}
	go func() {
		defer signal.Stop(ch)
		next()
		cancel(errInterrupted)
		next()
		close(urgent)
	}()
	return s
}

// onHangup has a function called at SIGHUP, which does not end the process then, until the returned function is called. Where there
// is a terminal whose end that signal tells, it goes on to mean the end.
func (p *process) onHangup(fn func()) (undo func()) {
	if p.signals == nil {
		return func() {}
	}
	if isTerminal(p.stderr) {
		return func() {}
	}
	signal.Notify(p.signals.ch, syscall.SIGHUP) // also where it was ignored, as nohup does
	p.signals.hangup.Store(&fn)
	return func() { p.signals.hangup.Store(nil) }
}
