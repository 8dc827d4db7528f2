package main

import (
	"bufio"
	"cmp"
	"context"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

type duOptions struct {
	closure, summary, bytes, json bool
	sort                          string
}

func newDu(p *process) *cobra.Command {
	var o duOptions
	cmd := &cobra.Command{
		Use:   "du [PATH...]",
		Short: "Show what store paths occupy",
		Long: "Show what store paths occupy; without a PATH, all of them:\n\n" +
			"  logical  its NAR\n" +
			"  unique   its distinct chunks, decompressed; what it shares with other paths is counted for each\n" +
			"  stored   the same as it is stored, compressed\n\n" +
			"In the total, what paths share is counted once. The store needs some more, which narfs stats tells.",
		Example:           "  narfs du --sort stored\n  narfs du -r a4k2",
		Args:              operands(0, many),
		ValidArgsFunction: p.completePaths,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains([]string{"name", "logical", "unique", "stored"}, o.sort) {
				return usagef("--sort=%s: want name, logical, unique or stored", o.sort)
			}
			return p.withStore(cmd.Context(), use{}, func(ctx context.Context, s *store.Store) error {
				return p.du(ctx, s, args, o)
			})
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.closure, "recursive", "r", false, "show also all that the paths refer to")
	flags.BoolVarP(&o.summary, "summarize", "s", false, "show the total only")
	flags.BoolVarP(&o.bytes, "bytes", "b", false, "show numbers of bytes, not 1.5 KiB")
	flags.StringVar(&o.sort, "sort", "name", "sort by `KEY` name, logical, unique or stored")
	flags.BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

// used is what one path occupies.
type used struct {
	path  nix.StorePath
	usage store.Usage
}

func (p *process) du(ctx context.Context, s *store.Store, args []string, o duOptions) error {
	paths, err := p.storePaths(s, args)
	switch {
	case err != nil:
		return err
	case len(args) == 0:
		err = s.Slots(func(sp nix.StorePath, _ uint32) bool { paths = append(paths, sp); return true })
	case o.closure:
		paths, err = s.Closure(paths...)
	}
	if err != nil {
		return err
	}
	paths = nix.SortPaths(paths)
	all := make([]used, 0, len(paths))
	m := p.meter("du")
	m.setUnit("paths")
	m.setTotal(int64(len(paths)))
	total, err := s.Usage(ctx, paths, func(sp nix.StorePath, u store.Usage) {
		m.add(1)
		all = append(all, used{sp, u})
	})
	m.close()
	if err != nil {
		return err
	}
	sortUsed(all, o.sort)
	if o.json {
		byPath := map[string]store.Usage{}
		for _, u := range all {
			byPath[s.Dir().Path(u.path)] = u.usage
		}
		return p.printJSON(map[string]any{"paths": byPath, "total": total})
	}
	size := sizeText
	if o.bytes {
		size = func(n int64) string { return strconv.FormatInt(n, 10) }
	}
	t := &table{right: []bool{true, true, true, false}}
	t.add("LOGICAL", "UNIQUE", "STORED", "")
	row := func(u store.Usage, name string) { t.add(size(u.Logical), size(u.Unique), size(u.Stored), name) }
	if !o.summary {
		for _, u := range all {
			row(u.usage, s.Dir().Path(u.path))
		}
	}
	row(total, "total of "+countText(int64(len(all)), "path"))
	return buffered(p.stdout, func(w *bufio.Writer) error { return t.write(w) })
}

// sortUsed sorts by name, or by size with the largest last, where the eye is.
func sortUsed(all []used, by string) {
	slices.SortStableFunc(all, func(a, b used) int {
		switch by {
		case "logical":
			return cmp.Compare(a.usage.Logical, b.usage.Logical)
		case "unique":
			return cmp.Compare(a.usage.Unique, b.usage.Unique)
		case "stored":
			return cmp.Compare(a.usage.Stored, b.usage.Stored)
		}
		return a.path.Compare(b.path)
	})
}
