package casefold

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// IsCaseInsensitive reports whether names that differ only in the case of ASCII letters are one name in the
// directory dir. Where the system does not tell, it creates a file in dir, looks for it under its name in the other
// case, and removes it; where it may not create one, a file that is already there serves. If there is none with a
// letter in its name, the error is why it may not.
func IsCaseInsensitive(dir string) (bool, error) {
	insensitive, known, err := askSystem(dir)
	if !known && err == nil {
		insensitive, err = probe(dir)
	}
	if err != nil {
		return false, fmt.Errorf("case sensitivity of %s: %w", dir, err)
	}
	return insensitive, nil
}

// LooksCaseInsensitive is IsCaseInsensitive for a directory in which nothing may be created: only a file that is there serves.
func LooksCaseInsensitive(dir string) (bool, error) {
	insensitive, known, err := askSystem(dir)
	if !known && err == nil {
		insensitive, err = probeExisting(dir, errNothingTells)
	}
	if err != nil {
		return false, fmt.Errorf("case sensitivity of %s: %w", dir, err)
	}
	return insensitive, nil
}

var errNothingTells = errors.New("there is no file whose name would tell")

func probe(dir string) (insensitive bool, err error) {
	f, err := os.CreateTemp(dir, ".narfs-Case-*")
	if err != nil {
		return probeExisting(dir, err)
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	return hasOtherCase(dir, filepath.Base(f.Name()))
}

// probeExisting decides by a file in dir; cause is why none could be created.
func probeExisting(dir string, cause error) (bool, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, errors.Join(cause, err)
	}
	there := make(map[string]bool, len(entries))
	for _, e := range entries {
		there[e.Name()] = true
	}
	for _, e := range entries {
		if there[swapCase(e.Name())] { // both names are there, or the name has no letter
			continue
		}
		insensitive, err := hasOtherCase(dir, e.Name())
		if errors.Is(err, os.ErrNotExist) {
			continue // gone meanwhile
		}
		return insensitive, err
	}
	return false, cause
}

// hasOtherCase reports whether the file of that name in dir is found under its name in the other case, too.
func hasOtherCase(dir, name string) (bool, error) {
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
		if lower := c | 0x20; 'a' <= lower && lower <= 'z' {
			b[i] = c ^ 0x20
		}
	}
	return string(b)
}
