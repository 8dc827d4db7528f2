package main

import (
	"bufio"
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/daemon/store"
)

func newWhoami(p *process) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "whoami",
		Short: "Show who you are to the store, and what you may do",
		Long: "Show the user and the groups that the owner of the store takes you for, whether it trusts you, and why. Where no " +
			"process owns the store, that is what a daemon started by you would say.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.withStore(cmd.Context(), use{creates: true}, func(context.Context, *store.Store) error { return p.whoami(asJSON) })
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (p *process) whoami(asJSON bool) error {
	who := p.access
	if p.session == nil {
		settings, err := p.loadSettings()
		if err != nil {
			return err
		}
		who = settings.Access(acl.Peer{PID: os.Getpid(), UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), HasGID: true})
	}
	if asJSON {
		return p.printJSON(who.JSON())
	}
	return buffered(p.stdout, func(w *bufio.Writer) error { return who.Print(w) })
}
