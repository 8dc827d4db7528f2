package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/daemon/gc"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

type gcOptions struct {
	dryRun, json, noCompact, ignoreUnreadable bool
	maxFreed, keepSince, print                string
}

func newGC(p *process) *cobra.Command {
	var o gcOptions
	cmd := &cobra.Command{
		Use:   "gc [PATH...]",
		Short: "Collect garbage: delete what no root leads to",
		Long: "Delete the store paths that no root leads to, or of these only the PATHs, print them, and give their space back to the " +
			"disk. Roots are the links below gcroots and profiles in the state directory, in Nix's layout, those of narfs roots add, " +
			"what sessions have asked about or sent, and what running processes use: narfs roots lists them. Settings keep-derivations and " +
			"keep-outputs of nix.conf count.\n\n" +
			"The store can be used meanwhile: what somebody comes to need before it is deleted, stays. Files of deleted paths that " +
			"are open in a mount stay readable until they are closed. An interruption does no harm; the next run goes on.",
		Example:           "  narfs gc --dry-run\n  narfs gc --max-freed 10G --keep-since 14d",
		Args:              operands(0, many),
		ValidArgsFunction: p.completePaths,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) > 0 && o.maxFreed != "":
				return usagef("--max-freed and paths do not go together")
			case o.noCompact && o.maxFreed != "":
				return usagef("--max-freed and --no-compact do not go together: only compacting tells what is freed")
			case o.print != "" && o.print != "dead" && o.print != "live":
				return usagef("--print wants dead or live, not %q", o.print)
			}
			return p.withStore(cmd.Context(), use{}, func(ctx context.Context, s *store.Store) error { return p.gc(ctx, s, args, o) })
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.dryRun, "dry-run", "n", false, "only print what would be deleted")
	flags.StringVar(&o.maxFreed, "max-freed", "", "stop when so much `SPACE` has come back to the disk, such as 10G; 0 deletes nothing")
	flags.StringVar(&o.keepSince, "keep-since", "", "keep what was added in this `TIME`, such as 36h or 30d, and what it refers to")
	flags.StringVar(&o.print, "print", "", "print `dead` or live paths, and delete nothing")
	flags.BoolVar(&o.noCompact, "no-compact", false, "leave giving the space back to narfs compact")
	flags.BoolVar(&o.ignoreUnreadable, "ignore-unreadable", false, "go on where a root cannot be read; what it keeps may be deleted")
	flags.BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

// settings returns those of the owner, or what the files say.
func (p *process) settings() (*acl.Settings, error) {
	if p.keeper != nil && p.keeper.daemon != nil {
		return p.keeper.daemon.Settings(), nil
	}
	return p.loadSettings()
}

// parseAge reads a time such as 36h or 30d.
func parseAge(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, usagef("%q is not a time, such as 36h or 30d", text)
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, usagef("%q is not a time, such as 36h or 30d", text)
	}
	return d, nil
}

// options returns what the collector is to do.
func (o gcOptions) options(p *process) (gc.Options, error) {
	settings, err := p.settings()
	if err != nil {
		return gc.Options{}, err
	}
	opts := gc.Options{
		KeepDerivations: settings.KeepDerivations, KeepOutputs: settings.KeepOutputs, IgnoreUnreadable: o.ignoreUnreadable,
		Unreadable: func(err error) { p.remark("narfs: %v\n", err) },
		Censor:     p.censored,
		Waiting:    func() { p.remark("narfs: waiting for another garbage collection to end\n") },
	}
	opts.Shown = sessionViews{p.keeper.views}.Dirs()
	if o.keepSince != "" {
		age, err := parseAge(o.keepSince)
		if err != nil {
			return opts, err
		}
		opts.KeepSince = time.Now().Add(-age)
	}
	return opts, nil
}

// gcResult is what narfs gc --json prints.
type gcResult struct {
	Paths    []string `json:"paths"`
	NarBytes int64    `json:"narBytes"` // of the paths' NARs
	Freed    int64    `json:"freed"`    // of the disk
	DryRun   bool     `json:"dryRun"`
}

