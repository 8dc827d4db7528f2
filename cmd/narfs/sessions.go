package main

import (
	"bufio"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/session"
	"github.com/narfs/narfs/daemon/store"
)

func newSessions(p *process) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "sessions",
		Short: "Show who uses the store",
		Long: "Show the clients of the process that owns the store: who they are, where they come from as far as they say, what they " +
			"do, and the bytes that they have sent and received.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.withStore(cmd.Context(), use{}, func(context.Context, *store.Store) error { return p.listSessions(asJSON) })
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON list")
	cmd.AddCommand(newSessionsKill(p))
	return cmd
}

// ago says how long something has lasted, in a few characters.
func ago(since time.Time) string {
	d := time.Since(since)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d d", int(d.Hours()/24))
}

// otherSessions returns the sessions but for the one that asks.
func (p *process) otherSessions() []session.Info {
	if p.keeper.daemon == nil {
		return nil
	}
	list := []session.Info{}
	for _, s := range p.keeper.daemon.Sessions().List() {
		if p.session == nil || s.ID != p.session.ID() {
			list = append(list, s)
		}
	}
	return list
}

// budgetTaken returns what the sessions have of their budget.
func (p *process) budgetTaken() int64 {
	if p.keeper.daemon == nil {
		return 0
	}
	return p.keeper.daemon.Sessions().Budget().Taken()
}

func (p *process) listSessions(asJSON bool) error {
	list := p.otherSessions()
	if asJSON {
		return p.printJSON(list)
	}
	if p.session == nil {
		p.remark("narfs: no other process has the store open\n")
		return nil
	}
	t := table{right: []bool{true, false, false, true, true, true, false}}
	t.add("ID", "USER", "FROM", "SINCE", "RECEIVED", "SENT", "DOING")
	for _, s := range list {
		from := s.From
		if from == "" && s.PID != 0 {
			from = "process " + strconv.Itoa(s.PID)
		}
		t.add(strconv.FormatUint(s.ID, 10), printable(s.User), from, ago(s.Since), sizeText(s.Received), sizeText(s.Sent), printable(s.Doing))
	}
	return buffered(p.stdout, func(w *bufio.Writer) error { return t.write(w) })
}

func newSessionsKill(p *process) *cobra.Command {
	return &cobra.Command{
		Use:   "kill ID...",
		Short: "End sessions",
		Long: "End sessions, as their clients' hanging up would: their locks and pins go, and what they had not finished leaves no " +
			"trace. Users end their own sessions, trusted users those of all.",
		Args: operands(1, many),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withStore(cmd.Context(), use{}, func(ctx context.Context, _ *store.Store) error {
				for _, arg := range args {
					id, err := strconv.ParseUint(arg, 10, 64)
					if err != nil {
						return usagef("%q is not the number of a session", arg)
					}
					if p.session == nil || id == p.session.ID() {
						return fmt.Errorf("session %d: %w", id, session.ErrNoSession)
					}
					if err := p.keeper.daemon.Sessions().Kill(ctx, id, p.access); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func newLocks(p *process) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "locks",
		Short: "Show the locks of store paths",
		Long:  "Show the locks of store paths: who holds each, since when, and who waits for it.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.withStore(cmd.Context(), use{}, func(_ context.Context, s *store.Store) error { return p.listLocks(s, asJSON) })
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON list")
	return cmd
}

func (p *process) listLocks(s *store.Store, asJSON bool) error {
	locks := s.Locks()
	if asJSON {
		type info struct {
			Path    string    `json:"path"`
			Holder  string    `json:"holder"`
			Since   time.Time `json:"since"`
			Waiters []string  `json:"waiters"`
		}
		list := make([]info, 0, len(locks))
		for _, l := range locks {
			list = append(list, info{s.Dir().Path(l.Path), l.Holder, l.Since, append([]string{}, l.Waiters...)})
		}
		return p.printJSON(list)
	}
	if len(locks) == 0 {
		return nil
	}
	t := table{right: []bool{false, false, true, false}}
	t.add("PATH", "HOLDER", "SINCE", "WAITING")
	for _, l := range locks {
		t.add(l.Path.BaseName(), printable(l.Holder), ago(l.Since), printable(strings.Join(l.Waiters, ", ")))
	}
	return buffered(p.stdout, func(w *bufio.Writer) error { return t.write(w) })
}
