package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/build"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

func newLog(p *process) *cobra.Command {
	return &cobra.Command{
		Use:   "log {DRV|PATH}...",
		Short: "Print the logs of builds",
		Long: "Print what builders have said: that of a derivation, or that of the one which made a path. Both may be gone from the store. " +
			"Logs are looked for where nix log does, in the log directory of the store's owner: that of its --log-dir, else $NIX_LOG_DIR, else log/nix in " +
			"the state directory. On a terminal, nothing of them is a command to that but colours.",
		Example:           "  narfs log /nix/store/…-hello-2.12\n  narfs log a4k2 | less",
		Args:              operands(1, many),
		ValidArgsFunction: p.completePaths,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withStore(cmd.Context(), use{}, func(ctx context.Context, s *store.Store) error {
				for _, arg := range args {
					if err := p.printLog(ctx, s, arg); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func (p *process) printLog(ctx context.Context, s *store.Store, arg string) error {
	sp, err := p.orValid(s, arg)
	if err != nil && (!isA[*store.NotValidError](err) || sp.IsZero()) {
		return err
	}
	sources, err := logSources(ctx, s, sp)
	if err != nil {
		return err
	}
	for _, source := range sources {
		log, err := build.OpenLog(p.keeper.logDir, source)
		if errors.Is(err, build.ErrNoLog) {
			continue
		}
		if err != nil {
			return err
		}
		err = p.copyLog(ctx, log)
		_ = log.Close() // only read
		if err != nil {
			return fmt.Errorf("log of %s: %w", source, err)
		}
		return nil
	}
	text := "it was not built here, or its log was not kept; narfs build keeps logs, and builds again with --check what is valid"
	if len(sources) == 0 {
		text = "nobody knows what made it; narfs info shows what is known"
	}
	return hint(fmt.Errorf("build of '%s': %w", s.Dir().Path(sp), build.ErrNoLog), text)
}

// logSources returns the derivations whose logs may be what is wanted of a path, the likeliest first.
func logSources(ctx context.Context, s *store.Store, sp nix.StorePath) (all []nix.StorePath, err error) {
	outputs := []nix.StorePath{sp}
	if store.IsDerivation(sp) {
		// One that did not know its inputs was built by another name, which its outputs know.
		if outputs, err = realised(ctx, s, sp); err != nil {
			return nil, err
		}
		all = append(all, sp)
	}
	for _, out := range outputs {
		info, err := s.PathInfo(out)
		if err != nil && !errors.Is(err, store.ErrNotValid) {
			return nil, err
		}
		if !info.Deriver.IsZero() {
			all = append(all, info.Deriver)
		}
		derivers, err := s.Derivers(out)
		if err != nil {
			return nil, err
		}
		all = append(all, derivers...)
	}
	return all, nil
}

// realised returns the outputs of a derivation of which only realisations know where they are.
func realised(ctx context.Context, s *store.Store, sp nix.StorePath) (outputs []nix.StorePath, err error) {
	d, err := s.Derivation(sp)
	if errors.Is(err, store.ErrNotValid) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all, err := s.KnownOutputs(ctx, d)
	for _, r := range all {
		if !r.ID.Hash.IsZero() && !r.OutPath.IsZero() {
			outputs = append(outputs, r.OutPath)
		}
	}
	return outputs, err
}

// copyLog prints a log: as it is, or as a terminal may see it.
func (p *process) copyLog(ctx context.Context, log io.Reader) error {
	r, done := interruptible(ctx, log)
	defer done()
	if !isTerminal(p.stdout) {
		_, err := io.Copy(p.stdout, r)
		return err
	}
	colours := p.colours(p.stdout)
	return buffered(p.stdout, func(w *bufio.Writer) error {
		for in := bufio.NewReaderSize(r, maxLogLine); ; {
			line, err := in.ReadSlice('\n') // of a longer one, a piece
			text, whole := strings.CutSuffix(string(line), "\n")
			if text = logText(text, colours); whole {
				text += "\n"
			}
			if _, werr := w.WriteString(text); werr != nil {
				return werr
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
				return err
			}
		}
	})
}

// maxLogLine is how much of a line is looked at in one piece.
const maxLogLine = 64 << 10
