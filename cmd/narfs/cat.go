package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/nar"
)

func newCat(p *process) *cobra.Command {
	return &cobra.Command{
		Use:               "cat PATH...",
		Short:             "Print the contents of files in the store",
		Long:              "Print the contents of files in the store, one after the other. Links are followed, also from one store path to another.",
		Example:           "  narfs cat a4k2/share/doc/README",
		Args:              operands(1, many),
		ValidArgsFunction: p.completeInside,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withStore(cmd.Context(), use{}, func(ctx context.Context, s *store.Store) error {
				ts, err := p.targets(s, args)
				if err != nil {
					return err
				}
				for _, t := range ts {
					if err := catTarget(ctx, s, t, p.stdout); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func catTarget(ctx context.Context, s *store.Store, t target, w io.Writer) error {
	n, err := walk(s, t, true)
	if err != nil {
		return err
	}
	defer n.close()
	if typ := n.tree.Type(n.index); typ != nar.TypeRegular {
		return fmt.Errorf("path '%s' is a %s, not a regular file", t.arg, typ)
	}
	return n.copyTo(ctx, w)
}

// catBuffer is how much is read at once; a multiple of the usual frame.
const catBuffer = 512 << 10

// copyTo writes the contents of a regular file.
func (n *node) copyTo(ctx context.Context, w io.Writer) error {
	size := n.tree.Size(n.index)
	buf := make([]byte, min(size, catBuffer))
	for off := int64(0); off < size; off += int64(len(buf)) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		buf = buf[:min(size-off, catBuffer)]
		if _, err := n.content.ReadAt(n.index, buf, off); err != nil {
			return err
		}
		if _, err := w.Write(buf); err != nil {
			return err
		}
	}
	return nil
}
