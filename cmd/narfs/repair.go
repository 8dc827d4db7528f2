package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

type repairOptions struct {
	rebuild, drop, quick, json bool
	from                       string
}

func newRepair(p *process) *cobra.Command {
	var o repairOptions
	cmd := &cobra.Command{
		Use:   "repair [PATH...]",
		Short: "Mend what verify finds",
		Long: "Verify the store, or some store paths, and mend what is wrong: what follows from other records is written again; " +
			"damaged paths are had from another store (--from), or else deleted with all that refers to them (--drop).\n\n" +
			"--rebuild-index first makes the index of the contents again, from the packs, as every command does by itself with an " +
			"index that it cannot open. No other process may have the store open then. The exit code is 1 if something remains wrong.",
		Args:              operands(0, many),
		ValidArgsFunction: p.completePaths,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withStore(cmd.Context(), use{rebuilds: o.rebuild}, func(ctx context.Context, s *store.Store) error {
				return p.repair(ctx, s, args, o)
			})
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.rebuild, "rebuild-index", false, "make the index again, from the packs")
	flags.StringVar(&o.from, "from", "", "get damaged paths from the store in the state directory `DIR`")
	flags.BoolVar(&o.drop, "drop", false, "delete damaged paths that cannot be had again, and all that refers to them")
	flags.BoolVar(&o.quick, "quick", false, "look only whether the contents are there")
	flags.BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

func (p *process) repair(ctx context.Context, s *store.Store, args []string, o repairOptions) error {
	m := p.meter("repair")
	defer m.close()
	var opts store.RepairOptions
	var err error
	if opts.Verify, err = p.verifying(s, args, o.quick, m); err != nil {
		return err
	}
	opts.Drop = o.drop
	if o.from == "" {
		return p.repairFrom(ctx, s, opts, o, m)
	}
	return p.withOther(ctx, o.from, use{}, func(ctx context.Context, other peer) error {
		opts.Source = other.source
		return p.repairFrom(ctx, s, opts, o, m)
	})
}

func (p *process) repairFrom(ctx context.Context, s *store.Store, opts store.RepairOptions, o repairOptions, m *meter) error {
	all := []problem{}
	left := int64(0)
	var printErr error
	err := s.Repair(ctx, opts, func(r store.Repaired) {
		pr := problemOf(s.Dir(), r.Problem)
		pr.Action = string(r.Action)
		if r.RepairErr != nil {
			pr.Failure = r.RepairErr.Error()
		}
		all = append(all, pr)
		// Damage in a place that no path needs is garbage.
		garbage := r.Action == store.ActionNone && !r.Damaged && len(r.Paths) == 0
		if r.Action == store.ActionNone && !garbage {
			left++
		}
		if o.json {
			return
		}
		text := pr.Action + ": " + pr.Error
		switch {
		case garbage:
			text = "garbage: " + pr.Error + " (narfs compact takes it away)"
		case r.Action == store.ActionNone:
			text = "not repaired: " + pr.Error
		}
		if pr.Failure != "" && !garbage {
			text += " (" + pr.Failure + ")"
		}
		if _, err := fmt.Fprintln(m.beside(p.stdout), text); err != nil {
			printErr = err
		}
	})
	if err != nil || printErr != nil {
		return firstError(err, printErr)
	}
	m.clearLine()
	if o.json {
		if err := p.printJSON(map[string]any{"problems": all, "left": left}); err != nil {
			return err
		}
	}
	if left > 0 {
		return hint(fmt.Errorf("repair: %s left", countText(left, "problem")), repairHint(opts, o.rebuild))
	}
	p.remark("narfs: %s found, none is left that matters\n", countText(int64(len(all)), "problem"))
	return nil
}

func repairHint(opts store.RepairOptions, rebuilt bool) string {
	switch {
	case opts.Source == nil && !opts.Drop:
		text := "--from DIR gets damaged paths from another store; --drop deletes those that cannot be had; importing a path again with --repair mends it, too"
		if !rebuilt {
			text += "; --rebuild-index brings back what only the index has lost"
		}
		return text
	case !opts.Drop:
		return "--drop deletes what cannot be had again"
	}
	return "narfs verify tells what is left"
}

// narReader is a NAR being written on another goroutine.
type narReader struct {
	*io.PipeReader

	done chan struct{}
}

var errEnough = errors.New("no more is wanted")

// Close ends the writing and waits for that.
func (r *narReader) Close() error {
	err := r.CloseWithError(errEnough)
	<-r.done
	return err
}

// readNAR turns what writes into what can be read.
func readNAR(write func(w io.Writer) error) io.ReadCloser {
	pr, pw := io.Pipe()
	r := &narReader{pr, make(chan struct{})}
	go func() {
		defer close(r.done)
		_ = pw.CloseWithError(write(pw))
	}()
	return r
}

// storePeer is a store that this process has open beside its own.
type storePeer struct{ s *store.Store }

func (o *storePeer) source(ctx context.Context, sp nix.StorePath) (nix.PathInfo, io.ReadCloser, error) {
	info, err := o.s.PathInfo(sp)
	if err != nil {
		return info, nil, err
	}
	return info, readNAR(func(w io.Writer) error { return o.s.WriteNAR(ctx, sp, w) }), nil
}
