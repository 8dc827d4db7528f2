package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
)

// remarks is the error output of the other side of a connection. It goes on to the user as it comes, line by line, until the other side
// says "error:", as programs of Nix and narfs do when they end: the rest waits for who asks for the reason.
type remarks struct {
	w    *os.File // for the other side
	out  io.Writer
	done chan struct{} // closed when all is read

	mu   sync.Mutex // guards the rest
	held bytes.Buffer
}

const (
	// maxHeld is how much of an error waits. Who says more says it at once.
	maxHeld = 16 << 10
	// sayingTime is how long is waited for the end of the output when the other side has ended: a master connection of ssh may
	// keep it open.
	sayingTime = time.Second
)

// listen begins to pass on what is written to w.
func listen(out io.Writer) (*remarks, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	m := &remarks{w: w, out: out, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		defer r.Close() //nolint:errcheck // only read
		for in := bufio.NewReader(r); ; {
			line, err := in.ReadSlice('\n') // of a longer one, a piece
			m.take(line)
			if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
				return
			}
		}
	}()
	return m, nil
}

// colour is what a terminal takes for one.
var colour = regexp.MustCompile("\x1b\\[[0-9;]*m")

func (m *remarks) take(line []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held.Len() == 0 && !bytes.HasPrefix(colour.ReplaceAll(line, nil), []byte("error:")) {
		_, _ = m.out.Write(line)
		return
	}
	m.held.Write(line)
	if m.held.Len() > maxHeld {
		_, _ = m.held.WriteTo(m.out)
	}
}

// close is for when the other side has ended.
func (m *remarks) close() {
	_ = m.w.Close()
	timer := time.NewTimer(sayingTime)
	defer timer.Stop()
	select {
	case <-m.done:
	case <-timer.C:
	}
}

// reason returns the error with which the other side has ended, without its "error: ", "" for none. It is not told any more.
func (m *remarks) reason() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(colour.ReplaceAllString(m.held.String(), "")), "\n")
	m.held.Reset()
	for i := range lines {
		lines[i] = printable(strings.TrimRight(lines[i], " \r"))
	}
	return strings.TrimSpace(strings.TrimPrefix(strings.Join(lines, "\n"), "error:"))
}

// tell passes on what waits.
func (m *remarks) tell() {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, _ = fmt.Fprint(m.out, m.held.String())
	m.held.Reset()
}
