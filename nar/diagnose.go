package nar

import (
	"errors"
	"fmt"
)

// maxTag bounds the words of the format, as in Nix.
const maxTag = 32

// What follows runs only after a run of tokens did not match: it reads token by
// token to say which one is wrong, and never succeeds.

// unexpected finds the first token that differs from words.
func (r *Reader) unexpected(words ...string) error {
	for _, want := range words {
		got, err := r.word()
		if err != nil {
			return err
		}
		if got != want {
			if want == "nix-archive-1" {
				return r.fault(errors.New("it does not begin with \"nix-archive-1\""))
			}
			return r.wrongWord(want, got)
		}
	}
	return r.fault(errors.New("unexpected bytes"))
}

// unexpectedEnd is for the end of a node: one ")", a second one for its entry,
// or in a directory the beginning of another entry.
func (r *Reader) unexpectedEnd() error {
	got, err := r.word()
	switch {
	case err != nil:
		return err
	case got == ")":
		return r.unexpected(")")
	case got == "entry" && r.state == afterEntries:
		return r.unexpected("(", "name")
	default:
		return r.wrongWord(")", got)
	}
}

// unexpectedObject is for a node whose type or first fields are wrong.
func (r *Reader) unexpectedObject() error {
	kind, err := r.word()
	if err != nil {
		return err
	}
	switch kind {
	case "symlink":
		return r.unexpected("target")
	case "regular":
		got, err := r.word()
		switch {
		case err != nil:
			return err
		case got != "executable":
			return r.wrongWord("contents", got)
		}
		if got, err = r.word(); err != nil {
			return err
		}
		if got != "" {
			return r.fault(errors.New("executable marker has a non-empty value"))
		}
		return r.unexpected("contents")
	default:
		return r.fault(fmt.Errorf("unknown file type %q", kind))
	}
}

func (r *Reader) word() (string, error) {
	s, err := r.src.String(maxTag, "tag")
	if err != nil {
		return "", r.readError(err)
	}
	return s, nil
}

func (r *Reader) wrongWord(want, got string) error {
	return r.fault(fmt.Errorf("expected tag %q, got %q", want, got))
}
