package main

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// state is a store of narfs: a state directory.
type state struct {
	b        *bench
	dir      string
	imported int64 // what it took before it was recompressed, if newStateOf made it
}

func (b *bench) newState(name string) (*state, error) {
	dir, err := os.MkdirTemp(b.dir, "state-"+name+".")
	return &state{b: b, dir: dir}, err
}

// newStateOf returns a store that holds a dataset, compressed as a store is that had time for it.
func (b *bench) newStateOf(ctx context.Context, d *dataset) (*state, error) {
	s, err := b.newState(d.name)
	if err != nil {
		return nil, err
	}
	stream, err := b.stream(ctx, d, "", nil)
	if err != nil {
		return nil, err
	}
	b.say("importing %s", d.name)
	if _, err := s.imports(stream).run(ctx, b.limit); err != nil {
		return nil, err
	}
	if s.imported, err = s.stored(); err != nil {
		return nil, err
	}
	return s, s.recompress(ctx)
}

func (*state) system() string   { return narfs }
func (s *state) device() string { return s.dir }

// command is a narfs command that works on the store.
func (s *state) command(args ...string) command {
	return command{args: append([]string{s.b.narfs, "--quiet", "--state", s.dir}, args...)}
}

func (s *state) imports(stream string, options ...string) command {
	return s.command(append(append([]string{"import"}, options...), stream)...)
}

// recompress does what a store does in its idle time.
func (s *state) recompress(ctx context.Context) error {
	s.b.say("recompressing %s", filepath.Base(s.dir))
	_, err := s.command("compact", "--recompress").run(ctx, s.b.limit)
	return err
}

// stored returns how much of the disk the store takes: all of it, records and index included.
func (s *state) stored() (int64, error) {
	var blocks int64
	err := filepath.WalkDir(s.dir, func(_ string, entry iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		blocks += info.Sys().(*syscall.Stat_t).Blocks
		return nil
	})
	const block = 512
	return blocks * block, err
}

// mount mounts the store and returns when its folder can be listed.
func (s *state) mount(ctx context.Context) (*mount, error) {
	dir, err := os.MkdirTemp(s.b.dir, "narfs.")
	if err != nil {
		return nil, err
	}
	serve := s.command("mount", "--compress-after", "0", dir) // what it does when idle is no part of any sample
	cmd := exec.CommandContext(context.WithoutCancel(ctx), serve.args[0], serve.args[1:]...)
	own(cmd)
	var complaints tail
	cmd.Stdout, cmd.Stderr = &complaints, &complaints
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	var exit error // once it has ended
	go func() {
		defer close(ended)
		exit = cmd.Wait()
	}()
	m := &mount{dir: dir, pid: cmd.Process.Pid}
	m.unmount = s.b.later(func(ctx context.Context) error {
		const patience = 30 * time.Second
		ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("it did not end within %v", patience))
		defer cancel()
		_ = cmd.Process.Signal(syscall.SIGTERM)
		var err error
		select {
		case <-ended:
		case <-ctx.Done():
			err = errors.Join(context.Cause(ctx), cmd.Process.Kill())
			<-ended
		}
		err = errors.Join(err, exit)
		if mounted, _ := isMounted(dir); mounted {
			err = errors.Join(err, errors.New("it left its mount behind"), s.b.do(context.WithoutCancel(ctx), "umount", "--lazy", dir))
		}
		if err = errors.Join(err, os.Remove(dir)); err != nil {
			return fmt.Errorf("narfs mount: %w%s", err, complaints.text())
		}
		return nil
	})
	waiting, cancel := context.WithTimeoutCause(ctx, s.b.limit, fmt.Errorf("not mounted within %v", s.b.limit))
	defer cancel()
	waitErr := await(waiting, func() (bool, error) {
		select {
		case <-ended:
			return false, errors.New("it ended")
		default:
			return isMounted(dir)
		}
	})
	if waitErr == nil {
		_, waitErr = os.ReadDir(dir)
	}
	if waitErr != nil {
		return nil, errors.Join(waitErr, m.unmount(context.WithoutCancel(ctx)))
	}
	return m, nil
}
