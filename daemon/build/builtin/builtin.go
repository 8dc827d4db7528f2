// Package builtin has the builders that derivations name builtin:NAME and that are part of Nix. They run where any other builder does, in
// a sandbox, as a process of their own that knows nothing but its environment: see [Main].
//
//	builtin:buildenv        a profile: links to all that its packages have, with priorities
//	builtin:fetchurl        a file from an URL, whose hash the derivation fixes
//	builtin:unpack-channel  what is in the tarball of a channel
//
// Source: nix's libstore/builtins of 2.8.
package builtin

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// Names returns the builders that there are.
func Names() []string {
	return []string{"builtin:buildenv", "builtin:fetchurl", "builtin:unpack-channel"}
}

// Program is what a sandbox runs for a builtin builder, with the builder's name as the only argument: this program.
const Program = "/proc/self/exe"

// Main runs a builder, if the process was started as one with the builder's name as its only argument, and returns its exit code.
func Main(args []string) (code int, ran bool) {
	if len(args) != 2 || !slices.Contains(Names(), args[1]) {
		return 0, false
	}
	if err := run(args[1], env(os.Getenv), os.Stderr); err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "error: %v\n", err)
		return 1, true
	}
	return 0, true
}

// env is the environment of a builder.
type env func(name string) string

// get returns an attribute that must be there.
func (e env) get(name string) (string, error) {
	if v := e(name); v != "" {
		return v, nil
	}
	return "", fmt.Errorf("attribute '%s' missing", name)
}

func run(name string, e env, log io.Writer) error {
	switch strings.TrimPrefix(name, "builtin:") {
	case "buildenv":
		return buildenv(e, log)
	case "fetchurl":
		return fetchurl(e)
	default:
		return unpackChannel(e)
	}
}
