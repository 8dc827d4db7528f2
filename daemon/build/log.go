package build

import (
	"bytes"
	stdbzip2 "compress/bzip2"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/dsnet/compress/bzip2"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nixwire"
)

// LogCommand is what results of builds tell to run for the whole log.
const LogCommand = "nix log"

// LogFile returns where Nix looks for a derivation's log: DIR/drvs/XX/REST.bz2, XX being the first two characters of its base name.
func LogFile(dir string, p nix.StorePath) string {
	base := p.BaseName()
	return filepath.Join(dir, "drvs", base[:2], base[2:]+".bz2")
}

// ErrNoLog says that there is no log of a derivation's builds.
var ErrNoLog = errors.New("no log is kept")

// OpenLog opens the log of a derivation that is kept below a log directory in one of the ways in which Nix keeps logs or has kept them:
// compressed or not, in folders or all in one. It may also be of a derivation that is not valid any more.
func OpenLog(dir string, p nix.StorePath) (io.ReadCloser, error) {
	base := p.BaseName()
	for _, name := range []string{LogFile(dir, p), filepath.Join(dir, "drvs", base+".bz2")} {
		for _, name := range []string{strings.TrimSuffix(name, ".bz2"), name} {
			f, err := os.Open(name)
			switch {
			case errors.Is(err, os.ErrNotExist):
			case err != nil:
				return nil, fmt.Errorf("log of %s: %w", p, err)
			case strings.HasSuffix(name, ".bz2"):
				return &logReader{stdbzip2.NewReader(f), f}, nil
			default:
				return f, nil
			}
		}
	}
	return nil, fmt.Errorf("build of %s: %w", p, ErrNoLog)
}

// logReader reads a compressed log.
type logReader struct {
	io.Reader

	f *os.File
}

// Close implements io.Closer.
func (l *logReader) Close() error { return l.f.Close() }

// LogWriter writes a derivation's log where `nix log` finds it, in place of one that is there, once it is closed.
type LogWriter struct {
	name string
	file *os.File
	w    *bzip2.Writer
	err  error
}

// NewLogWriter begins the log of a derivation below a log directory.
func NewLogWriter(dir string, p nix.StorePath) (*LogWriter, error) {
	l := &LogWriter{name: LogFile(dir, p)}
	if err := os.MkdirAll(filepath.Dir(l.name), 0o755); err != nil { //nolint:gosec // others read logs
		return nil, fmt.Errorf("log of %s: %w", p, err)
	}
	var err error
	if l.file, err = os.CreateTemp(filepath.Dir(l.name), ".narfs-new-*"); err != nil {
		return nil, fmt.Errorf("log of %s: %w", p, err)
	}
	if l.w, err = bzip2.NewWriter(l.file, nil); err != nil {
		return nil, errors.Join(err, l.file.Close(), os.Remove(l.file.Name()))
	}
	return l, nil
}

// Write implements io.Writer.
func (l *LogWriter) Write(p []byte) (int, error) {
	n, err := l.w.Write(p)
	l.err = errors.Join(l.err, err)
	return n, err
}

// Close puts the log into its place, unless something went wrong.
func (l *LogWriter) Close() error {
	err := errors.Join(l.err, l.w.Close(), l.file.Chmod(0o644), l.file.Close())
	if err == nil {
		err = os.Rename(l.file.Name(), l.name)
	}
	if err != nil {
		return fmt.Errorf("log %s: %w", l.name, errors.Join(err, l.Discard()))
	}
	return nil
}

// Discard removes what was written.
func (l *LogWriter) Discard() error {
	_ = l.file.Close()
	return os.Remove(l.file.Name())
}

// buildLog is what a builder says: it goes to the log file, to all who want the goal, and counts against the limits.
type buildLog struct {
	g    *goal
	file *LogWriter // nil: none is kept

	mu    sync.Mutex // guards the rest
	line  []byte     // begun
	last  []string   // lines
	bytes int64
	heard time.Time
	over  func() // called when there is too much
}

