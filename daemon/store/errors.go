package store

import (
	"errors"
	"fmt"
	"time"

	"github.com/narfs/narfs/internal/nix"
)

// ErrNotValid says that a path is not valid.
var ErrNotValid = errors.New("is not valid")

// NotValidError says which path is not valid. It is ErrNotValid.
type NotValidError struct {
	Path string // in full
}

// Error implements error, in Nix's words.
func (e *NotValidError) Error() string { return fmt.Sprintf("path '%s' is not valid", e.Path) }

// Is makes errors.Is find ErrNotValid.
func (*NotValidError) Is(target error) bool { return target == ErrNotValid }

// MismatchError says that a NAR is not what its path info says.
type MismatchError struct {
	What      string // "hash", "size" or "ca hash"
	Path      string // in full
	Specified string
	Got       string
}

// Error implements error, in Nix's words.
func (e *MismatchError) Error() string {
	return fmt.Sprintf("%s mismatch importing path '%s';\n  specified: %s\n  got:       %s", e.What, e.Path, e.Specified, e.Got)
}

// RefusedError says that a path was not added because of what its info claims.
type RefusedError struct {
	Path string // in full
	Why  string // as it follows the path in a sentence
}

// Error implements error, in Nix's words.
func (e *RefusedError) Error() string { return fmt.Sprintf("cannot add path '%s' %s", e.Path, e.Why) }

// InUseError says that a path cannot be deleted because it is in use.
type InUseError struct {
	Path string   // in full
	By   []string // who holds it, or which paths refer to it
	// Referrers says that By are paths.
	Referrers bool
}

// maxListed is how many names an error text has.
const maxListed = 5

// Error implements error; the beginning is Nix's.
func (e *InUseError) Error() string {
	why := "in use by"
	if e.Referrers {
		why = "referred to by"
	}
	text := fmt.Sprintf("cannot delete path '%s' since it is still alive: %s", e.Path, why)
	for i, by := range e.By {
		if i == maxListed {
			return fmt.Sprintf("%s and %d more", text, len(e.By)-i)
		}
		if i > 0 {
			text += ","
		}
		text += " " + by
	}
	return text
}

// LockTimeoutError says that somebody else has held a path's lock for too long.
type LockTimeoutError struct {
	Path  string // in full
	After time.Duration
	By    string // who holds it; "" if it was given back in this moment
}

// Error implements error.
func (e *LockTimeoutError) Error() string {
	text := fmt.Sprintf("timed out after %v waiting for the lock of path '%s'", e.After, e.Path)
	if e.By != "" {
		text += ", which is held by " + e.By
	}
	return text
}

func (s *Store) notValid(p nix.StorePath) error { return &NotValidError{Path: s.print(p)} }
