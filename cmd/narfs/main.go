package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// What narfs exits with.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// usageError says that the command line, not the work, was wrong.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// run carries out one command line, without the program's name, and returns
// what the process exits with. It ends early when ctx is done.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	markUsageErrors(root)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	_, _ = fmt.Fprintf(stderr, "narfs: %v\n", err)
	if usage := (*usageError)(nil); errors.As(err, &usage) {
		_, _ = fmt.Fprintf(stderr, "Run '%s --help' for the usage.\n", cmd.CommandPath())
		return exitUsage
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "narfs",
		Short: "A Nix store of deduplicated chunks that you can mount",
		Long: "narfs keeps Nix store paths as deduplicated chunks and shows them as a file system.\n\n" +
			"Exit codes: 0 done, 1 failed, 2 the command line was wrong.",
		Version:       version(),
		SilenceErrors: true, // run prints them
		SilenceUsage:  true,
	}
	root.AddGroup(&cobra.Group{ID: groupPlumbing, Title: "Plumbing:"})
	root.SetHelpCommandGroupID(groupPlumbing)
	root.SetCompletionCommandGroupID(groupPlumbing)
	root.SetVersionTemplate("{{.DisplayName}} {{.Version}}\n")
	root.AddCommand(newVersion(), newMan())
	return root
}

// The groups of narfs --help. A group is added to the root with its first
// command: cobra prints the title of an empty one.
const (
	groupPlumbing = "plumbing"
)

// markUsageErrors makes a usageError of every error that cobra meets before a
// command begins its work: unknown commands and flags, wrong numbers of
// arguments. A command without Args takes none.
func markUsageErrors(root *cobra.Command) {
	mark := func(err error) error {
		if err == nil {
			return nil
		}
		return &usageError{err}
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return mark(err) })
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		check := cmd.Args
		switch {
		case cmd.HasSubCommands():
			check = unknownCommand
			// Cobra looks at the arguments of a command only if it can be run.
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			cmd.DisableFlagsInUseLine = true
		case cmd.Name() == "help":
			check = knownCommand
		case check == nil:
			check = cobra.NoArgs
		}
		cmd.Args = func(cmd *cobra.Command, args []string) error { return mark(check(cmd, args)) }
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(root)
}

// knownCommand takes the name of a command, which may be of several words.
func knownCommand(cmd *cobra.Command, args []string) error {
	if found, rest, err := cmd.Root().Find(args); err != nil || len(rest) > 0 {
		return unknownCommand(found, rest)
	}
	return nil
}

// unknownCommand refuses the arguments of a command that only holds others.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.SuggestionsMinimumDistance == 0 {
		cmd.SuggestionsMinimumDistance = 2 // as cobra has it
	}
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
		return fmt.Errorf("unknown command %q (did you mean %q?)", args[0], like[0])
	}
	return fmt.Errorf("unknown command %q", args[0])
}
