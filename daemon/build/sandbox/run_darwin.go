package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const sandboxExec = "/usr/bin/sandbox-exec"

// Run runs a builder, and kills its process group when it has ended. macOS cannot show a file elsewhere than it is:
// StoreMount must be StoreDir, BuildDirInside must be BuildDir, Binds must be where they are, and the builder has to
// be told to write its outputs to Outputs. The output comes through a pipe. See Run on Linux for the rest.
func Run(ctx context.Context, s Spec) (Exit, error) {
	s, err := s.withDefaults()
	if err != nil {
		return Exit{}, err
	}
	fail := func(op string, err error) (Exit, error) { return Exit{}, &SetupError{Op: op, Err: err} }
	if s.StoreMount != s.StoreDir || s.BuildDirInside != s.BuildDir {
		return fail("show files", fmt.Errorf("macOS can show neither %s as %s nor %s as %s",
			s.StoreMount, s.StoreDir, s.BuildDir, s.BuildDirInside))
	}
	if s.Binds, err = binds(s.Binds); err != nil {
		return fail("show files", err)
	}
	isDir := func(path string) bool {
		fi, err := os.Lstat(path)
		return err == nil && fi.IsDir()
	}
	for _, p := range []*string{&s.BuildDir, &s.Outputs} {
		if *p, err = filepath.EvalSymlinks(*p); err != nil {
			return fail("open a folder", err)
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cmd := exec.CommandContext(ctx, sandboxExec, append([]string{"-p", Profile(s, isDir), s.Builder}, s.Args...)...)
	cmd.Env = append([]string{}, s.Env...)
	cmd.Dir = s.Dir
	output := &logWriter{w: s.Log, cancel: cancel}
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(s.UID), Gid: uint32(s.GID)}
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second // for those who have left the process group with the pipe
	if err := cmd.Start(); err != nil {
		if ctx.Err() != nil {
			return Exit{}, context.Cause(ctx)
		}
		return fail("start "+sandboxExec, err)
	}
	err = cmd.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	exit := Exit{Code: cmd.ProcessState.ExitCode()}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		exit = Exit{Signal: status.Signal()}
	}
	if ctx.Err() != nil {
		return exit, context.Cause(ctx)
	}
	if exitErr := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exitErr) && !errors.Is(err, exec.ErrWaitDelay) {
		return fail("wait for the builder", err)
	}
	return exit, nil
}

// binds returns those that exist, by the names that the system compares.
func binds(all []Bind) ([]Bind, error) {
	var found []Bind
	for _, b := range all {
		if b.Source != b.Target {
			return nil, fmt.Errorf("macOS cannot show %s as %s", b.Source, b.Target)
		}
		path, err := filepath.EvalSymlinks(b.Source)
		if b.Optional && errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		b.Source, b.Target = path, path
		found = append(found, b)
	}
	return found, nil
}

// logWriter ends the builder when the log cannot be written.
type logWriter struct {
	w      io.Writer
	cancel context.CancelCauseFunc
}

func (l *logWriter) Write(p []byte) (int, error) {
	n, err := l.w.Write(p)
	if err != nil {
		l.cancel(err)
	}
	return n, err
}

// Available returns nil if sandboxed builders can be run here.
func Available(context.Context) error {
	_, err := os.Stat(sandboxExec)
	return err
}
