package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// bench is a run.
type bench struct {
	*config

	plan    plan
	results *results
	out     io.Writer // progress
	start   time.Time
	dir     string   // of this run
	lock    *os.File // tells other runs that dir is in use
	undo    []func(context.Context) error

	// Nil until they are asked for; several groups use the same.
	main *dataset
	full *state // of main, recompressed
}

func newBench(ctx context.Context, c *config, wanted []row, out io.Writer) (*bench, error) {
	if err := supported(); err != nil {
		return nil, err
	}
	if c.narfs == "" {
		return nil, errors.New("no narfs to measure: -narfs names it (scripts/bench builds it)")
	}
	b := &bench{config: c, plan: wanted, results: newResults(), out: out, start: time.Now()}
	if err := os.MkdirAll(c.cache, 0o755); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.work, 0o755); err != nil {
		return nil, err
	}
	b.removeLeftovers()
	dir, err := os.MkdirTemp(c.work, "run.")
	if err != nil {
		return nil, err
	}
	b.dir = dir
	b.lock, err = os.Create(filepath.Join(dir, "lock"))
	if err == nil {
		err = syscall.Flock(int(b.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err == nil {
		// All rounds use the same binary, whatever is built meanwhile.
		err = b.do(ctx, "cp", c.narfs, filepath.Join(dir, "narfs"))
		c.narfs = filepath.Join(dir, "narfs")
	}
	return b, err
}

// removeLeftovers removes the folders of runs that were killed: those that nobody locks. Their mounts went with their
// mount namespace.
func (b *bench) removeLeftovers() {
	old, _ := filepath.Glob(filepath.Join(b.work, "run.*"))
	for _, dir := range old {
		lock, err := os.Open(filepath.Join(dir, "lock"))
		if err != nil {
			continue
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			b.say("removing %s, which a killed run left", dir)
			if err := removeAll(dir); err != nil {
				b.say("%v", err)
			}
		}
		_ = lock.Close()
	}
}

// say prints what happens.
func (b *bench) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.out, "%7.1f s  %s\n", time.Since(b.start).Seconds(), fmt.Sprintf(format, args...))
}

// later has something done at the end of the run, or before if the returned function is called.
func (b *bench) later(fn func(context.Context) error) (now func(context.Context) error) {
	done := false
	once := func(ctx context.Context) error {
		if done {
			return nil
		}
		done = true
		return fn(ctx)
	}
	b.undo = append(b.undo, once)
	return once
}

// close takes away what the run made.
func (b *bench) close(ctx context.Context) {
	for len(b.undo) > 0 {
		last := len(b.undo) - 1
		if err := b.undo[last](ctx); err != nil {
			b.results.note("cleaning up: %v", err)
		}
		b.undo = b.undo[:last]
	}
	b.say("removing %s", b.dir)
	if err := removeAll(b.dir); err != nil {
		b.results.note("cleaning up: %v", err)
	}
	_ = b.lock.Close()
}

// removeAll removes a tree, even if it holds read-only folders, as a store of Nix does.
func removeAll(dir string) error {
	err := os.RemoveAll(dir)
	if errors.Is(err, os.ErrPermission) {
		err = filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				err = os.Chmod(path, 0o700)
			}
			return err
		})
		if err == nil {
			err = os.RemoveAll(dir)
		}
	}
	return err
}

// failed notes that something could not be measured, unless the reason is the end of the run.
func (b *bench) failed(ctx context.Context, what string, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	b.say("FAILED: %s: %v", what, err)
	b.results.Failures = append(b.results.Failures, fmt.Sprintf("%s: %v", what, err))
}

// measure measures all groups that the plan has rows of.
func (b *bench) measure(ctx context.Context) {
	b.results.describe(ctx, b.config)
	b.say("%s; samples from %s", strings.TrimSpace(b.results.Machine[narfs]), b.dir)
	if l := load(); l > float64(runtime.NumCPU())/2 {
		b.results.note("the machine was busy (load %.1f on %d cores): what uses all cores looks slower than it is; see CPU", l, runtime.NumCPU())
	}
	if b.dropCaches && os.Geteuid() != 0 {
		b.results.note("-drop-caches needs root: only the caches of what is measured were dropped")
		b.dropCaches = false
	}
	for _, group := range []struct {
		name    string
		measure func(context.Context) error
	}{
		{"size", b.measureSize},
		{"import", b.measureImport},
		{"copy", b.measureCopy},
		{"daemon", b.measureDaemon},
		{"build", b.measureBuild},
		{"rebuild", b.measureRebuild},
		{"export", b.measureExport},
		{"metadata", b.measureMetadata},
		{"read", b.measureRead},
		{"big", b.measureBig},
		{"compile", b.measureCompile},
		{"scale", b.measureScale},
	} {
		if !b.plan.group(group.name) || ctx.Err() != nil {
			continue
		}
		b.failed(ctx, group.name, group.measure(ctx))
	}
}

// take measures a command as a sample of a series. It is a failure of that series alone if that is impossible.
func (b *bench) take(ctx context.Context, series, system string, c command) error {
	if err := flush(b.dir); err != nil {
		return err
	}
	s, err := c.run(ctx, b.limit)
	b.record(ctx, series, system, s, err)
	return err
}

// record adds a sample, or the reason why there is none.
func (b *bench) record(ctx context.Context, series, system string, s sample, err error) {
	if err != nil {
		b.failed(ctx, series+" of "+system, err)
		return
	}
	b.results.add(series, system, s)
	b.say("%-16s %-9s %8.3f s, CPU %7.3f s", series, system, s.Wall, s.cpu())
}

// do runs a command that is not measured.
func (b *bench) do(ctx context.Context, args ...string) error {
	_, err := command{args: args}.run(ctx, b.limit)
	return err
}

// answer runs a command and returns what it prints.
func (b *bench) answer(ctx context.Context, args ...string) (string, error) {
	var out strings.Builder
	_, err := command{args: args, pipe: &out}.run(ctx, b.limit)
	return out.String(), err
}

// need is an error if a program is not there, or if bench is not root and that is needed.
func need(programs ...string) error {
	for _, program := range programs {
		if program == "root" {
			if os.Geteuid() != 0 {
				return errors.New("needs root")
			}
			continue
		}
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("needs %s: %w", program, err)
		}
	}
	return nil
}
