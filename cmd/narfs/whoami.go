package main

import (
	"bufio"
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
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
	st := p.keeper.store
	if asJSON {
		return p.printJSON(identity{who.JSON(), st.Dir(), st.StateDir(), os.Getpid()})
	}
	return buffered(p.stdout, func(w *bufio.Writer) error {
		if err := who.Print(w); err != nil {
			return err
		}
		_, err := fmt.Fprintf(w, "store    %s in %s, owned by process %d\n", st.Dir(), st.StateDir(), os.Getpid())
		return err
	})
}

// identity is what narfs whoami --json prints.
type identity struct {
	acl.AccessJSON

	StoreDir nix.StoreDir `json:"storeDir"`
	StateDir string       `json:"stateDir"`
	Owner    int          `json:"owner"` // the process that has the store open
}
