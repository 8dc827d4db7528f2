package acl

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	maxFile    = 1 << 20 // bytes of a file of settings
	maxInclude = 16      // files that include each other
	maxGroups  = 16 << 20
)

// parser gathers settings. What comes later replaces what came before.
type parser struct {
	values map[string]Value
}

// file reads the settings of a file, depth files deep in others.
func (p *parser) file(name string, depth int) error {
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
	return p.text(name, filepath.Dir(name), string(text), depth)
}

// text reads settings. Dir is where the names of included files begin.
func (p *parser) text(origin, dir, text string, depth int) error {
	number := 0
	for line := range strings.Lines(text) {
		number++
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		at := fmt.Sprintf("%s:%d", origin, number)
		switch {
		case words[0] == "include" || words[0] == "!include":
			if len(words) != 2 {
				return fmt.Errorf("%s: %s wants the name of one file", at, words[0])
			}
			if err := p.include(at, dir, words, depth); err != nil {
				return err
			}
		case len(words) < 2 || words[1] != "=":
			return fmt.Errorf("%s: the line is not NAME = VALUE: %.80q", at, strings.TrimSpace(line))
		default:
			p.set(words[0], strings.Join(words[2:], " "), at)
		}
	}
	return nil
}

func (p *parser) include(at, dir string, words []string, depth int) error {
	if depth == maxInclude {
		return fmt.Errorf("%s: more than %d files include each other", at, maxInclude)
	}
	name := words[1]
	if !filepath.IsAbs(name) {
		name = filepath.Join(dir, name)
	}
	err := p.file(name, depth+1)
	if words[0] == "!include" && errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s: file %s is not there", at, name)
	}
	return err
}

// set sets a setting and reports whether there is one of that name.
func (p *parser) set(name, value, origin string) (known bool) {
	all := settings()
	find := func(name string) int {
		return slices.IndexFunc(all, func(row setting) bool { return row.name == name || row.alias != "" && row.alias == name })
	}
	if i := find(name); i >= 0 {
		p.values[all[i].name] = Value{all[i].name, value, origin}
		return true
	}
	more, ok := strings.CutPrefix(name, "extra-")
	if i := find(more); ok && i >= 0 && all[i].list {
		old := p.values[all[i].name]
		p.values[all[i].name] = Value{all[i].name, strings.TrimSpace(old.Value + " " + value), origin}
		return true
	}
	return false
}

// groupsIn returns the groups of a group file that list a user.
func groupsIn(r io.Reader, user string) (groups []string, err error) {
	in := bufio.NewScanner(io.LimitReader(r, maxGroups))
	in.Buffer(nil, maxFile)
	for in.Scan() {
		fields := strings.Split(in.Text(), ":")
		if len(fields) < 4 || strings.HasPrefix(fields[0], "#") || fields[0] == "" {
			continue
		}
		if slices.Contains(strings.Split(fields[3], ","), user) {
			groups = append(groups, fields[0])
		}
	}
	return groups, in.Err()
}
