package main

import (
	"bufio"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/nar"
)

func newTree(p *process) *cobra.Command {
	var o treeOptions
	cmd := &cobra.Command{
		Use:               "tree [PATH...]",
		Short:             "Show what is in store paths as a tree",
		Long:              "Show what is in store paths, or in folders in them, as a tree; without a PATH, of all of the store.",
		Example:           "  narfs tree -L 2 a4k2",
		Args:              operands(0, many),
		ValidArgsFunction: p.completeInside,
		RunE: func(cmd *cobra.Command, args []string) error {
			ls := lsOptions{long: true, recursive: true, json: true, colour: o.colour}
			if o.json && len(args) > 1 {
				return usagef("--json is for one PATH")
			}
			return p.withStore(cmd.Context(), use{}, func(ctx context.Context, s *store.Store) error {
				if o.json {
					return p.ls(ctx, s, args, ls)
				}
				return p.tree(ctx, s, args, o)
			})
		},
	}
	flags := cmd.Flags()
	flags.IntVarP(&o.levels, "levels", "L", 0, "descend only so many levels (default all)")
	flags.BoolVarP(&o.all, "all", "a", false, "show also names that begin with a dot")
	flags.BoolVarP(&o.dirs, "dirs", "d", false, "show folders only")
	flags.BoolVarP(&o.sizes, "sizes", "s", false, "show the sizes of files")
	flags.BoolVar(&o.json, "json", false, "print JSON, as nix store ls --json -R does")
	flags.StringVar(&o.colour, "color", "auto", "use colours `WHEN` always, never, or auto, on a terminal")
	return cmd
}

type treeOptions struct {
	levels                 int
	all, dirs, sizes, json bool
	colour                 string
}

func (p *process) tree(ctx context.Context, s *store.Store, args []string, o treeOptions) error {
	if o.levels < 0 {
		return usagef("-L %d: want a number above 0", o.levels)
	}
	l, err := p.looks(&lsOptions{colour: o.colour})
	if err != nil {
		return err
	}
	ts, err := p.targets(s, args)
	if err != nil {
		return err
	}
	return buffered(p.stdout, func(w *bufio.Writer) error {
		d := &drawing{o: o, look: l, w: w}
		if len(args) == 0 {
			err = d.root(ctx, s)
		}
		for _, t := range ts {
			if err == nil {
				err = d.target(ctx, s, t)
			}
		}
		if err != nil {
			return err
		}
		folders := countText(d.folders, "folder")
		if o.dirs {
			_, err = fmt.Fprintf(w, "\n%s\n", folders)
		} else {
			_, err = fmt.Fprintf(w, "\n%s, %s\n", folders, countText(d.files, "file"))
		}
		return err
	})
}

// drawing draws trees.
type drawing struct {
	o              treeOptions
	look           look
	w              *bufio.Writer
	folders, files int64
}

func (d *drawing) root(ctx context.Context, s *store.Store) error {
	entries, err := (&lister{s: s}).rootEntries(ctx)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(d.w, s.Dir()); err != nil {
		return err
	}
	for i, e := range entries {
		t, err := (&process{}).target(s, e.name)
		if err != nil {
			continue // deleted meanwhile
		}
		n, err := walk(s, t, false)
		if err != nil {
			return err
		}
		err = d.entry(ctx, n.tree, n.index, entryOf(n.tree, n.index, e.name), "", i == len(entries)-1, 1)
		n.close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *drawing) target(ctx context.Context, s *store.Store, t target) error {
	n, err := walk(s, t, false)
	if err != nil {
		return err
	}
	defer n.close()
	e := entryOf(n.tree, n.index, strings.TrimRight(t.arg, "/"))
	if err := d.line("", &e); err != nil {
		return err
	}
	return d.below(ctx, n.tree, n.index, "", 1)
}

// below draws what is in a directory.
func (d *drawing) below(ctx context.Context, t *nar.Tree, dir uint32, indent string, level int) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if d.o.levels > 0 && level > d.o.levels {
		return nil
	}
	first, n := t.Children(dir)
	shown := make([]uint32, 0, n)
	for i := first; i < first+n; i++ {
		if (t.Name(i)[0] != '.' || d.o.all) && (t.Type(i) == nar.TypeDirectory || !d.o.dirs) {
			shown = append(shown, i)
		}
	}
	for k, i := range shown {
		if err := d.entry(ctx, t, i, entryOf(t, i, t.Name(i)), indent, k == len(shown)-1, level); err != nil {
			return err
		}
	}
	return nil
}

func (d *drawing) entry(ctx context.Context, t *nar.Tree, i uint32, e entry, indent string, last bool, level int) error {
	branch, further := "├── ", "│   "
	if last {
		branch, further = "└── ", "    "
	}
	if e.typ == nar.TypeDirectory {
		d.folders++
	} else {
		d.files++
	}
	if err := d.line(indent+branch, &e); err != nil {
		return err
	}
	return d.below(ctx, t, i, indent+further, level+1)
}

func (d *drawing) line(prefix string, e *entry) error {
	name, _ := d.look.name(e)
	if e.typ == nar.TypeSymlink {
		to := e.target
		if d.look.terminal {
			to = printable(to)
		}
		name += " -> " + to
	}
	if d.o.sizes && e.typ == nar.TypeRegular {
		name = fmt.Sprintf("[%5s]  %s", shortSize(e.size), name)
	}
	_, err := fmt.Fprintln(d.w, prefix+name)
	return err
}
