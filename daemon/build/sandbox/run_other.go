//go:build !linux && !darwin

package sandbox

import (
	"context"
	"errors"
)

var errSystem = errors.New("narfs runs builders on Linux and macOS only") //nolint:gochecknoglobals // a sentinel

// Run returns an error: builders run on Linux and macOS only.
func Run(context.Context, Spec) (Exit, error) {
	return Exit{}, &SetupError{Op: "run a builder", Err: errSystem}
}

// Available returns an error: builders run on Linux and macOS only.
func Available(context.Context) error { return errSystem }
