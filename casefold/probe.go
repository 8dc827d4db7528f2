package casefold

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// IsCaseInsensitive reports whether two names that differ only in the case of ASCII letters are one name in the
// directory dir. It asks the system where that can tell, else it creates a file in dir and removes it again; where
// it may not, the names that are already there decide, and if none has a letter, the answer is an error.
func IsCaseInsensitive(dir string) (bool, error) {
	insensitive, known, err := askSystem(dir)
	if err != nil {
		return false, fmt.Errorf("case sensitivity of %s: %w", dir, err)
	}
	if known {
		return insensitive, nil
	}
	insensitive, err = probeCreating(dir)
	if err != nil {
		insensitive, err = probeExisting(dir, err)
	}
	if err != nil {
		return false, fmt.Errorf("case sensitivity of %s: %w", dir, err)
	}
	return insensitive, nil
}

// probeCreating looks for a new file under its name in the other case.
func probeCreating(dir string) (insensitive bool, err error) {
	f, err := os.CreateTemp(dir, ".narfs-Case-*")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	return sameFile(dir, filepath.Base(f.Name()))
}

// probeExisting does the same with the names in dir. cause is why no file could be created.
func probeExisting(dir string, cause error) (bool, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, errors.Join(cause, err)
	}
	there := make(map[string]bool, len(entries))
	for _, e := range entries {
		there[e.Name()] = true
	}
	for name := range there {
		if other := swapCase(name); !there[other] {
			return sameFile(dir, name)
		}
	}
	return false, cause
}

// sameFile reports whether name in dir is also found under its name in the other case.
func sameFile(dir, name string) (bool, error) {
	a, err := os.Lstat(filepath.Join(dir, name))
	if err != nil {
		return false, err
	}
	b, err := os.Lstat(filepath.Join(dir, swapCase(name)))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return os.SameFile(a, b), nil
}

func swapCase(name string) string {
	b := []byte(name)
	for i, c := range b {
		if l := c | 0x20; 'a' <= l && l <= 'z' {
			b[i] = c ^ 0x20
		}
	}
	return string(b)
}
