package remote

import (
	"errors"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"unicode"
)

// ears hear the error output of the other side: what builders say, and what it says itself, of which the last is kept.
type ears struct {
	r    *os.File
	raw  syscall.RawConn
	done chan struct{} // closed when nothing more will be heard

	mu    sync.Mutex // guards the rest, and is held while something is read
	log   io.Writer  // nil: nobody listens
	buf   []byte
	last  []byte
	heard int64 // bytes
}

// maxLast is how much of what was said last is kept.
const maxLast = 4 << 10

// listen begins to hear what is written to w.
func listen() (e *ears, w *os.File, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	raw, err := r.SyscallConn()
	if err != nil {
		return nil, nil, errors.Join(err, r.Close(), w.Close())
	}
	e = &ears{r: r, raw: raw, done: make(chan struct{}), buf: make([]byte, 32<<10)}
	go func() {
		defer close(e.done)
		for ended := false; !ended; {
			// Reading within means that there is nothing between what is read and what is heard.
			if err := raw.Read(func(fd uintptr) (ready bool) { ready, ended = e.take(fd); return ready }); err != nil {
				return
			}
		}
	}()
	return e, w, nil
}

// take hears what there is. Ready says that there was something, or the end.
func (e *ears) take(fd uintptr) (ready, ended bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		n, err := syscall.Read(int(fd), e.buf)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
			return false, false
		case err != nil || n == 0:
			return true, true
		}
		e.heard += int64(n)
		if e.log != nil {
			_, _ = e.log.Write(e.buf[:n]) // a log does not fail
		}
		e.last = append(e.last, e.buf[:n]...)
		if len(e.last) > maxLast {
			e.last = append([]byte{}, e.last[len(e.last)-maxLast:]...)
		}
		return true, false
	}
}

// all hears all that was written so far, and returns how much that has been since the beginning.
func (e *ears) all() int64 {
	_ = e.raw.Control(func(fd uintptr) {
		for {
			if ready, ended := e.take(fd); !ready || ended {
				return
			}
		}
	})
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.heard
}

// to has all that is heard from now on go to a log; nil to none.
func (e *ears) to(log io.Writer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.log, e.last = log, nil
}

// close ends it, when the other side has ended: somebody else may keep the pipe open.
func (e *ears) close() {
	e.all()
	_ = e.r.Close()
	<-e.done
}

// colour is what a terminal takes for one.
var colour = regexp.MustCompile("\x1b\\[[0-9;]*m")

// words returns what was said last: from "error:" on if that was said, or some lines.
func (e *ears) words() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	text := colour.ReplaceAllString(string(e.last), "")
	i := strings.LastIndex("\n"+text, "\nerror:")
	explains := i >= 0
	if explains {
		text = text[i+len("error:"):]
	}
	text = strings.Map(func(r rune) rune {
		if r != '\n' && !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	if !explains {
		lines = lines[max(0, len(lines)-2):]
	}
	return strings.Join(lines, "\n")
}
