package acl

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	maxFile     = 1 << 20 // bytes of a file of settings
	maxAll      = 4 << 20 // of all of them
	maxFiles    = 256
	maxInclude  = 16 // files that include each other
	maxWarnings = 100
)

// parser gathers settings. What comes later replaces what came before.
type parser struct {
	values   map[string]Value
	warnings []string
	files    int      // read so far
	bytes    int      // read so far
	try      Settings // takes each value as it comes, to see whether it can be one
}

// file reads the settings of a file, depth files deep in others. Nobody but narfs reads those that are ours.
func (p *parser) file(name string, ours bool, depth int) error {
	if p.files++; p.files > maxFiles {
		return fmt.Errorf("settings: %s is one file too many, after %d", name, maxFiles)
	}
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	if len(text) > maxFile {
		return fmt.Errorf("settings: %s is longer than %d bytes", name, maxFile)
	}
	return p.text(name, filepath.Dir(name), string(text), ours, depth)
}

// text reads settings. Dir is where the names of included files begin, "" for none that is not absolute.
func (p *parser) text(origin, dir, text string, ours bool, depth int) error {
	if p.bytes += len(text); p.bytes > maxAll {
		return fmt.Errorf("settings: all files up to %s are longer than %d bytes", origin, maxAll)
	}
	number := 0
	for line := range strings.Lines(text) {
		number++
		line, _, _ = strings.Cut(line, "#")
		words := fields(line)
		if len(words) == 0 {
			continue
		}
		at := fmt.Sprintf("%s:%d", origin, number)
		switch {
		case words[0] == "include" || words[0] == "!include":
			if len(words) != 2 {
				return fmt.Errorf("%s: %s wants the name of one file", at, words[0])
			}
			if err := p.include(at, dir, words, ours, depth); err != nil {
				return err
			}
		case len(words) < 2 || words[1] != "=":
			return fmt.Errorf("%s: the line is not NAME = VALUE: %.80q", at, strings.TrimSpace(line))
		default:
			known, err := p.set(words[0], strings.Join(words[2:], " "), at)
			if err != nil {
				return err
			}
			if !known {
				p.unknown(words[0], at, ours)
			}
		}
	}
	return nil
}

// fields are what white space separates: what Nix takes for it, and no more.
func fields(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == '\t' || r == '\r' || r == '\n' })
}

func (p *parser) include(at, dir string, words []string, ours bool, depth int) error {
	if depth == maxInclude {
		return fmt.Errorf("%s: more than %d files include each other", at, maxInclude)
	}
	name := words[1]
	if !filepath.IsAbs(name) {
		if dir == "" {
			return fmt.Errorf("%s: %s is not an absolute name", at, name)
		}
		name = filepath.Join(dir, name)
	}
	err := p.file(name, ours, depth+1)
	if words[0] == "!include" && errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s: file %s is not there", at, name)
	}
	return err
}

// find returns the row of a name.
func find(name string) (row setting, ok bool) {
	all := settings()
	i := slices.IndexFunc(all, func(row setting) bool { return row.name == name || row.alias != "" && row.alias == name })
	if i < 0 {
		return row, false
	}
	return all[i], true
}

// set sets a setting and reports whether there is one of that name.
func (p *parser) set(name, value, at string) (known bool, err error) {
	origin := at
	row, ok := find(name)
	if !ok {
		more, extra := strings.CutPrefix(name, "extra-")
		if row, ok = find(more); !extra || !ok || !row.list {
			return false, nil
		}
		old := p.values[row.name]
		value = strings.TrimSpace(old.Value + " " + value)
		if origin = old.Origin; !slices.Contains(strings.Split(origin, ", "), at) {
			origin += ", " + at
		}
	}
	// At once, though a later one may win: who mistypes should hear of it.
	if err := row.set(&p.try, value); err != nil {
		return true, fmt.Errorf("%s: setting %s: %w", at, row.name, err)
	}
	p.values[row.name] = Value{row.name, value, origin}
	return true, nil
}

// unknown warns of a setting that has no effect, if that may be a mistake: the others are Nix's.
func (p *parser) unknown(name, at string, ours bool) {
	text := at + ": there is no setting " + strconv.Quote(name)
	like := similar(name)
	if like != "" {
		text += "; is it to be " + like + "?"
	}
	if (like != "" || ours) && len(p.warnings) < maxWarnings {
		p.warnings = append(p.warnings, text)
	}
}

// similar returns the setting whose name may have been meant, "" if there is none. No other setting of Nix is that similar
// to one of these.
func similar(name string) string {
	const most = 2
	name = strings.TrimPrefix(name, "extra-")
	for _, row := range settings() {
		if len(name)-len(row.name) <= most && len(row.name)-len(name) <= most && distance(name, row.name) <= most {
			return row.name
		}
	}
	return ""
}

// distance is the number of bytes to put in, take out or change that make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			next := diagonal
			if a[i] != b[j] {
				next = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
