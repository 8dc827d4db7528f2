package main

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/nar"
)

func newRestore(p *process) *cobra.Command {
	var hack hackFlags
	var canonical bool
	cmd := &cobra.Command{
		Use:   "restore DEST [FILE]",
		Short: "Make a file tree of a NAR",
		Long: "Make the file tree of a NAR, from a file or the standard input, at DEST, which must not exist yet.\n\n" +
			"Where the file system folds case, names that it would take for one get the suffix that Nix gives them.",
		Example: "  narfs dump a4k2 | narfs restore ./copy",
		Args:    operands(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := nar.RestoreOptions{Canonical: canonical}
			var err error
			dest := p.abs(args[0])
			if o.CaseHack, err = hack.on(dest); err != nil {
				return err
			}
			if o.Rule, err = hack.rule(); err != nil {
				return err
			}
			m := p.meter("restore")
			defer m.close()
			return p.withInput(cmd.Context(), append(args, "-")[1], m, func(r io.Reader) error {
				return nar.Restore(r, dest, o)
			})
		},
	}
	hack.define(p, cmd, "rename what differs only in case")
	hack.defineFold(p, cmd)
	cmd.Flags().BoolVar(&canonical, "canonical", false, "make everything read-only and of the time 1, as in a Nix store")
	return cmd
}

// withInput calls fn with a file, "-" being the standard input. Reading ends with ctx, and is shown by m.
func (p *process) withInput(ctx context.Context, name string, m *meter, fn func(r io.Reader) error) error {
	if name == "-" {
		if isTerminal(p.stdin) {
			return hint(errors.New("the standard input is a terminal"), "give a file, or the output of another command: … | narfs …")
		}
		return readInput(ctx, p.stdin, m, fn)
	}
	f, err := openFile(ctx, p.abs(name))
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	return readInput(ctx, f, m, fn)
}

func readInput(ctx context.Context, f io.Reader, m *meter, fn func(r io.Reader) error) error {
	m.setTotal(remaining(f))
	r, done := interruptible(ctx, m.reader(wide(f)))
	defer done()
	return fn(r)
}

// openFile is os.Open for what may be a pipe that nobody writes to: it gives up when ctx ends.
func openFile(ctx context.Context, name string) (*os.File, error) {
	if info, err := os.Stat(name); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return os.Open(name)
	}
	type opened struct {
		f   *os.File
		err error
	}
	result := make(chan opened)
	go func() { // ends when somebody writes
		f, err := os.Open(name)
		select {
		case result <- opened{f, err}:
		case <-ctx.Done():
			if err == nil {
				_ = f.Close()
			}
		}
	}()
	select {
	case r := <-result:
		return r.f, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// remaining is how many bytes of a regular file are still to be read, 0 if that is not known.
func remaining(r io.Reader) int64 {
	f, ok := r.(interface{ Stat() (os.FileInfo, error) })
	if !ok {
		return 0
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return 0
	}
	size := info.Size()
	if seeker, ok := r.(io.Seeker); ok {
		if at, err := seeker.Seek(0, io.SeekCurrent); err == nil {
			size -= at
		}
	}
	return max(size, 0)
}

// readAhead is how much interruptible reads at once, twice.
const readAhead = 256 << 10

// interruptible returns a reader that gives up when ctx ends, though r may then still wait for its bytes. When r ends by
// itself, so does everything that was begun here; done must be called when no more is wanted.
func interruptible(ctx context.Context, r io.Reader) (reader io.Reader, done func()) {
	ctx, cancel := context.WithCancel(ctx)
	c := &ctxReader{ctx: ctx, full: make(chan chunk), empty: make(chan []byte, 2)}
	c.empty <- make([]byte, readAhead)
	c.empty <- make([]byte, readAhead)
	go c.fill(r) // ends when r does, or at its next read after ctx: there is no way to wait for a read that waits for ever
	return c, cancel
}

type chunk struct {
	bytes []byte
	err   error
}

type ctxReader struct {
	ctx   context.Context //nolint:containedctx // of the one call that it serves
	full  chan chunk
	empty chan []byte
	now   chunk
	at    int
}

func (c *ctxReader) fill(r io.Reader) {
	for {
		var buf []byte
		select {
		case buf = <-c.empty:
		case <-c.ctx.Done():
			return
		}
		n, err := r.Read(buf[:cap(buf)])
		select {
		case c.full <- chunk{buf[:n], err}:
		case <-c.ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

func (c *ctxReader) Read(b []byte) (int, error) {
	for c.at == len(c.now.bytes) {
		if c.now.err != nil {
			return 0, c.now.err
		}
		if c.now.bytes != nil {
			c.empty <- c.now.bytes
		}
		select {
		case c.now = <-c.full:
			c.at = 0
		case <-c.ctx.Done():
			c.now, c.at = chunk{err: context.Cause(c.ctx)}, 0
		}
	}
	n := copy(b, c.now.bytes[c.at:])
	c.at += n
	return n, nil
}
