package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/store"
)

type compactOptions struct{ recompress, dryRun, json, remarks bool }

func newCompact(p *process) *cobra.Command {
	var o compactOptions
	cmd := &cobra.Command{
		Use:   "compact",
		Short: "Give the space of deleted paths back to the disk",
		Long: "Give the space of deleted paths back to the disk. With --recompress, also compress well what was compressed " +
			"quickly when it was imported.\n\nThe store can be used meanwhile, and an interruption does no harm.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.withStore(cmd.Context(), use{}, func(ctx context.Context, s *store.Store) error {
				return p.compact(ctx, s, o)
			})
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.recompress, "recompress", false, "compress well what is compressed lightly")
	flags.BoolVarP(&o.dryRun, "dry-run", "n", false, "only tell what would come back")
	flags.BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

func (p *process) compact(ctx context.Context, s *store.Store, o compactOptions) error {
	p.keeper.views.letGo(ctx)
	m := p.meter("compact")
	m.setUnit("packs")
	res, err := s.Sweep(ctx, store.SweepOptions{
		DryRun: o.dryRun, Compress: o.recompress,
		Progress: func(done, total int) { m.set(int64(done), int64(total)) },
	})
	m.close()
	if err != nil {
		return err
	}
	if o.json {
		return p.printJSON(res)
	}
	verb := "gave back"
	if o.dryRun {
		verb = "would give back"
	}
	text := fmt.Sprintf("%s %s: %s, %s", verb, sizeText(res.Freed), countText(res.Chunks, "dead chunk"), countText(res.Packs, "pack"))
	if res.Moved > 0 {
		text += fmt.Sprintf("; wrote %s again", sizeText(res.Moved))
	}
	if o.remarks { // something else is the result
		p.remark("narfs: %s\n", text)
		return nil
	}
	_, err = fmt.Fprintln(p.stdout, text)
	return err
}
