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
			if len(args) > 0 && o.maxFreed != "" {
				return usagef("--max-freed and paths do not go together")
			}
			return p.withStore(cmd.Context(), use{}, func(ctx context.Context, s *store.Store) error { return p.gc(ctx, s, args, o) })
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.dryRun, "dry-run", "n", false, "only print what would be deleted")
	flags.StringVar(&o.maxFreed, "max-freed", "", "stop when so much disk `SPACE` is free, such as 10G")
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
	}
	for _, m := range p.keeper.views.list() {
		opts.Shown = append(opts.Shown, m.Dir())
	}
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
	limit := int64(0)
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
	c, err := gc.Begin(ctx, s, opts)
	if err != nil {
		return err
	}
	defer c.Close()
	dry := o.dryRun || o.print != ""
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
	run := &gcRun{p: p, s: s, c: c, o: o, result: gcResult{Paths: []string{}, DryRun: dry}}
	switch o.print {
	case "":
	case "dead":
	case "live":
		dead = plan.Living()
	default:
		return usagef("--print wants dead or live, not %q", o.print)
	}
	if dry {
		return run.show(dead)
	}
	return run.delete(ctx, dead, limit, len(args) > 0)
}

// gcRun is a collection at work.
type gcRun struct {
	p      *process
	s      *store.Store
	c      *gc.Collector
	o      gcOptions
	result gcResult
	err    error // of printing
	kept   int
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

// rounds bounds how often the space is given back on the way to --max-freed.
const rounds = 16

// delete deletes dead paths and gives their space back, until limit bytes of the disk are free, if limit is above 0.
func (r *gcRun) delete(ctx context.Context, dead []nix.StorePath, limit int64, chosen bool) error {
	m := r.p.meter("delete")
	m.setUnit("paths")
	m.set(0, int64(len(dead)))
	report := store.CollectReport{
		Deleted: func(infos []nix.PathInfo) {
			m.add(int64(len(infos)))
			r.deleted(m, infos)
		},
		Kept: func(_ nix.StorePath, why error) {
			r.kept++
			if chosen && r.err == nil {
				r.err = why
			}
		},
	}
	for round := 0; len(dead) > 0 && r.err == nil; round++ {
		n := len(dead)
		if limit > 0 && round < rounds {
			n = r.enough(dead, limit-r.result.Freed)
		}
		err := r.c.Delete(ctx, dead[:n], report)
		dead = dead[n:]
		if err != nil {
			m.close()
			return err
		}
		if limit == 0 || r.o.noCompact {
			continue
		}
		if err := r.compact(ctx); err != nil {
			m.close()
			return err
		}
		if r.result.Freed >= limit {
			break
		}
	}
	m.close()
	if r.err == nil && limit == 0 && !r.o.noCompact {
		r.err = r.compact(ctx)
	}
	return errors.Join(r.err, r.finish())
}

// deleted tells of deleted paths.
func (r *gcRun) deleted(m *meter, infos []nix.PathInfo) {
	out := m.beside(r.p.stdout)
	for _, info := range infos {
		r.result.NarBytes += int64(info.NarSize)
		name := r.s.Dir().Path(info.Path)
		r.result.Paths = append(r.result.Paths, name)
		if r.o.json || r.err != nil {
			continue
		}
		if _, err := fmt.Fprintln(out, name); err != nil {
			r.err = err
		}
	}
}

// enough returns how many of the dead paths free so many bytes, as far as can be told before: what a path frees depends on what it
// shares with others.
func (r *gcRun) enough(dead []nix.StorePath, want int64) int {
	_, all, err := r.s.Totals()
	stored, serr := r.s.Occupied()
	if err != nil || serr != nil || all == 0 {
		return len(dead)
	}
	share := min(1, float64(stored)/float64(all+r.result.NarBytes))
	got := 0.0
	for i, sp := range dead {
		info, err := r.s.PathInfo(sp)
		if err != nil {
			continue
		}
		if got += float64(info.NarSize) * share; got >= float64(want) {
			return i + 1
		}
	}
	return len(dead)
}

// compact gives space back.
func (r *gcRun) compact(ctx context.Context) error {
	r.p.keeper.views.letGo(ctx)
	m := r.p.meter("compact")
	m.setUnit("packs")
	defer m.close()
	res, err := r.s.Sweep(ctx, store.SweepOptions{Progress: func(done, total int) { m.set(int64(done), int64(total)) }})
	r.result.Freed += res.Freed
	return err
}

// finish says what was done.
func (r *gcRun) finish() error {
	if r.o.json {
		return r.p.printJSON(r.result)
	}
	text := fmt.Sprintf("%s deleted, %s freed", countText(int64(len(r.result.Paths)), "store path"), sizeText(r.result.Freed))
	if r.o.noCompact {
		text = fmt.Sprintf("%s deleted, with NARs of %s; narfs compact gives the space back", countText(int64(len(r.result.Paths)), "store path"), sizeText(r.result.NarBytes))
	}
	if r.kept > 0 {
		text += fmt.Sprintf("; %d came into use meanwhile", r.kept)
	}
	r.p.remark("narfs: %s\n", text)
	return nil
}
