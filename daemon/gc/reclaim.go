package gc

import (
	"context"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

// ReclaimOptions of one Reclaim. The zero value deletes all and gives the space back.
type ReclaimOptions struct {
	// Limited has the collection stop when MaxFreed bytes have come back to the disk.
	Limited  bool
	MaxFreed int64
	// NoSweep leaves giving the space back to somebody else. Nothing is freed then.
	NoSweep bool
	// LetGo is called before each sweep, so that who has deleted paths open gives them back; it may be nil.
	LetGo func(ctx context.Context)
	// Report hears of each path. Swept hears of the sweeps, in packs. Both may be nil.
	Report store.CollectReport
	Swept  func(done, total int)
}

// Reclaimed says what Reclaim has done, also if it has failed or was interrupted.
type Reclaimed struct {
	Paths    int64
	NarBytes int64 // of the paths' NARs
	Freed    int64 // bytes that have come back to the disk
}

// rounds bounds how often the space is given back on the way to a limit.
const rounds = 16

// Reclaim deletes dead paths, in the plan's order, and gives their space back to the disk.
func (c *Collector) Reclaim(ctx context.Context, dead []nix.StorePath, o ReclaimOptions) (done Reclaimed, err error) {
	if !o.Limited {
		if err := c.deleteAnd(ctx, dead, o, &done); err != nil || o.NoSweep {
			return done, err
		}
		return done, c.sweep(ctx, o, &done)
	}
	share := c.share()
	for round := 0; len(dead) > 0 && done.Freed < o.MaxFreed; round++ {
		n := len(dead)
		if round < rounds {
			n = c.enough(dead, o.MaxFreed-done.Freed, share)
		}
		before := done
		if err := c.deleteAnd(ctx, dead[:n], o, &done); err != nil {
			return done, err
		}
		if err := c.sweep(ctx, o, &done); err != nil {
			return done, err
		}
		dead = dead[n:]
		if nars := done.NarBytes - before.NarBytes; nars > 0 {
			share = max(float64(done.Freed-before.Freed)/float64(nars), share/4)
		}
	}
	return done, nil
}

func (c *Collector) deleteAnd(ctx context.Context, dead []nix.StorePath, o ReclaimOptions, done *Reclaimed) error {
	report := o.Report
	report.Deleted = func(infos []nix.PathInfo) {
		for _, info := range infos {
			done.Paths++
			done.NarBytes += int64(info.NarSize)
		}
		if o.Report.Deleted != nil {
			o.Report.Deleted(infos)
		}
	}
	return c.Delete(ctx, dead, report)
}

// share returns how much of the disk a byte of a NAR takes, on average.
func (c *Collector) share() float64 {
	_, all, err := c.s.Totals()
	stored, serr := c.s.Occupied()
	if err != nil || serr != nil || all == 0 {
		return 1
	}
	return min(1, float64(stored)/float64(all))
}

// enough returns how many of the dead paths free so many bytes if a byte of a NAR frees share. What a path really frees depends on
// what it has in common with others.
func (c *Collector) enough(dead []nix.StorePath, want int64, share float64) int {
	got := 0.0
	for i, sp := range dead {
		info, err := c.s.PathInfo(sp)
		if err != nil {
			continue
		}
		if got += float64(info.NarSize) * share; got >= float64(want) {
			return i + 1
		}
	}
	return len(dead)
}

func (c *Collector) sweep(ctx context.Context, o ReclaimOptions, done *Reclaimed) error {
	if o.LetGo != nil {
		o.LetGo(ctx)
	}
	res, err := c.s.Sweep(ctx, store.SweepOptions{Progress: o.Swept})
	done.Freed += res.Freed
	return err
}
