package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

type verifyOptions struct{ quick, json, repair bool }

func newVerify(p *process) *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify [PATH...]",
		Short: "Read everything and compare it with its hashes",
		Long: "Read the whole store, or some store paths, and compare it with its checksums and hashes; without a PATH, also what " +
			"is known about the paths. The exit code is 1 if anything is wrong. narfs repair mends what it can.",
		Args:              operands(0, many),
		ValidArgsFunction: p.completePaths,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withStore(cmd.Context(), use{}, func(ctx context.Context, s *store.Store) error {
				if o.repair {
					return p.repair(ctx, s, args, repairOptions{quick: o.quick, json: o.json})
				}
				return p.verify(ctx, s, args, o)
			})
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.quick, "quick", false, "look only whether the contents are there")
	flags.BoolVar(&o.json, "json", false, "print JSON")
	flags.BoolVar(&o.repair, "repair", false, "mend what can be without another store, as narfs repair does")
	return cmd
}

// problem is one of store's for JSON.
type problem struct {
	Paths   []string `json:"paths"`
	Damaged bool     `json:"damaged"`
	Error   string   `json:"error"`
	Action  string   `json:"action,omitempty"`
	Failure string   `json:"failure,omitempty"`
}

func problemOf(dir nix.StoreDir, p store.Problem) problem {
	return problem{Paths: printed(dir, p.Paths), Damaged: p.Damaged, Error: p.Err.Error()}
}

// verifying returns what to verify.
func (p *process) verifying(s *store.Store, args []string, quick bool, m *meter) (store.VerifyOptions, error) {
	opts := store.VerifyOptions{Contents: !quick, Progress: m.set}
	if len(args) > 0 {
		var err error
		if opts.Paths, err = p.storePaths(s, args); err != nil {
			return opts, err
		}
	}
	return opts, nil
}

func (p *process) verify(ctx context.Context, s *store.Store, args []string, o verifyOptions) error {
	m := p.meter("verify")
	defer m.close()
	opts, err := p.verifying(s, args, o.quick, m)
	if err != nil {
		return err
	}
	found := []problem{}
	var printErr error
	err = s.Verify(ctx, opts, func(pr store.Problem) {
		found = append(found, problemOf(s.Dir(), pr))
		if !o.json {
			if _, err := fmt.Fprintln(m.beside(p.stdout), pr.Err); err != nil {
				printErr = err
			}
		}
	})
	if err != nil || printErr != nil {
		return firstError(err, printErr)
	}
	m.clearLine()
	paths := int64(len(opts.Paths))
	if len(args) == 0 {
		if paths, _, err = s.Totals(); err != nil {
			return err
		}
	}
	if o.json {
		err = p.printJSON(map[string]any{"paths": paths, "problems": found})
	}
	switch {
	case err != nil:
		return err
	case len(found) > 0:
		return hint(fmt.Errorf("verify: %s", countText(int64(len(found)), "problem")), "narfs repair mends what it can")
	}
	p.remark("narfs: %s verified, nothing is wrong\n", countText(paths, "path"))
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
