package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"
)

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50) // a third less memory for a hundredth more time
	}
	args := os.Args[1:]
	if isMountHelper(filepath.Base(os.Args[0]), args) {
		args = append([]string{mountHelper, "--"}, args...)
	}
	ctx, again, stop := interrupts()
	p := newProcess(args, os.Stdin, os.Stdout, os.Stderr)
	p.again = again
	code := p.run(ctx)
	stop()
	os.Exit(code)
}

// errInterrupted is the cause of the end of a context whose process was asked to end.
var errInterrupted = errors.New("interrupted")

// interrupts returns a context that ends when the process is asked to end, and a channel that is closed when it is asked
// again. The time after that, the process just ends.
func interrupts() (ctx context.Context, again <-chan struct{}, stop func()) {
	// A broken pipe is an error of the write like any other.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	// No terminal may stop the process that serves a mount, or another command.
	signal.Ignore(syscall.SIGTTIN, syscall.SIGTTOU)
	ending := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		ending = append(ending, syscall.SIGHUP)
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, ending...)
	ctx, cancel := context.WithCancelCause(context.Background())
	urgent := make(chan struct{})
	go func() {
		defer signal.Stop(signals)
		<-signals
		cancel(errInterrupted)
		<-signals
		close(urgent)
	}()
	return ctx, urgent, func() { cancel(nil) }
}
