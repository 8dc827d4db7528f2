package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// What narfs exits with.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// usageError says that the command line, not the work, was wrong.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// exitError is a command's end with a code other than 0, about which everything has been said.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// run carries out one command line, without the program's name, and returns what the process exits with. It ends early when
// ctx is done.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return newProcess(args, stdin, stdout, stderr).run(ctx)
}

func (p *process) run(ctx context.Context) int {
	if code, done := p.completeElsewhere(ctx); done {
		return code
	}
	root := newRoot(p) //nolint:contextcheck // the commands get theirs when they run
	root.SetArgs(p.args)
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	markUsageErrors(root)
	cmd, err := root.ExecuteContextC(ctx)
	return p.exitCode(ctx, cmd, err)
}

// exitCode says what was wrong, and returns what to exit with.
func (p *process) exitCode(ctx context.Context, cmd *cobra.Command, err error) int {
	var exit *exitError
	var usage *usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &exit):
		return exit.code
	case isBrokenPipe(err):
		return exitFailed // who read our output has had enough; there is nobody to tell
	case ctx.Err() != nil:
		p.say("narfs: %v\n", interruption(ctx))
		return exitInterrupted
	case errors.As(err, &usage):
		p.say("narfs: %v\nRun '%s --help' for the usage.\n", err, cmd.CommandPath())
		return exitUsage
	}
	p.say("narfs: %v\n", err)
	if hint := hintFor(err); hint != "" {
		p.say("hint: %s\n", hint)
	}
	return exitFailed
}

// say writes to the error output, where nothing can be done about errors.
func (p *process) say(format string, args ...any) { _, _ = fmt.Fprintf(p.stderr, format, args...) }

func newRoot(p *process) *cobra.Command {
	root := &cobra.Command{
		Use:   "narfs",
		Short: "A Nix store of deduplicated chunks that you can mount",
		Long: "narfs keeps Nix store paths as deduplicated chunks and shows them as a file system.\n\n" +
			"Where a command wants a PATH of the store, it may be written in full, without the store directory, or as the " +
			"first characters of its hash, as long as they are unambiguous; a path inside a mounted store and a link to a " +
			"store path will do, too. Most commands also take what is inside a store path: PATH/bin/hello.\n\n" +
			"Only one process can have a store open. Where one has it open already, a mount for example, commands hand " +
			"themselves over to it.\n\n" +
			"Exit codes: 0 done, 1 failed, 2 the command line was wrong, 130 interrupted, and 100 to 111 those of narfs build.",
		Version:       version(),
		SilenceErrors: true, // exitCode prints them
		SilenceUsage:  true,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&p.state, "state", "", "`DIR` with the state of the store (default $"+envState+", else "+defaultStateText+")")
	flags.StringVar(&p.storeDir, "store-dir", "", "`DIR` that store paths are in, for a new store (default $"+envStoreDir+", else /nix/store)")
	flags.BoolVarP(&p.quiet, "quiet", "q", false, "no progress and no remarks, only errors")
	flags.BoolVar(&p.showProgress, "progress", false, "show progress even where the error output is no terminal")
	flags.BoolVarP(&p.verbose, "verbose", "v", false, "say more about what happens")
	for _, g := range groups() {
		root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		for _, add := range g.commands {
			cmd := add(p)
			cmd.GroupID = g.id
			root.AddCommand(cmd)
		}
	}
	root.SetHelpCommandGroupID(groupPlumbing)
	root.SetCompletionCommandGroupID(groupPlumbing)
	help := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		cmd.Long = wrap(cmd.Long, min(p.columns(p.stdout), widest))
		help(cmd, args)
	})
	root.SetVersionTemplate("{{.DisplayName}} {{.Version}}\n")
	root.AddCommand(newMountHelper(p))
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if p.guest {
			return p.mayGuest(cmd)
		}
		return nil
	}
	return root
}

// group is a paragraph of narfs --help.
type group struct {
	id, title string
	commands  []func(*process) *cobra.Command
}

const groupPlumbing = "plumbing"

func groups() []group {
	type list = []func(*process) *cobra.Command
	return []group{
		{"store", "The store:", list{newAdd, newImport, newExport, newCopy, newMigrate, newDelete, newGC, newRoots, newSign, newKeys}},
		{"look", "Looking around:", list{newLs, newTree, newCat, newInfo, newDu, newStats}},
		{"build", "Building:", list{newBuild, newLog}},
		{"mount", "Mounting:", list{newMount, newUmount}},
		{"daemon", "Serving others:", list{newDaemon, newServe, newSessions, newLocks, newWhoami, newConfig}},
		{"care", "Taking care:", list{newVerify, newRepair, newCompact, newDoctor}},
		{groupPlumbing, "Plumbing:", list{newDump, newRestore, newHash, newVersion, newMan}},
	}
}

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
			if cmd.RunE == nil {
				// Cobra looks at the arguments of a command only if it can be run.
				cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
				cmd.DisableFlagsInUseLine = true
			}
		case cmd.Name() == "help":
			check = knownCommand
		case check == nil:
			check = operands(0, 0)
		}
		cmd.Args = func(cmd *cobra.Command, args []string) error { return mark(check(cmd, args)) }
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(root)
}

// many is no limit for operands.
const many = 1 << 30

// operands takes so many arguments.
func operands(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		_, want, _ := strings.Cut(cmd.Use, " ")
		switch {
		case len(args) < least:
			return fmt.Errorf("%s wants %s", cmd.Name(), want)
		case len(args) > most:
			return fmt.Errorf("unexpected argument %q", args[most])
		}
		return nil
	}
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
