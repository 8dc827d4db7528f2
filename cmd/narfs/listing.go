package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/narfs/narfs/nar"
)

// entry is a line of ls.
type entry struct {
	name       string
	typ        nar.Type
	executable bool
	size       int64 // of files; -1 for nothing worth saying
	target     string
	time       time.Time // zero for nothing worth saying
}

func entryOf(t *nar.Tree, i uint32, name string) entry {
	e := entry{name: name, typ: t.Type(i), executable: t.Executable(i), size: -1}
	switch e.typ {
	case nar.TypeRegular:
		e.size = t.Size(i)
	case nar.TypeSymlink:
		e.size, e.target = t.Size(i), t.Target(i)
	case nar.TypeDirectory:
	}
	return e
}

// mode is what the mount says, as ls -l spells it.
func (e *entry) mode() string {
	switch {
	case e.typ == nar.TypeDirectory:
		return "dr-xr-xr-x"
	case e.typ == nar.TypeSymlink:
		return "lrwxrwxrwx"
	case e.executable:
		return "-r-xr-xr-x"
	}
	return "-r--r--r--"
}

// look says how entries are shown.
type look struct {
	long, human, classify bool
	terminal              bool
	width                 int     // 0: one name a line
	colours               colours // nil: none
}

func (l *look) name(e *entry) (text string, width int) {
	text = e.name
	if l.terminal {
		text = printable(text)
	}
	width = utf8.RuneCountInString(text)
	text = l.colours.paint(e, text)
	if mark := e.mark(); l.classify && mark != "" && (!l.long || e.typ != nar.TypeSymlink) {
		text += mark
		width++
	}
	return text, width
}

// mark is what ls -F puts behind a name.
func (e *entry) mark() string {
	switch {
	case e.typ == nar.TypeDirectory:
		return "/"
	case e.typ == nar.TypeSymlink:
		return "@"
	case e.executable:
		return "*"
	}
	return ""
}

// write shows entries in their order.
func (l *look) write(w io.Writer, entries []entry) error {
	if l.long {
		return l.writeLong(w, entries)
	}
	names := make([]string, len(entries))
	widths := make([]int, len(entries))
	for i := range entries {
		names[i], widths[i] = l.name(&entries[i])
	}
	return writeColumns(w, names, widths, l.width)
}

func (l *look) writeLong(w io.Writer, entries []entry) error {
	sizes := make([]string, len(entries))
	wide := 0
	for i, e := range entries {
		switch {
		case e.size < 0:
			sizes[i] = "-"
		case l.human:
			sizes[i] = shortSize(e.size)
		default:
			sizes[i] = fmt.Sprint(e.size)
		}
		wide = max(wide, len(sizes[i]))
	}
	for i := range entries {
		e := &entries[i]
		name, _ := l.name(e)
		if e.typ == nar.TypeSymlink {
			to := e.target
			if l.terminal {
				to = printable(to)
			}
			name += " -> " + to
		}
		var date string
		if !e.time.IsZero() {
			date = e.time.Format("2006-01-02 15:04") + " "
		}
		if _, err := fmt.Fprintf(w, "%s %*s %s%s\n", e.mode(), wide, sizes[i], date, name); err != nil {
			return err
		}
	}
	return nil
}

// writeColumns writes names in columns, downwards, as many as fit; for no width one a line.
func writeColumns(w io.Writer, names []string, widths []int, width int) error {
	const gap = 2
	rows := len(names)
	candidate := rows
	if width > 0 && rows > 0 {
		atMost := max(1, (width+gap)/(slices.Min(widths)+gap)) // columns
		candidate = (rows + atMost - 1) / atMost
	}
	for ; candidate < rows; candidate += 1 + candidate/64 { // not each one of very many
		total := -gap
		for first := 0; first < len(names); first += candidate {
			total += gap + slices.Max(widths[first:min(first+candidate, len(names))])
		}
		if total <= width {
			rows = candidate
		}
	}
	var columns []int // widths
	for first := 0; first < len(names); first += rows {
		columns = append(columns, slices.Max(widths[first:min(first+rows, len(names))]))
	}
	var line strings.Builder
	for row := range rows {
		line.Reset()
		for i := row; i < len(names); i += rows {
			line.WriteString(names[i])
			if i+rows < len(names) {
				line.WriteString(strings.Repeat(" ", columns[i/rows]-widths[i]+gap))
			}
		}
		if _, err := fmt.Fprintln(w, line.String()); err != nil {
			return err
		}
	}
	return nil
}

// order sorts entries by name, or by size with the largest first, or the other way round.
func order(entries []entry, bySize, reverse bool) {
	slices.SortStableFunc(entries, func(a, b entry) int {
		c := 0
		if bySize {
			c = cmp.Compare(b.size, a.size)
		}
		if c == 0 {
			c = cmp.Compare(a.name, b.name)
		}
		if reverse {
			c = -c
		}
		return c
	})
}

// colours are the terminal's codes by what dircolors(1) calls a kind, such as "di" or "*.gz".
type colours map[string]string

// parseColours takes $LS_COLORS, over the defaults of ls.
func parseColours(variable string) colours {
	c := colours{"di": "01;34", "ln": "01;36", "ex": "01;32"}
	for pair := range strings.SplitSeq(variable, ":") {
		if kind, code, ok := strings.Cut(pair, "="); ok && strings.Trim(code, "0123456789;") == "" {
			c[kind] = code
		}
	}
	return c
}

func (c colours) paint(e *entry, text string) string {
	code := ""
	switch {
	case c == nil:
	case e.typ == nar.TypeDirectory:
		code = c["di"]
	case e.typ == nar.TypeSymlink:
		code = c["ln"]
	case e.executable:
		code = c["ex"]
	default:
		if dot := strings.LastIndexByte(e.name, '.'); dot >= 0 {
			code = c["*"+e.name[dot:]]
		}
	}
	if strings.Trim(code, "0;") == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}
