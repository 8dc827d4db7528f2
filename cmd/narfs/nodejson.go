package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/narfs/narfs/nar"
)

// writeNodeJSON writes what nix store ls --json prints of a node: everything below it if all is set, else the names of its
// entries if names is set.
func writeNodeJSON(w *bufio.Writer, t *nar.Tree, i uint32, all, names bool) error {
	switch t.Type(i) {
	case nar.TypeRegular:
		_, _ = w.WriteString(`{"type":"regular","size":` + strconv.FormatInt(t.Size(i), 10)) // the writer keeps its first error
		if t.Executable(i) {
			_, _ = w.WriteString(`,"executable":true`)
		}
	case nar.TypeSymlink:
		to, err := jsonString(t.Target(i))
		if err != nil {
			return err
		}
		_, _ = w.WriteString(`{"type":"symlink","target":` + to)
	case nar.TypeDirectory:
		_, _ = w.WriteString(`{"type":"directory"`)
		if !names {
			break
		}
		_, _ = w.WriteString(`,"entries":{`)
		first, n := t.Children(i)
		for child := first; child < first+n; child++ {
			if child > first {
				_ = w.WriteByte(',')
			}
			name, err := jsonString(t.Name(child))
			if err != nil {
				return err
			}
			_, _ = w.WriteString(name + ":")
			if !all {
				_, _ = w.WriteString("{}")
			} else if err := writeNodeJSON(w, t, child, true, true); err != nil {
				return err
			}
		}
		_ = w.WriteByte('}')
	}
	return w.WriteByte('}')
}

// jsonString quotes a name. JSON has no words for one that is not UTF-8.
func jsonString(s string) (string, error) {
	if !utf8.ValidString(s) {
		return "", fmt.Errorf("%q: %w", s, nar.ErrNotUTF8)
	}
	b, err := json.Marshal(s)
	return string(b), err
}
