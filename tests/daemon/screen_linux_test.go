package daemon_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/narfs/narfs/tests/env"
)

// screen is a terminal as a person sees it, one that knows no more than progress needs. Anything else that comes is an error, and so is
// a line that does not fit.
type screen struct {
	master, terminal *os.File

	mu            sync.Mutex // guards the rest
	columns, rows int
	lines         [][]rune // of all that was ever seen; the last rows of them are on the screen
	row, column   int
	wrong         string
}

func newScreen(t *testing.T, columns, rows int) *screen {
	t.Helper()
	s := &screen{columns: columns, rows: rows, lines: [][]rune{nil}}
	s.master, s.terminal = env.Terminal(t, columns, rows)
	go func() {
		buf := make([]byte, 1<<16)
		for held := ""; ; {
			n, err := s.master.Read(buf)
			held = s.take(held + string(buf[:n]))
			if err != nil {
				return
			}
		}
	}()
	return s
}

func (s *screen) resize(t *testing.T, columns, rows int) {
	t.Helper()
	s.mu.Lock()
	s.columns, s.rows = columns, rows
	s.mu.Unlock()
	env.Resize(t, s.master, columns, rows)
}

// take takes what comes, and returns what it cannot understand before more has come.
func (s *screen) take(text string) (rest string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for text != "" {
		if text[0] == '\x1b' {
			end := strings.IndexAny(text, "ABCDEFGHJKPSTXLMfhlmnsu")
			if end < 0 && len(text) < 20 {
				return text
			}
			s.command(text[:end+1])
			text = text[end+1:]
			continue
		}
		r := []rune(text[:min(len(text), 4)])[0]
		if r == '\ufffd' && len(text) < 4 {
			return text
		}
		text = text[len(string(r)):]
		s.put(r)
	}
	return ""
}

func (s *screen) command(text string) {
	n, _ := strconv.Atoi(strings.Trim(text, "\x1b[A"))
	switch {
	case text == "\x1b[K":
		s.lines[s.row] = s.lines[s.row][:min(s.column, len(s.lines[s.row]))]
	case text == "\x1b[J":
		s.lines[s.row] = s.lines[s.row][:min(s.column, len(s.lines[s.row]))]
		s.lines = s.lines[:s.row+1]
	case strings.HasSuffix(text, "A") && n > 0:
		s.row = max(s.row-n, len(s.lines)-s.rows, 0)
	default:
		s.wrong = fmt.Sprintf("command %q", text)
	}
}

func (s *screen) put(r rune) {
	switch {
	case r == '\r':
		s.column = 0
	case r == '\n':
		s.row++
		if s.row == len(s.lines) {
			s.lines = append(s.lines, nil)
		}
	case r < ' ' || r == '\ufffd' || r >= 0x7f && r < 0xa0:
		s.wrong = fmt.Sprintf("character %q", r)
	default:
		line := s.lines[s.row]
		for len(line) <= s.column {
			line = append(line, ' ')
		}
		line[s.column] = r
		s.lines[s.row] = line
		if s.column++; s.column > s.columns && !strings.HasPrefix(string(line), "/nix/store/") {
			s.wrong = fmt.Sprintf("line %q has more than %d columns", string(line), s.columns)
		}
	}
}

// text is what is to be seen, and what has gone up out of the screen.
func (s *screen) text(t *testing.T) (seen, gone []string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wrong != "" {
		t.Fatalf("the terminal got a %s", s.wrong)
	}
	for i, line := range s.lines {
		if text := string(line); i < len(s.lines)-s.rows {
			gone = append(gone, text)
		} else {
			seen = append(seen, text)
		}
	}
	return seen, gone
}
