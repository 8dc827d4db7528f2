package gc

import (
	"context"
	"errors"
	"fmt"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

// Collector is a collection that has begun.
type Collector struct {
	s          *store.Store
	opts       Options
	collection *store.Collection // nil for who only looks
}

// Look returns a collector that can plan, but not delete. It waits for nobody.
func Look(s *store.Store, o Options) *Collector { return &Collector{s: s, opts: o} }

// Begin begins a collection, to be ended by Close. There is one at a time: others wait until ctx ends.
func Begin(ctx context.Context, s *store.Store, o Options) (*Collector, error) {
	if o.Waiting != nil && s.Collecting() {
		o.Waiting()
	}
	c, err := s.BeginCollection(ctx)
	if err != nil {
		return nil, fmt.Errorf("garbage collection: %w", err)
	}
	return &Collector{s: s, opts: o, collection: c}, nil
}

// Close ends the collection.
func (c *Collector) Close() {
	if c.collection != nil {
		c.collection.Close()
	}
}

// FindRoots returns all roots that name valid paths, with those of processes and sessions. Prune removes links in gcroots/auto whose target
// is gone.
func FindRoots(ctx context.Context, s *store.Store, o Options, prune bool) (roots []Root, err error) {
	var failed error
	seen := map[Root]struct{}{}
	add := func(r Root) {
		if _, ok := seen[r]; ok || failed != nil {
			return
		}
		seen[r] = struct{}{}
		ok, err := s.IsValid(r.Path)
		if err == nil && !ok && r.Kind == Runtime {
			// The name may be less long than it looks.
			r.Path, err = s.ByHashPart(r.Path.HashPart())
			ok = err == nil
			if errors.Is(err, store.ErrNotValid) {
				err = nil
			}
		}
		if err != nil {
			failed = err
		}
		if ok {
			roots = append(roots, r)
		}
	}
	f := Finder{StateDir: s.StateDir(), StoreDir: s.Dir(), Shown: o.Shown, Prune: prune}
	err = f.Find(add, func(e *UnreadableError) error {
		if !o.IgnoreUnreadable {
			return e
		}
		if o.Unreadable != nil {
			o.Unreadable(e)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for p, holders := range s.Pinned() {
		for _, holder := range holders {
			add(Root{p, Temp, holder})
		}
	}
	if err := runtimeRoots(ctx, add); err != nil {
		return nil, err
	}
	return roots, failed
}

// Plan finds out what is dead. With prune, links in gcroots/auto whose target is gone are removed on the way.
func (c *Collector) Plan(ctx context.Context, prune bool) (*Plan, error) {
	plan := &Plan{}
	var err error
	if plan.Roots, err = FindRoots(ctx, c.s, c.opts, prune); err != nil {
		return nil, err
	}
	if plan.g, err = readGraph(ctx, c.s, c.opts.KeepOutputs); err != nil {
		return nil, err
	}
	g := plan.g
	var starts []uint32
	for _, r := range plan.Roots {
		starts = append(starts, g.of(r.Path))
	}
	if !c.opts.KeepSince.IsZero() {
		for n := range g.nodes {
			if g.nodes[n].valid && g.nodes[n].since >= c.opts.KeepSince.Unix() {
				starts = append(starts, uint32(n))
			}
		}
	}
	g.mark(starts, c.opts)
	for n := range g.nodes {
		switch node := &g.nodes[n]; {
		case !node.valid:
		case node.keeper > 0:
			plan.Live++
			plan.LiveBytes += node.size
		default:
			plan.DeadBytes += node.size
		}
	}
	plan.Dead = g.dead()
	return plan, nil
}

// AliveError says that a path cannot be deleted because something needs it.
type AliveError struct {
	Path string // in full
	By   string // what needs it, in words
}

// Error implements error; the beginning is Nix's.
func (e *AliveError) Error() string {
	return fmt.Sprintf("Cannot delete path '%s' since it is still alive: %s", e.Path, e.By)
}

// Alive is an *AliveError if a root, or its age, keeps one of some paths, by itself or through what refers to it.
func (c *Collector) Alive(plan *Plan, paths []nix.StorePath) error {
	for _, p := range paths {
		root, chain := plan.Why(p)
		if root != nil && c.opts.Censor != nil {
			shown := c.opts.Censor(*root)
			root = &shown
		}
		switch {
		case root != nil && len(chain) > 1:
			return &AliveError{c.s.Dir().Path(p), fmt.Sprintf("%s, which is kept by %s, needs it", c.s.Dir().Path(chain[0]), root.Name)}
		case root != nil:
			return &AliveError{c.s.Dir().Path(p), "it is kept by " + root.Name}
		case len(chain) > 0:
			return &AliveError{c.s.Dir().Path(p), "it, or what refers to it, is too young"}
		}
	}
	return nil
}

// Choose returns those of the plan's dead paths that were asked for, in the plan's order. It is an *AliveError if one of them is
// needed, also by a dead path that was not asked for.
func (c *Collector) Choose(plan *Plan, wanted []nix.StorePath) ([]nix.StorePath, error) {
	if err := c.Alive(plan, wanted); err != nil {
		return nil, err
	}
	set := make(map[nix.StorePath]struct{}, len(wanted))
	for _, p := range wanted {
		set[p] = struct{}{}
	}
	for _, p := range wanted {
		referrers, err := c.s.Referrers(p)
		if err != nil {
			return nil, err
		}
		for _, r := range referrers {
			if _, ok := set[r]; !ok && r != p {
				return nil, &AliveError{c.s.Dir().Path(p), c.s.Dir().Path(r) + " refers to it"}
			}
		}
	}
	var chosen []nix.StorePath
	for _, p := range plan.Dead {
		if _, ok := set[p]; ok {
			chosen = append(chosen, p)
		}
	}
	return chosen, nil
}

// Delete deletes dead paths, in the plan's order, but for those that somebody has come to need since.
func (c *Collector) Delete(ctx context.Context, dead []nix.StorePath, report store.CollectReport) error {
	if c.collection == nil {
		return errors.New("garbage collection: it was only to look")
	}
	err := c.collection.Delete(ctx, dead, report)
	if errors.Is(err, context.Canceled) {
		err = context.Cause(ctx)
	}
	return err
}
