package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

const readyWord = "ready"

// startBackground starts narfs in a session of its own, with its error output in a file of the state directory, and returns when it
// says that it is ready.
func (p *process) startBackground(ctx context.Context, state, logName string, args []string) error {
	self, err := executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(state, 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(state, logName), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the other process writes it
	begin, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), self, args...)
	cmd.Args[0] = "narfs" // the file may be called nix-store
	cmd.Dir = "/"         // it must not keep another file system from being unmounted
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	ready, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	word, err := io.ReadAll(io.LimitReader(ready, int64(len(readyWord))))
	if err == nil && string(word) == readyWord {
		return cmd.Process.Release()
	}
	err = cmd.Wait()
	said, rerr := io.ReadAll(io.NewSectionReader(log, begin, 64<<10))
	if rerr == nil {
		p.say("%s", said)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return &exitError{exit.ExitCode()}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("the process in the background ended: %w", err)
}
