package serve

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"testing"
)

// Session is a client of a server that it has started.
type Session struct {
	*Client

	cmd    *exec.Cmd
	in     io.WriteCloser
	stderr bytes.Buffer
}

// Start starts a server, such as nix-store --serve --write, and does the handshake. The server ends with the test at the
// latest.
func Start(tb testing.TB, cmd *exec.Cmd) *Session {
	tb.Helper()
	s, err := Run(cmd)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Kill)
	return s
}

// Run is Start for those who see to the server's end themselves.
func Run(cmd *exec.Cmd) (*Session, error) {
	s := &Session{cmd: cmd}
	cmd.Stderr = &s.stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.in = in
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %q: %w", cmd.Args, err)
	}
	if s.Client, err = Open(out, in); err != nil {
		return nil, s.End(fmt.Errorf("handshake: %w", err))
	}
	return s, nil
}

// Close ends the session at the boundary of a command and returns an error unless the server says that all was well.
func (s *Session) Close() error { return s.end(nil) }

// End ends the session after an error and returns that with what the server has complained about.
func (s *Session) End(err error) error { return s.end(err) }

func (s *Session) end(err error) error {
	_ = s.in.Close()
	if exit := s.cmd.Wait(); err != nil || exit != nil {
		return fmt.Errorf("%q: %w\n%s", s.cmd.Args, errors.Join(err, exit), s.stderr.String())
	}
	return nil
}

// Pid is the server's process id.
func (s *Session) Pid() int { return s.cmd.Process.Pid }

// Kill ends the server by force, as a lost connection would.
func (s *Session) Kill() {
	if s.cmd.ProcessState == nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	}
}
