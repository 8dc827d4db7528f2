package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/daemon/gc"
	"github.com/narfs/narfs/daemon/store"
)

func newRoots(p *process) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "roots",
		Short: "Show what keeps store paths from narfs gc, and add to it",
		Long: "Show the roots of the garbage collector: links in gcroots and profiles of the state directory (direct), links elsewhere that " +
			"those name (indirect), what sessions hold (session) and what running processes use (process). They keep the store " +
			"paths that they name, and all that these refer to.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.withStore(cmd.Context(), use{}, func(ctx context.Context, s *store.Store) error { return p.listRoots(ctx, s, asJSON) })
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON list")
	cmd.AddCommand(newRootsList(p), newRootsAdd(p), newRootsRemove(p))
	return cmd
}

// newRootsList is newRoots by a name that people expect.
func newRootsList(p *process) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Show the roots, as narfs roots does",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.withStore(cmd.Context(), use{}, func(ctx context.Context, s *store.Store) error { return p.listRoots(ctx, s, asJSON) })
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON list")
	return cmd
}

func (p *process) listRoots(ctx context.Context, s *store.Store, asJSON bool) error {
	opts, err := gcOptions{ignoreUnreadable: true}.options(p)
	if err != nil {
		return err
	}
	roots, err := gc.FindRoots(ctx, s, opts, false)
	if err != nil {
		return err
	}
	for i := range roots {
		roots[i] = p.censored(roots[i])
	}
	slices.SortFunc(roots, func(a, b gc.Root) int {
		return cmpAll(strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.Name, b.Name), a.Path.Compare(b.Path))
	})
	roots = slices.Compact(roots)
	if asJSON {
		type root struct {
			Path string  `json:"path"`
			Kind gc.Kind `json:"kind"`
			Name string  `json:"name"`
		}
		list := make([]root, 0, len(roots))
		for _, r := range roots {
			list = append(list, root{s.Dir().Path(r.Path), r.Kind, r.Name})
		}
		return p.printJSON(list)
	}
	return buffered(p.stdout, func(w *bufio.Writer) error {
		for _, r := range roots {
			if _, err := fmt.Fprintf(w, "%-8s  %s -> %s\n", r.Kind, printable(r.Name), s.Dir().Path(r.Path)); err != nil {
				return err
			}
		}
		return nil
	})
}

// censored is a root as the user may see it. What processes of others run, and who has which session, is nothing for users whom
// the daemon does not trust; Nix hides it by the same word.
func (p *process) censored(r gc.Root) gc.Root {
	if p.guest && p.access.Level != acl.Trusted && (r.Kind == gc.Runtime || r.Kind == gc.Temp) {
		r.Name = "{censored}"
	}
	return r
}

// cmpAll returns the first comparison that decides.
func cmpAll(results ...int) int {
	for _, c := range results {
		if c != 0 {
			return c
		}
	}
	return 0
}

func newRootsAdd(p *process) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:               "add PATH...",
		Short:             "Keep store paths from narfs gc",
		Long:              "Keep store paths, and all that they refer to, until narfs roots remove. The roots are called like the paths, or NAME.",
		Args:              operands(1, many),
		ValidArgsFunction: p.completePaths,
		RunE: func(cmd *cobra.Command, args []string) error {
			if name != "" && len(args) > 1 {
				return usagef("--name is for one path")
			}
			return p.withStore(cmd.Context(), use{}, func(_ context.Context, s *store.Store) error { return p.addRoots(s, args, name) })
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "`NAME` of the root")
	return cmd
}

func (p *process) addRoots(s *store.Store, args []string, name string) error {
	paths, err := p.storePaths(s, args)
	if err != nil {
		return err
	}
	// A collection that runs has looked at the roots already: pinned paths stay.
	pins := s.Pin("roots add")
	defer pins.Release()
	valid, err := pins.AddValid(paths)
	if err != nil {
		return err
	}
	if len(valid) < len(paths) {
		return fmt.Errorf("a path was deleted in this moment: %w", store.ErrNotValid)
	}
	if err := gc.MakeLayout(s.StateDir()); err != nil {
		return err
	}
	for _, sp := range paths {
		root := name
		if root == "" {
			root = sp.BaseName()
		}
		if err := gc.Pin(s.StateDir(), root, s.Dir().Path(sp)); err != nil {
			return err
		}
	}
	return nil
}

func newRootsRemove(p *process) *cobra.Command {
	return &cobra.Command{
		Use:   "remove {NAME|PATH|LINK}...",
		Short: "Let narfs gc have store paths again",
		Long:  "Take away roots that narfs roots add made, by their names or paths, or links below gcroots by their full names.",
		Args:  operands(1, many),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withStore(cmd.Context(), use{}, func(_ context.Context, s *store.Store) error {
				for _, arg := range args {
					err := gc.Unpin(s.StateDir(), arg)
					if errors.Is(err, gc.ErrNoRoot) || strings.HasPrefix(arg, string(s.Dir())+"/") {
						if paths, perr := p.storePaths(s, []string{arg}); perr == nil {
							err = gc.Unpin(s.StateDir(), paths[0].BaseName())
						}
					}
					if err != nil {
						return hint(err, "narfs roots lists them")
					}
				}
				return nil
			})
		},
	}
}
