package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/nar"
)

type lsOptions struct {
	long, recursive, all, almostAll, one, directory bool
	human, classify, bySize, reverse                bool
	json, listing                                   bool
	colour                                          string
}

func newLs(p *process) *cobra.Command {
	var o lsOptions
	cmd := &cobra.Command{
		Use:   "ls [PATH...]",
		Short: "List the store, or what is in store paths",
		Long: "List what is in store paths, or, without a PATH, the store paths themselves, as ls does in a mounted store.\n\n" +
			"--json prints what `nix store ls --json` prints, the entries of folders with -R only. --listing prints the listing " +
			"of a whole store path as binary caches keep it (.ls), with the offsets of all files in the NAR.",
		Example:           "  narfs ls -l\n  narfs ls -lR a4k2\n  narfs ls --json -R /nix/store/…-hello/share",
		Args:              operands(0, many),
		ValidArgsFunction: p.completeInside,
		RunE: func(cmd *cobra.Command, args []string) error {
			if (o.json || o.listing) && len(args) > 1 || o.listing && len(args) == 0 {
				return usagef("--json and --listing are for one PATH")
			}
			return p.withStore(cmd.Context(), use{}, func(ctx context.Context, s *store.Store) error {
				return p.ls(ctx, s, args, o)
			})
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.long, "long", "l", false, "show types, sizes and link targets, too")
	flags.BoolVarP(&o.recursive, "recursive", "R", false, "list the folders in folders, too")
	flags.BoolVarP(&o.all, "all", "a", false, "list also names that begin with a dot, and . and ..")
	flags.BoolVarP(&o.almostAll, "almost-all", "A", false, "list also names that begin with a dot")
	flags.BoolVarP(&o.one, "one", "1", false, "list one name a line")
	flags.BoolVarP(&o.directory, "directory", "d", false, "list folders themselves, not what is in them")
	flags.BoolVarP(&o.human, "human-readable", "h", false, "show sizes as 1.5K, 23M")
	flags.Bool("help", false, "help for ls") // cobra would take -h for it
	flags.BoolVarP(&o.classify, "classify", "F", false, "mark folders with /, links with @, programs with *")
	flags.BoolVarP(&o.bySize, "by-size", "S", false, "sort by size, the largest first")
	flags.BoolVarP(&o.reverse, "reverse", "r", false, "sort the other way round")
	flags.BoolVar(&o.json, "json", false, "print JSON, as nix store ls --json does")
	flags.BoolVar(&o.listing, "listing", false, "print the JSON listing of a binary cache")
	flags.StringVar(&o.colour, "color", "auto", "use colours `WHEN` always, never, or auto, on a terminal")
	return cmd
}

// looks says how to show what, on this terminal or file.
func (p *process) looks(o *lsOptions) (look, error) {
	l := look{long: o.long, human: o.human, classify: o.classify, terminal: isTerminal(p.stdout)}
	if l.terminal && !o.one {
		l.width = p.columns(p.stdout)
	}
	switch o.colour {
	case "auto":
		if p.colours(p.stdout) {
			l.colours = parseColours(p.getenv("LS_COLORS"))
		}
	case "always":
		l.colours = parseColours(p.getenv("LS_COLORS"))
	case "never":
	default:
		return l, usagef("--color=%s: want always, never or auto", o.colour)
	}
	return l, nil
}

func (p *process) ls(ctx context.Context, s *store.Store, args []string, o lsOptions) error {
	l, err := p.looks(&o)
	if err != nil {
		return err
	}
	ts, err := p.targets(s, args)
	if err != nil {
		return err
	}
	return buffered(p.stdout, func(w *bufio.Writer) error {
		lister := &lister{s: s, o: o, look: l, w: w}
		switch {
		case o.json || o.listing:
			return lister.json(ctx, ts)
		case len(args) == 0:
			return lister.root(ctx)
		}
		return lister.targets(ctx, ts)
	})
}

// lister writes listings of store paths and of what is in them.
type lister struct {
	s     *store.Store
	o     lsOptions
	look  look
	w     *bufio.Writer
	begun bool // something was written
}

// rootEntries returns the valid paths.
func (l *lister) rootEntries(ctx context.Context) ([]entry, error) {
	var entries []entry
	for info, err := range l.s.All() {
		if err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		e := entry{name: info.Path.BaseName(), typ: nar.TypeDirectory, size: -1}
		if l.o.long || l.o.bySize || l.o.classify || l.look.colours != nil {
			slot, err := l.s.Slot(info.Path)
			if err != nil {
				continue // deleted meanwhile
			}
			_, top, err := l.s.BySlot(slot)
			if err != nil {
				continue
			}
			e.typ, e.executable = nar.Type(top.Type), top.Executable
			e.size, e.time = int64(info.NarSize), time.Unix(info.RegistrationTime, 0)
		}
		entries = append(entries, e)
	}
	order(entries, l.o.bySize, l.o.reverse)
	return entries, nil
}

// root lists the store.
func (l *lister) root(ctx context.Context) error {
	if l.o.directory {
		return l.look.write(l.w, []entry{{name: string(l.s.Dir()), typ: nar.TypeDirectory, size: -1}})
	}
	entries, err := l.rootEntries(ctx)
	if err != nil {
		return err
	}
	if l.o.recursive {
		if err := l.header(string(l.s.Dir())); err != nil {
			return err
		}
	}
	if err := l.look.write(l.w, entries); err != nil || !l.o.recursive {
		return err
	}
	for _, e := range entries {
		sp, err := nix.ParseBaseName(e.name)
		if err != nil {
			return err
		}
		n, err := opened(l.s, sp)
		if errors.Is(err, store.ErrNotValid) {
			continue // deleted meanwhile
		}
		if err != nil {
			return err
		}
		if n.tree.Type(0) == nar.TypeDirectory {
			err = l.directory(ctx, n.tree, 0, l.s.Dir().Path(sp))
		}
		n.close()
		if err != nil {
			return err
		}
	}
	return nil
}

// targets lists what arguments name: first what is no folder, then what is in each folder.
func (l *lister) targets(ctx context.Context, ts []target) error {
	var files []entry
	var dirs []target
	for _, t := range ts {
		n, err := l.named(t)
		if err != nil {
			return err
		}
		if n.tree.Type(n.index) == nar.TypeDirectory && !l.o.directory {
			dirs = append(dirs, t)
		} else {
			files = append(files, entryOf(n.tree, n.index, t.arg))
		}
		n.close()
	}
	order(files, l.o.bySize, l.o.reverse)
	if len(files) > 0 {
		if err := l.look.write(l.w, files); err != nil {
			return err
		}
		l.begun = true
	}
	for _, t := range dirs {
		if err := l.targetDirectory(ctx, t, len(ts) > 1 || l.o.recursive); err != nil {
			return err
		}
	}
	return nil
}

func (l *lister) targetDirectory(ctx context.Context, t target, header bool) error {
	n, err := l.named(t)
	if err != nil {
		return err
	}
	defer n.close()
	name := strings.TrimRight(t.arg, "/")
	if l.o.recursive {
		return l.directory(ctx, n.tree, n.index, name)
	}
	if header {
		if err := l.header(name); err != nil {
			return err
		}
	}
	return l.look.write(l.w, l.entries(n.tree, n.index))
}

// named finds what an argument names. As ls does, it looks through a link to a folder unless that itself is wanted.
func (l *lister) named(t target) (*node, error) {
	n, err := walk(l.s, t, false)
	if err != nil || n.tree.Type(n.index) != nar.TypeSymlink || l.o.long || l.o.directory {
		return n, err
	}
	to, err := walk(l.s, t, true)
	if err != nil {
		return n, nil //nolint:nilerr // a link that leads nowhere is shown as such
	}
	if to.tree.Type(to.index) != nar.TypeDirectory {
		to.close()
		return n, nil
	}
	n.close()
	return to, nil
}

// header begins the listing of one folder of several.
func (l *lister) header(name string) error {
	sep := ""
	if l.begun {
		sep = "\n"
	}
	l.begun = true
	_, err := fmt.Fprintf(l.w, "%s%s:\n", sep, name)
	return err
}

// entries returns what is to be listed of a directory.
func (l *lister) entries(t *nar.Tree, dir uint32) []entry {
	first, n := t.Children(dir)
	entries := make([]entry, 0, n+2)
	for i := first; i < first+n; i++ {
		name := t.Name(i)
		if name[0] != '.' || l.o.all || l.o.almostAll {
			entries = append(entries, entryOf(t, i, name))
		}
	}
	order(entries, l.o.bySize, l.o.reverse)
	if l.o.all {
		dots := []entry{{name: ".", typ: nar.TypeDirectory, size: -1}, {name: "..", typ: nar.TypeDirectory, size: -1}}
		entries = append(dots, entries...)
	}
	return entries
}

// directory lists a directory and those in it.
func (l *lister) directory(ctx context.Context, t *nar.Tree, dir uint32, name string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := l.header(name); err != nil {
		return err
	}
	entries := l.entries(t, dir)
	if err := l.look.write(l.w, entries); err != nil {
		return err
	}
	for _, e := range entries {
		if e.typ != nar.TypeDirectory || e.name == "." || e.name == ".." {
			continue
		}
		i, _ := t.Lookup(dir, e.name)
		if err := l.directory(ctx, t, i, name+"/"+e.name); err != nil {
			return err
		}
	}
	return nil
}

// json writes JSON about one target, or about the store.
func (l *lister) json(ctx context.Context, ts []target) error {
	if len(ts) == 0 {
		return l.rootJSON(ctx)
	}
	n, err := walk(l.s, ts[0], false)
	if err != nil {
		return err
	}
	defer n.close()
	if l.o.listing {
		if n.index != 0 {
			return usagef("--listing is for a whole store path")
		}
		err = nar.WriteListing(l.w, n.tree)
	} else {
		err = writeNodeJSON(l.w, n.tree, n.index, l.o.recursive, !l.o.directory)
	}
	if err != nil {
		return err
	}
	return l.w.WriteByte('\n')
}

// rootJSON shows the store as if it were a folder in a store path.
func (l *lister) rootJSON(ctx context.Context) error {
	entries, err := l.rootEntries(ctx)
	if err != nil {
		return err
	}
	_, _ = l.w.WriteString(`{"type":"directory","entries":{`) // the writer keeps its first error
	for i, e := range entries {
		if i > 0 {
			_ = l.w.WriteByte(',')
		}
		_, _ = fmt.Fprintf(l.w, `"%s":`, e.name) // nothing in it needs escaping
		if !l.o.recursive {
			_, _ = l.w.WriteString("{}")
			continue
		}
		sp, err := nix.ParseBaseName(e.name)
		if err != nil {
			return err
		}
		n, err := opened(l.s, sp)
		if err == nil {
			err = writeNodeJSON(l.w, n.tree, 0, true, true)
			n.close()
		}
		if err != nil {
			return err
		}
	}
	_, err = l.w.WriteString("}}\n")
	return err
}
