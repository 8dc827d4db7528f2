package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is ssh, and what is at its other end.
type process struct {
	in   io.WriteCloser
	out  io.ReadCloser
	ears *ears
	ill  string        // what is wrong when there is nobody at the other end
	kill func()        // ends it at once, and all reading and writing
	done chan struct{} // closed when it has ended
}

// start starts a program. Nobody is there whom it could ask for anything.
func start(ctx context.Context, program string, args []string) (*process, error) {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), program, args...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(pair string) bool {
		return strings.HasPrefix(pair, "DISPLAY=") || strings.HasPrefix(pair, "SSH_ASKPASS=")
	})
	// What is typed on the terminal of the daemon is not for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	e, stderr, err := listen()
	if err != nil {
		return nil, err
	}
	defer stderr.Close() //nolint:errcheck // it is the program's
	cmd.Stderr = stderr
	p := &process{ears: e, ill: "cannot connect", done: make(chan struct{})}
	if p.in, err = cmd.StdinPipe(); err == nil {
		if p.out, err = cmd.StdoutPipe(); err == nil {
			err = cmd.Start()
		}
	}
	if err != nil {
		e.close()
		return nil, err
	}
	p.kill = sync.OnceFunc(func() { _, _, _ = cmd.Process.Kill(), p.in.Close(), p.out.Close() })
	go func() {
		defer close(p.done)
		_, _ = cmd.Process.Wait() // not cmd.Wait, which would take away what is still to be read
		e.close()
	}()
	return p, nil
}

// end ends it.
func (p *process) end() {
	p.kill()
	<-p.done
}

// partingTime is how long what has failed may take to say why.
const partingTime = time.Second

// explain adds to an error what the other side has said last.
func (p *process) explain(err error) error {
	if err == nil {
		return nil
	}
	timer := time.NewTimer(partingTime)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrClosed) {
		err = errors.New(p.ill) // wherever that was met
	}
	if words := p.ears.words(); words != "" {
		return fmt.Errorf("%w: %s", err, words)
	}
	return err
}
