package main

import (
	"bufio"
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

type deleteOptions struct{ referrers, compact, dryRun, json bool }

func newDelete(p *process) *cobra.Command {
	var o deleteOptions
	cmd := &cobra.Command{
		Use:   "delete PATH...",
		Short: "Delete store paths",
		Long: "Delete store paths, all or none of them, and print them. A path to which another one refers is not deleted, " +
			"unless that is deleted, too. Roots do not keep it: narfs gc PATH asks for them.\n\n" +
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
	flags.BoolVar(&o.compact, "compact", false, "give the space back at once")
	flags.BoolVarP(&o.dryRun, "dry-run", "n", false, "only print what would be deleted")
	flags.BoolVar(&o.json, "json", false, "print a JSON list of the paths")
	return cmd
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
