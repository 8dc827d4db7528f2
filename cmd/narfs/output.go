package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// printJSON writes a value as one line, or indented for a person at a terminal. Nothing is escaped for HTML.
func (p *process) printJSON(v any) error {
	enc := json.NewEncoder(p.stdout)
	enc.SetEscapeHTML(false)
	if isTerminal(p.stdout) {
		enc.SetIndent("", "  ")
	}
	return enc.Encode(v)
}

// buffered calls fn with a buffer before w.
func buffered(w io.Writer, fn func(w *bufio.Writer) error) error {
	bw := bufio.NewWriterSize(w, 64<<10)
	if err := fn(bw); err != nil {
		_ = bw.Flush() // what was found before the error
		return err
	}
	return bw.Flush()
}

// table is text in columns, with the numbers' ends below each other.
type table struct {
	right []bool // by column: to the right
	rows  [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) write(w io.Writer) error {
	widths := make([]int, len(t.right))
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var line strings.Builder
	for _, row := range t.rows {
		line.Reset()
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i > 0 {
				line.WriteString("  ")
			}
			if t.right[i] {
				line.WriteString(pad + cell)
			} else {
				line.WriteString(cell + pad)
			}
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(line.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// printable is a name for a terminal, which must not take part of it for a command.
func printable(name string) string {
	plain := true
	for _, r := range name {
		if r < ' ' || r == utf8.RuneError || r >= 0x7f && r < 0xa0 {
			plain = false
			break
		}
	}
	if plain {
		return name
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == utf8.RuneError || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, name)
}

// widest is how long lines of help get on a wide terminal.
const widest = 100

// wrap breaks the lines of a text at spaces. Indented lines stay as they are.
func wrap(text string, width int) string {
	var out strings.Builder
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(line, " ") {
			out.WriteString(line + "\n")
			continue
		}
		at := 0
		for i, word := range strings.Fields(line) {
			n := utf8.RuneCountInString(word)
			switch {
			case i == 0:
			case at+1+n > width:
				out.WriteByte('\n')
				at = 0
			default:
				out.WriteByte(' ')
				at++
			}
			out.WriteString(word)
			at += n
		}
		out.WriteByte('\n')
	}
	return strings.TrimSuffix(out.String(), "\n")
}
