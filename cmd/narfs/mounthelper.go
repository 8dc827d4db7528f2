package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// mountHelper is the name of the command that mount(8) starts.
const mountHelper = "mount-helper"

// isMountHelper recognises how mount(8) starts a helper: as mount.fuse.narfs or mount.narfs, or, through the mount.fuse of
// libfuse, as narfs with what to mount and where instead of a command.
func isMountHelper(name string, args []string) bool {
	if name == "mount.fuse.narfs" || name == "mount.narfs" {
		return true
	}
	return len(args) >= 2 && strings.HasPrefix(args[1], "/") &&
		(strings.Contains(args[0], "/") || slices.Contains(noSource(), args[0]))
}

// noSource are the names that stand in fstab for nothing in particular.
func noSource() []string { return []string{"none", "narfs"} }

func newMountHelper(p *process) *cobra.Command {
	return &cobra.Command{
		Use:    mountHelper + " SOURCE DIR [-o OPTIONS]",
		Short:  "Mount as mount(8) wants it",
		Long:   "Mount the store in the state directory SOURCE, or the usual one if it is none or narfs, and return when that is done.",
		Hidden: true,
		Args:   cobra.ArbitraryArgs,
		// The options are those of mount(8), see "External helpers" there.
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			args, err := helperArgs(args)
			if err != nil {
				return err
			}
			again := newProcess(args, p.stdin, p.stdout, p.stderr)
			again.dir, again.getenv, again.again = p.dir, p.getenv, p.again
			if code := again.run(cmd.Context()); code != exitDone {
				return &exitError{code}
			}
			return nil
		},
	}
}

// helperArgs turns the command line of a mount helper into one of narfs.
func helperArgs(args []string) ([]string, error) {
	var operands []string
	out := []string{"mount", "--background"}
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "--":
		case arg == "-o" && i+1 < len(args):
			i++
			out = append(out, "--options="+args[i])
		case (arg == "-t" || arg == "-N") && i+1 < len(args):
			i++ // the type is known; namespaces are mount's own affair
		case strings.HasPrefix(arg, "-o") && len(arg) > 2:
			out = append(out, "--options="+arg[2:])
		case arg == "-f": // fake
			return []string{"version", "--json"}, nil
		case strings.HasPrefix(arg, "-") && strings.Trim(arg[1:], "snvrw") == "":
		case strings.HasPrefix(arg, "-"):
			return nil, usagef("unknown option %s", arg)
		default:
			operands = append(operands, arg)
		}
	}
	if len(operands) != 2 {
		return nil, usagef("want what to mount and where")
	}
	if source := operands[0]; !slices.Contains(noSource(), source) {
		out = append(out, "--state="+source)
	}
	return append(out, "--", operands[1]), nil
}
