//go:build !linux

package sandbox

import (
	"context"
	"errors"
)

// errSystem says that there is no sandbox for this system yet.
var errSystem = errors.New("builders can only be run on Linux yet")

// Main becomes a builder, if this process was started to, and does not return then.
func Main() {}

// Run runs a builder.
func Run(_ context.Context, s Spec) (Exit, error) {
	if _, err := s.withDefaults(); err != nil {
		return Exit{}, err
	}
	return Exit{}, &SetupError{Op: "run a builder", Err: errSystem}
}

// Available says what is missing for builders here.
func Available(context.Context) error { return errSystem }
