package main

import (
	"bufio"
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/gc"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

type deleteOptions struct{ referrers, ignoreRoots, compact, dryRun, json bool }

func newDelete(p *process) *cobra.Command {
	var o deleteOptions
	cmd := &cobra.Command{
		Use:   "delete PATH...",
		Short: "Delete store paths",
		Long: "Delete store paths, all or none of them, and print them. A path to which another one refers is not deleted, " +
			"unless that is deleted, too; nor one that a root keeps (narfs roots lists them), as with nix-store --delete. " +
			"--ignore-roots deletes it all the same, even from under those who use it; what sessions hold stays.\n\n" +
			"What is deleted cannot be found any more, but files that are open stay readable. The space comes back with narfs " +
			"compact, or at once with --compact.",
		Args:              operands(1, many),
		ValidArgsFunction: p.completePaths,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withStore(cmd.Context(), use{}, func(ctx context.Context, s *store.Store) error {
				return p.delete(ctx, s, args, o)
			})
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.referrers, "referrers", false, "delete also all that refers to the paths")
	flags.BoolVar(&o.ignoreRoots, "ignore-roots", false, "delete also what roots keep, as --ignore-liveness of nix-store does")
	flags.BoolVar(&o.compact, "compact", false, "give the space back at once")
	flags.BoolVarP(&o.dryRun, "dry-run", "n", false, "only print what would be deleted")
	flags.BoolVar(&o.json, "json", false, "print a JSON list of the paths")
	return cmd
}

// refuseAlive is a *gc.AliveError if a root keeps one of some paths. Otherwise none does before end is called, unless it is
// made by who asks nobody: a collection goes on until then, so that what sessions have held meanwhile counts. A dry run only looks.
func (p *process) refuseAlive(ctx context.Context, s *store.Store, paths []nix.StorePath, o deleteOptions) (end func(), err error) {
	opts, err := gcOptions{}.options(p)
	if err != nil {
		return nil, err
	}
	c := gc.Look(s, opts)
	if !o.dryRun {
		if c, err = gc.Begin(ctx, s, opts); err != nil {
			return nil, err
		}
	}
	plan, err := c.Plan(ctx, false)
	if err == nil {
		err = c.Alive(plan, paths)
	}
	if err == nil {
		return c.Close, nil
	}
	c.Close()
	switch {
	case isA[*gc.AliveError](err):
		err = hint(err, "narfs roots lists what keeps paths; --ignore-roots deletes them all the same")
	case isA[*gc.UnreadableError](err):
		err = hint(err, "see to it that it can be read, or ask for no roots: --ignore-roots")
	}
	return nil, err
}

func (p *process) delete(ctx context.Context, s *store.Store, args []string, o deleteOptions) error {
	paths, err := p.storePaths(s, args)
	if err == nil && o.referrers {
		paths, err = s.ReferrersClosure(paths...)
	}
	if err != nil {
		return err
	}
	paths = nix.SortPaths(paths)
	if !o.ignoreRoots {
		end, err := p.refuseAlive(ctx, s, paths, o)
		if err != nil {
			return err
		}
		defer end()
	}
	bytes := int64(0)
	for _, sp := range paths {
		info, err := s.PathInfo(sp)
		if err != nil {
			return err
		}
		bytes += int64(info.NarSize)
	}
	verb := "would delete"
	if !o.dryRun {
		verb = "deleted"
		if err := s.Delete(ctx, paths...); err != nil {
			return err
		}
	}
	if o.json {
		err = p.printJSON(printed(s.Dir(), paths))
	} else {
		err = buffered(p.stdout, func(w *bufio.Writer) error {
			for _, sp := range paths {
				if _, err := fmt.Fprintln(w, s.Dir().Path(sp)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return err
	}
	switch {
	case o.compact && !o.dryRun:
		return p.compact(ctx, s, compactOptions{remarks: true})
	case o.dryRun:
		p.remark("narfs: %s %s of %s\n", verb, countText(int64(len(paths)), "path"), sizeText(bytes))
	default:
		p.remark("narfs: %s %s of %s; narfs compact gives the space back\n", verb, countText(int64(len(paths)), "path"), sizeText(bytes))
	}
	return nil
}
