package main

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// escape is what a terminal takes for a command rather than for text: a control sequence, a string of one, or another command.
var escape = regexp.MustCompile(`^\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])?`)

// tabStop is how far apart a terminal has its tab stops.
const tabStop = 8

// logText is a line of a log for a terminal. Of what a terminal would take for commands only colours stay, if they are wanted, and end
// with the line; what a carriage return would have overwritten is gone.
func logText(line string, colours bool) string {
	if !strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r >= 0x7f }) {
		return line // as most are
	}
	line = strings.TrimRight(line, "\r")
	line = line[strings.LastIndexByte(line, '\r')+1:]
	var b strings.Builder
	column, painted := 0, false
	for len(line) > 0 {
		r, n := utf8.DecodeRuneInString(line)
		switch {
		case r == '\x1b':
			command := escape.FindString(line)
			n = len(command)
			if colours && colour.FindString(command) == command {
				b.WriteString(command)
				painted = true
			}
		case r == '\t':
			b.WriteString(strings.Repeat(" ", tabStop-column%tabStop))
			column += tabStop - column%tabStop
		case r == utf8.RuneError && n == 1:
			b.WriteByte('?')
			column++
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp): // also what turns the direction of writing around
		default:
			b.WriteRune(r)
			column += runeWidth(r)
		}
		line = line[n:]
	}
	if painted {
		b.WriteString("\x1b[0m")
	}
	return b.String()
}

// logLines is text of several lines, each as logText has it.
func logLines(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = logText(line, false)
	}
	return strings.Join(lines, "\n")
}
