package env

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Patience is how long helpers wait for what should take a moment.
const Patience = 30 * time.Second

// Process is a program that runs beside a test. Its methods may be called
// concurrently.
type Process struct {
	cmd  *exec.Cmd
	out  buffer
	done chan struct{} // closed when it has ended
}

// Start starts a program and sees to it that it has ended when the test has.
// Both its outputs are kept for Output, and logged if the test fails.
func Start(tb testing.TB, cmd *exec.Cmd) *Process {
	tb.Helper()
	p := &Process{cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.out, &p.out
	dieWithParent(cmd)
	// A grandchild that keeps the pipes open must not keep the test.
	cmd.WaitDelay = Patience
	if err := cmd.Start(); err != nil {
		tb.Fatalf("starting %s: %v", cmd.Path, err)
	}
	go func() {
		_ = cmd.Wait() // its exit code is in ProcessState
		close(p.done)
	}()
	tb.Cleanup(func() {
		p.Stop()
		if tb.Failed() {
			tb.Logf("%q ended with %v and printed:\n%s", cmd.Args, cmd.ProcessState, p.Output())
		}
	})
	return p
}

// Stop ends the program as Ctrl-C or a service manager does, by force if it
// has not ended after Patience, and returns its exit code, -1 after a signal.
func (p *Process) Stop() int {
	p.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(Patience, p.Kill)
	defer timer.Stop()
	return p.Wait()
}

// Kill ends the program by force, as a crash would, without waiting for it.
func (p *Process) Kill() { p.Signal(syscall.SIGKILL) }

// Signal sends a signal; one that comes too late is lost.
func (p *Process) Signal(signal os.Signal) {
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		panic(err) // no signal that narfs is sent can be refused
	}
}

// Wait waits until the program has ended and returns its exit code.
func (p *Process) Wait() int {
	<-p.done
	return p.cmd.ProcessState.ExitCode()
}

// PID returns the program's process number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Output returns what the program has printed so far.
func (p *Process) Output() string { return p.out.String() }

// buffer is a bytes.Buffer that may be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Eventually waits until ok returns true and fails the test if it takes longer
// than Patience, or ok returns an error.
func Eventually(tb testing.TB, what string, ok func() (bool, error)) {
	tb.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		done, err := ok()
		if err != nil {
			tb.Fatalf("waiting until %s: %v", what, err)
		}
		if done {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			tb.Fatalf("waited %v in vain until %s", Patience, what)
		}
	}
}
