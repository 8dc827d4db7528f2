package casefold

import (
	"fmt"
	"strings"
)

// Strip returns the original name of a name found in a hacked directory, and whether it differs. orig is empty
// where no name can be told: there is nothing before the suffix, or Hack shortened the name.
func Strip(name string) (orig string, hacked bool) {
	first := strings.Index(name, Suffix)
	if first < 0 {
		return name, false
	}
	if base := strings.TrimRight(name, "0123456789"); strings.HasSuffix(base, Suffix) && len(base) < len(name) && name[len(base)] != '0' {
		if orig, ok := unescape(base[:len(base)-len(Suffix)]); ok {
			return orig, true
		}
	}
	if orig, ok := unescape(name); ok {
		return orig, true
	}
	if shortened(name) {
		return "", true
	}
	return name[:first], true
}

// unescape undoes escape; ok is false if name holds a Suffix that escape did not mark.
func unescape(name string) (orig string, ok bool) {
	if !strings.Contains(name, Suffix) {
		return name, true
	}
	var b strings.Builder
	for {
		before, after, found := strings.Cut(name, Suffix)
		b.WriteString(before)
		if !found {
			return b.String(), true
		}
		if after == "" || after[0] != literal {
			return "", false
		}
		b.WriteString(Suffix)
		name = after[1:]
	}
}

func shortened(name string) bool {
	_, digest, found := strings.Cut(name, Suffix+"~")
	return found && len(digest) == digestLen && strings.Trim(digest, "0123456789abcdefghijklmnopqrstuv") == ""
}

// Unhack returns the original names of the names found in a directory on disk, in the same order (which need
// not be the order of a NAR). When nothing changes, the result is onDisk itself.
func Unhack(onDisk []string) (orig []string, err error) {
	hacked := false
	for _, name := range onDisk {
		if strings.Contains(name, Suffix) {
			hacked = true
			break
		}
	}
	if !hacked {
		return onDisk, nil
	}
	orig = make([]string, len(onDisk))
	from := make(map[string]string, len(onDisk))
	for i, name := range onDisk {
		o, _ := Strip(name)
		switch {
		case o == "" && shortened(name):
			return nil, fmt.Errorf("file name %q was shortened for the case hack: its original name cannot be told", name)
		case o == "" || o == "." || o == "..":
			return nil, fmt.Errorf("file name %q without the case hack is %q, which is no file name", name, o)
		}
		if other, ok := from[o]; ok {
			return nil, fmt.Errorf("file name collision in between %q and %q", other, name)
		}
		from[o], orig[i] = name, o
	}
	return orig, nil
}
