package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// command is a command line to be measured.
type command struct {
	args   []string
	env    []string // added to the environment
	dir    string
	stdin  string    // a file; "" is /dev/null
	pipe   io.Writer // takes the output through a pipe; nil sends it to /dev/null
	memory bool      // watch it; this takes some time itself
}

// run runs a command within a time limit and measures it.
func (c command) run(ctx context.Context, limit time.Duration) (sample, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("took longer than %v", limit))
	defer cancel()
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	own(cmd)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Env = append(cmd.Env, c.env...)
	cmd.Dir = c.dir
	var complaints tail
	cmd.Stderr = &complaints
	if c.stdin != "" {
		in, err := os.Open(c.stdin)
		if err != nil {
			return sample{}, err
		}
		defer func() { _ = in.Close() }()
		cmd.Stdin = in
	}
	var drained chan copied
	if c.pipe != nil {
		reader, writer, err := os.Pipe()
		if err != nil {
			return sample{}, err
		}
		enlarge(writer)
		cmd.Stdout = writer
		drained = make(chan copied, 1)
		go func() {
			n, err := io.CopyBuffer(struct{ io.Writer }{c.pipe}, struct{ io.Reader }{reader}, make([]byte, 1<<20))
			drained <- copied{n, errors.Join(err, reader.Close())}
		}()
		defer func() { _ = writer.Close() }()
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return sample{}, err
	}
	var s sample
	watch := func() {}
	if c.memory {
		watch = watchMemory(cmd.Process.Pid, &s)
	}
	err := cmd.Wait()
	s.Wall = time.Since(start).Seconds()
	watch()
	if drained != nil {
		_ = cmd.Stdout.(*os.File).Close()
		got := <-drained
		s.Bytes = got.n
		err = errors.Join(err, got.err)
	}
	s.User, s.System = cmd.ProcessState.UserTime().Seconds(), cmd.ProcessState.SystemTime().Seconds()
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return s, fmt.Errorf("%s: %w%s", c, err, complaints.text())
	}
	return s, nil
}

type copied struct {
	n   int64
	err error
}

func (c command) String() string {
	args := append([]string{filepath.Base(c.args[0])}, c.args[1:]...)
	const enough = 8
	if len(args) > enough {
		args = append(args[:enough:enough], "...")
	}
	return strings.Join(args, " ")
}

// own makes a command end with its children when its context does, and when bench dies.
func own(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(cmd)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
}

// watchMemory keeps looking at the memory of a process until the function that it returns is called. The peak comes
// from the kernel's own count for the process. That of wait(2) will not do: it begins with what bench had when it forked.
func watchMemory(pid int, s *sample) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			m := memoryOf(pid)
			s.Peak, s.Anon = max(s.Peak, m.peak), max(s.Anon, m.anon)
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// memory is what a process has, in bytes.
type memory struct{ peak, now, anon int64 }

func memoryOf(pid int) memory {
	var m memory
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return m
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			continue
		}
		switch name {
		case "VmHWM":
			m.peak = kib << 10
		case "VmRSS":
			m.now = kib << 10
		case "RssAnon":
			m.anon = kib << 10
		}
	}
	return m
}

// cpuOf returns the user and system time of a process, in seconds.
func cpuOf(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// See proc_pid_stat(5). The name of the program, in parentheses, may hold anything.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	const user, system, ticks = 11, 12, 100 // Linux has 100 ticks a second wherever it shows them
	if len(fields) <= system {
		return 0, fmt.Errorf("process %d: cannot read its CPU time", pid)
	}
	u, err := strconv.ParseFloat(fields[user], 64)
	sys, err2 := strconv.ParseFloat(fields[system], 64)
	return (u + sys) / ticks, errors.Join(err, err2)
}

// tail keeps the end of what a program complains about.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	const enough = 4 << 10
	t.b = append(t.b, p...)
	if len(t.b) > 2*enough {
		t.b = append(t.b[:0], t.b[len(t.b)-enough:]...)
	}
	return len(p), nil
}

func (t *tail) text() string {
	text := strings.TrimSpace(string(t.b))
	if text == "" {
		return ""
	}
	return "\n" + text
}