func (p *process) gc(ctx context.Context, s *store.Store, args []string, o gcOptions) error {
	opts, err := o.options(p)
	if err != nil {
		return err
	}
	limit := noLimit
	if o.maxFreed != "" {
		if limit, err = acl.ParseSize(o.maxFreed); err != nil {
			return &usageError{err}
		}
	}
	if err := gc.MakeLayout(s.StateDir()); err != nil {
		return err
	}
	wanted, err := p.storePaths(s, args)
	if err != nil {
		return err
	}
	dry := o.dryRun || o.print != ""
	c := gc.Look(s, opts)
	if !dry {
		if c, err = gc.Begin(ctx, s, opts); err != nil {
			return err
		}
	}
	defer c.Close()
	plan, err := c.Plan(ctx, !dry)
	if err != nil {
		if _, unreadable := errors.AsType[*gc.UnreadableError](err); unreadable {
			err = hint(err, "see to it that it can be read, or go on without it: --ignore-unreadable")
		}
		return err
	}
	dead := plan.Dead
	if len(args) > 0 {
		if dead, err = c.Choose(plan, wanted); err != nil {
			return hint(err, "narfs roots lists what keeps paths")
		}
	}
	run := &gcRun{p: p, s: s, c: c, o: o, chosen: len(args) > 0, result: gcResult{Paths: []string{}, DryRun: dry}}
	if o.print == "live" {
		dead = plan.Living()
	}
	if dry {
		return run.show(dead)
	}
	err = run.collect(ctx, dead, limit)
	return firstError(err, run.finish()) // also after an interruption: what is deleted, is
}

// gcRun is a collection at work.
type gcRun struct {
	p      *process
	s      *store.Store
	c      *gc.Collector
	o      gcOptions
	chosen bool // the paths were asked for
	result gcResult
	count  int64 // of deleted paths
	kept   int
	err    error // of printing, or of a path that was asked for and stays
}

// show prints what would be deleted.
func (r *gcRun) show(paths []nix.StorePath) error {
	for _, sp := range paths {
		info, err := r.s.PathInfo(sp)
		if errors.Is(err, store.ErrNotValid) {
			continue // somebody else has deleted it
		}
		if err != nil {
			return err
		}
		r.result.NarBytes += int64(info.NarSize)
		r.result.Paths = append(r.result.Paths, r.s.Dir().Path(sp))
	}
	if r.o.json {
		return r.p.printJSON(r.result)
	}
	err := buffered(r.p.stdout, func(w *bufio.Writer) error {
		for _, name := range r.result.Paths {
			if _, err := fmt.Fprintln(w, name); err != nil {
				return err
			}
		}
		return nil
	})
	if r.o.print == "" {
		r.p.remark("narfs: %s would be deleted, with NARs of %s\n", countText(int64(len(r.result.Paths)), "store path"), sizeText(r.result.NarBytes))
	}
	return err
}

// noLimit is the limit of who wants all garbage deleted.
const noLimit = int64(-1)

// collect deletes dead paths and gives their space back, until so many bytes have come back to the disk.
func (r *gcRun) collect(ctx context.Context, dead []nix.StorePath, limit int64) error {
	var m *meter
	phase := ""
	enter := func(name, unit string) *meter {
		if name != phase {
			m.close()
			m, phase = r.p.meter(name), name
			m.setUnit(unit)
		}
		return m
	}
	defer func() { m.close() }()
	enter("delete", "paths").set(0, int64(len(dead)))
	done, err := r.c.Reclaim(ctx, dead, gc.ReclaimOptions{
		Limited: limit != noLimit, MaxFreed: limit, NoSweep: r.o.noCompact,
		LetGo: sessionViews{r.p.keeper.views}.LetGo,
		Swept: func(done, total int) { enter("compact", "packs").set(int64(done), int64(total)) },
		Report: store.CollectReport{
			Deleted: func(infos []nix.PathInfo) {
				deleting := enter("delete", "paths")
				deleting.add(int64(len(infos)))
				r.deleted(deleting, infos)
			},
			Kept: func(_ nix.StorePath, why error) {
				r.kept++
				if r.chosen && r.err == nil {
					r.err = why
				}
			},
		},
	})
	r.count, r.result.NarBytes, r.result.Freed = done.Paths, done.NarBytes, done.Freed
	return firstError(err, r.err)
}

// deleted tells of deleted paths.
func (r *gcRun) deleted(m *meter, infos []nix.PathInfo) {
	out := m.beside(r.p.stdout)
	for _, info := range infos {
		name := r.s.Dir().Path(info.Path)
		if r.o.json {
			r.result.Paths = append(r.result.Paths, name)
		}
		if r.o.json || r.err != nil {
			continue
		}
		if _, err := fmt.Fprintln(out, name); err != nil {
			r.err = err
		}
	}
}

// finish says what was done.
func (r *gcRun) finish() error {
	if r.o.json {
		return r.p.printJSON(r.result)
	}
	text := fmt.Sprintf("%s deleted, %s freed", countText(r.count, "store path"), sizeText(r.result.Freed))
	if r.o.noCompact {
		text = fmt.Sprintf("%s deleted, with NARs of %s; narfs compact gives the space back", countText(r.count, "store path"), sizeText(r.result.NarBytes))
	}
	if r.kept > 0 {
		text += fmt.Sprintf("; %d came into use meanwhile", r.kept)
	}
	r.p.remark("narfs: %s\n", text)
	return nil
}