func (b *Builder) newLog(g *goal) (*buildLog, error) {
	l := &buildLog{g: g, heard: time.Now()}
	if b.opts.LogDir != "" && !g.o.NoLog {
		var err error
		if l.file, err = NewLogWriter(b.opts.LogDir, g.path); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// maxLine bounds a line; what is longer is told in pieces.
const maxLine = 64 << 10

// Write implements io.Writer.
func (l *buildLog) Write(p []byte) (int, error) {
	n := len(p)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = time.Now()
	l.bytes += int64(len(p))
	if limit := l.g.o.MaxLog; limit > 0 && l.bytes > limit && l.over != nil {
		l.over()
	}
	if l.file != nil {
		if _, err := l.file.Write(p); err != nil {
			l.g.b.opts.Logger.Warn("a log cannot be written", "err", err)
		}
	}
	l.g.tell(Event{Kind: EventOutput, Data: bytes.Clone(p)})
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			l.line = append(l.line, p...)
			if len(l.line) > maxLine {
				l.endLine()
			}
			break
		}
		l.line = append(l.line, p[:i]...)
		l.endLine()
		p = p[i+1:]
	}
	return n, nil
}

// endLine tells the line that was begun. l.mu is held.
func (l *buildLog) endLine() {
	line := string(bytes.TrimSuffix(l.line, []byte{'\r'}))
	l.line = l.line[:0]
	if phase, ok := phaseOf(line); ok {
		l.g.tell(Event{Kind: EventPhase, Line: phase})
		return
	}
	if l.g.o.LogLines > 0 {
		if len(l.last) == l.g.o.LogLines {
			l.last = l.last[1:]
		}
		l.last = append(l.last, line)
	}
	l.g.tell(Event{Kind: EventLine, Line: line})
}

// phaseOf returns the phase that a builder says it begins with, in Nix's way of saying it: @nix {"action":"setPhase","phase":"…"}.
func phaseOf(line string) (phase string, ok bool) {
	text, ok := strings.CutPrefix(line, "@nix ")
	if !ok {
		return "", false
	}
	var said struct{ Action, Phase string }
	if err := json.Unmarshal([]byte(text), &said); err != nil || said.Action != "setPhase" {
		return "", false
	}
	return said.Phase, true
}

// tail returns the last lines.
func (l *buildLog) tail() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

func (l *buildLog) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.line) > 0 {
		l.endLine()
	}
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

// limit ends a build that takes too long, is silent for too long, or says too much.
func (l *buildLog) limit(ctx context.Context, cancel context.CancelCauseFunc, g *goal) (stop func()) {
	l.limitSize(cancel)
	ctx, end := context.WithCancel(ctx)
	var watching sync.WaitGroup
	if g.o.Timeout > 0 || g.o.MaxSilent > 0 {
		watching.Go(func() { l.watch(ctx, cancel, g, g.b.print(g.path)) })
	}
	return func() { end(); watching.Wait() }
}

// limitSize ends a build that says too much.
func (l *buildLog) limitSize(cancel context.CancelCauseFunc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = func() {
		cancel(fail(nixwire.LogLimitExceeded, "%s killed after writing more than %d bytes of log output", l.g.b.print(l.g.path), l.g.o.MaxLog))
	}
	l.heard = time.Now()
}

func (l *buildLog) watch(ctx context.Context, cancel context.CancelCauseFunc, g *goal, name string) {
	begun := time.Now()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			l.mu.Lock()
			silent := now.Sub(l.heard)
			l.mu.Unlock()
			switch {
			case g.o.Timeout > 0 && now.Sub(begun) >= g.o.Timeout:
				cancel(fail(nixwire.TimedOut, "%s timed out after %d seconds", name, int(g.o.Timeout.Seconds())))
			case g.o.MaxSilent > 0 && silent >= g.o.MaxSilent:
				cancel(fail(nixwire.TimedOut, "%s timed out after %d seconds of silence", name, int(g.o.MaxSilent.Seconds())))
			default:
				continue
			}
			return
		}
	}
}
