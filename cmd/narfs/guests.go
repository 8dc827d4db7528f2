package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/narfs/narfs/daemon/acl"
)

// guestRule says who may have the owner do a command that is not his own user, and with which flags beside those of all
// commands. No flag here names a file, and neither does an operand of these commands that abs has not refused: the owner can
// read what the guest cannot.
type guestRule struct {
	need  acl.Permission
	flags []string
}

// guestCommands are the commands for other users than the owner's.
func guestCommands() map[string]guestRule {
	return map[string]guestRule{
		"build":         {acl.Build, []string{"check", "cores", "dry-run", "json", "keep-failed", "keep-going", "max-jobs", "max-silent-time", "option", "out-link", "print-build-logs", "timeout"}},
		"cat":           {acl.Query, nil},
		"daemon":        {acl.Query, []string{"stdio"}}, // without it, it only says who the owner is
		"du":            {acl.Query, []string{"bytes", "json", "recursive", "sort", "summarize"}},
		"dump":          {acl.Query, nil},
		"export":        {acl.Query, []string{"recursive"}},
		"gc":            {acl.Collect, []string{"dry-run", "json", "keep-since", "max-freed", "no-compact", "print"}},
		"import":        {acl.Add, []string{"compression"}},
		"info":          {acl.Query, []string{"closure-size", "json", "json-format", "recursive", "referrers"}},
		"locks":         {acl.Query, []string{"json"}},
		"log":           {acl.Query, nil},
		"ls":            {acl.Query, []string{"all", "almost-all", "by-size", "classify", "color", "directory", "human-readable", "json", "listing", "long", "one", "recursive", "reverse"}},
		"roots":         {acl.Query, []string{"json"}},
		"roots list":    {acl.Query, []string{"json"}},
		"serve":         {acl.Query, []string{"compression", "write"}},
		"sessions":      {acl.Query, []string{"json"}},
		"sessions kill": {acl.Query, nil},
		"stats":         {acl.Query, []string{"bytes", "json"}},
		"tree":          {acl.Query, []string{"all", "color", "dirs", "json", "levels", "sizes"}},
		"verify":        {acl.Query, []string{"json", "quick"}},
		"version":       {acl.Query, []string{"json"}},
		"whoami":        {acl.Query, []string{"json"}},

		cobra.ShellCompRequestCmd:       {acl.Query, nil},
		cobra.ShellCompNoDescRequestCmd: {acl.Query, nil},
	}
}

// mayGuest decides whether a guest may have a command done here.
func (p *process) mayGuest(cmd *cobra.Command) error {
	_, name, _ := strings.Cut(cmd.CommandPath(), " ")
	rule, ok := guestCommands()[name]
	if !ok {
		instead := map[string]string{
			"copy":   "copy from the other side: narfs --state DIR copy --from " + p.keeper.store.StateDir() + " PATH",
			"delete": "narfs gc PATH deletes it, if nothing keeps it",
		}
		return hint(fmt.Errorf("narfs %s is not done for other users", name), cmp.Or(instead[name], "run it as the user whose store it is"))
	}
	if err := p.access.May(rule.need); err != nil {
		return err
	}
	var wrong error
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if cmd.Root().PersistentFlags().Lookup(f.Name) == nil && !slices.Contains(rule.flags, f.Name) {
			wrong = fmt.Errorf("narfs %s --%s is not done for other users", name, f.Name)
		}
	})
	return wrong
}
