package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

type infoOptions struct {
	closure, closureSize, referrers, json bool
	format                                int
}

func newInfo(p *process) *cobra.Command {
	var o infoOptions
	cmd := &cobra.Command{
		Use:   "info PATH...",
		Short: "Show what is known about store paths",
		Long: "Show what is known about store paths: hash and size of the NAR, references, deriver, signatures and so on.\n\n" +
			"--json prints what nix path-info --json prints. Of its formats, 1 is that of Nix 2.34, an object by path; 2 and 3 are " +
			"newer ones, 0 is the list of Nix 2.8.",
		Example:           "  narfs info -S a4k2\n  narfs info -r --json a4k2 | jq 'map(.narSize) | add'",
		Args:              operands(1, many),
		ValidArgsFunction: p.completePaths,
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.format < int(nix.JSON28) || o.format > int(nix.JSON3) {
				return usagef("--json-format=%d: want 0 to 3", o.format)
			}
			return p.withStore(cmd.Context(), use{}, func(ctx context.Context, s *store.Store) error {
				return p.info(ctx, s, args, o)
			})
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.closure, "recursive", "r", false, "show also all that the paths refer to")
	flags.BoolVarP(&o.closureSize, "closure-size", "S", false, "show the size of the path together with all that it refers to")
	flags.BoolVar(&o.referrers, "referrers", false, "show what refers to the path")
	flags.BoolVar(&o.json, "json", false, "print JSON, as nix path-info --json does")
	flags.IntVar(&o.format, "json-format", int(nix.JSON1), "`NUMBER` of Nix's format")
	return cmd
}

func (p *process) info(ctx context.Context, s *store.Store, args []string, o infoOptions) error {
	var paths, absent []nix.StorePath
	for _, arg := range args {
		t, err := p.target(s, arg)
		var missing *store.NotValidError
		switch {
		case err == nil:
			paths = append(paths, t.path) // of what is inside of it, too
		case o.json && errors.As(err, &missing):
			sp, perr := nix.ParseStorePath(s.Dir(), missing.Path)
			if perr != nil {
				return err
			}
			absent = append(absent, sp)
		default:
			return err
		}
	}
	if o.closure {
		var err error
		if paths, err = s.Closure(paths...); err != nil {
			return err
		}
	}
	if o.json {
		return p.infoJSON(ctx, s, paths, absent, o)
	}
	return buffered(p.stdout, func(w *bufio.Writer) error {
		for i, sp := range paths {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if i > 0 {
				_ = w.WriteByte('\n') // the writer keeps its first error
			}
			if err := writeInfo(w, s, sp, o); err != nil {
				return err
			}
		}
		return nil
	})
}

// closureSize is the sum of the NARs' sizes of a path and of all that it refers to.
func closureSize(s *store.Store, sp nix.StorePath) (uint64, error) {
	all, err := s.Closure(sp)
	if err != nil {
		return 0, err
	}
	total := uint64(0)
	for _, one := range all {
		info, err := s.PathInfo(one)
		if err != nil {
			return 0, err
		}
		total += info.NarSize
	}
	return total, nil
}

func (p *process) infoJSON(ctx context.Context, s *store.Store, paths, absent []nix.StorePath, o infoOptions) error {
	format := nix.JSONFormat(o.format)
	objects := map[nix.StorePath]map[string]any{}
	for _, sp := range absent {
		objects[sp] = nil
	}
	for _, sp := range paths {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		info, err := s.PathInfo(sp)
		if err != nil {
			return err
		}
		object := info.JSON(s.Dir(), format)
		if o.closureSize {
			size, err := closureSize(s, sp)
			if err != nil {
				return err
			}
			object["closureSize"] = size
		}
		if o.referrers {
			refs, err := s.Referrers(sp)
			if err != nil {
				return err
			}
			object["referrers"] = printed(s.Dir(), refs)
		}
		objects[sp] = object
	}
	return p.printJSON(nix.JSONDocument(s.Dir(), format, objects))
}

// printed spells paths in full. It is never nil, which JSON would tell.
func printed(dir nix.StoreDir, paths []nix.StorePath) []string {
	all := make([]string, 0, len(paths))
	for _, sp := range paths {
		all = append(all, dir.Path(sp))
	}
	return all
}

func writeInfo(w io.Writer, s *store.Store, sp nix.StorePath, o infoOptions) error {
	info, err := s.PathInfo(sp)
	if err != nil {
		return err
	}
	dir := s.Dir()
	line := func(what string, values ...string) {
		for i, value := range values {
			if i > 0 {
				what = ""
			}
			if value != "" {
				_, _ = fmt.Fprintf(w, "  %-16s %s\n", what, value) // the writer keeps its first error
			}
		}
	}
	_, err = fmt.Fprintln(w, dir.Path(sp))
	line("NAR hash", info.NarHash.String())
	line("NAR size", exactSize(int64(info.NarSize)))
	if o.closureSize {
		size, err := closureSize(s, sp)
		if err != nil {
			return err
		}
		line("closure size", exactSize(int64(size)))
	}
	line("references", printed(dir, info.References)...)
	if o.referrers {
		refs, err := s.Referrers(sp)
		if err != nil {
			return err
		}
		line("referrers", printed(dir, refs)...)
	}
	if !info.Deriver.IsZero() {
		line("deriver", dir.Path(info.Deriver))
	}
	line("content address", info.CA.String())
	for i, sig := range info.Signatures {
		line([]string{"signatures", ""}[min(i, 1)], sig.String())
	}
	if info.Ultimate {
		line("ultimate", "yes, built here")
	}
	line("registered", time.Unix(info.RegistrationTime, 0).Format(time.DateTime))
	return err
}

// exactSize spells a number of bytes both ways.
func exactSize(n int64) string {
	if n < 1024 {
		return sizeText(n)
	}
	return fmt.Sprintf("%s (%d bytes)", sizeText(n), n)
}
