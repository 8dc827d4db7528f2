package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

func newExport(p *process) *cobra.Command {
	var closure bool
	cmd := &cobra.Command{
		Use:               "export PATH...",
		Short:             "Export store paths, for narfs import and nix-store --import",
		Long:              "Write store paths to the standard output, as nix-store --export does. Who imports them must have what they refer to, unless it comes with them: -r.",
		Example:           "  narfs export -r a4k2 | ssh host nix-store --import",
		Args:              operands(1, many),
		ValidArgsFunction: p.completePaths,
		RunE: func(cmd *cobra.Command, args []string) error {
			if isTerminal(p.stdout) {
				return hint(errors.New("an export is not for a terminal"), "narfs export PATH >FILE")
			}
			return p.withStore(cmd.Context(), use{}, func(ctx context.Context, s *store.Store) error {
				paths, err := p.storePaths(s, args)
				if err == nil && closure {
					paths, err = s.Closure(paths...)
				}
				if err != nil {
					return err
				}
				m := p.meter("export")
				defer m.close()
				if err := m.expect(s, paths); err != nil {
					return err
				}
				return s.ExportStream(ctx, m.writer(p.wideOut()), paths...)
			})
		},
	}
	cmd.Flags().BoolVarP(&closure, "recursive", "r", false, "export also all that the paths refer to")
	return cmd
}

// expect says that the NARs of some paths are to come.
func (m *meter) expect(s *store.Store, paths []nix.StorePath) error {
	if m == nil {
		return nil
	}
	total := int64(0)
	for _, sp := range paths {
		info, err := s.PathInfo(sp)
		if err != nil {
			return err
		}
		total += int64(info.NarSize)
	}
	m.setTotal(total)
	return nil
}
