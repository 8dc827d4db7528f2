package session

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/daemon/gc"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/daemon/workerproto"
	"github.com/narfs/narfs/internal/nix"
)

func (v *worker) addTempRoot(ctx context.Context) error {
	p, err := v.pathArgument()
	if err != nil {
		return err
	}
	if err := v.session.holdAlso(p); err != nil {
		return err
	}
	return v.ok(ctx)
}

func (v *worker) addIndirectRoot(ctx context.Context) error {
	link, err := v.ReadFile()
	if err != nil {
		return err
	}
	if err := v.begin(); err != nil {
		return err
	}
	if !filepath.IsAbs(link) {
		return fmt.Errorf("the root '%s' is not an absolute file name", link)
	}
	// What is kept must be there after a power cut, too.
	if err := v.store.Flush(ctx); err != nil {
		return err
	}
	if err := v.makeRoot(filepath.Clean(link)); err != nil {
		return err
	}
	return v.ok(ctx)
}

func (v *worker) makeRoot(link string) error {
	if err := gc.MakeLayout(v.store.StateDir()); err != nil {
		return err
	}
	return gc.AddIndirect(v.store.StateDir(), link)
}

func (v *worker) addPermRoot(ctx context.Context) error {
	req, err := v.ReadAddPermRoot()
	if err != nil {
		return err
	}
	if err := v.begin(); err != nil {
		return err
	}
	if err := v.holdOrFail(req.Path); err != nil {
		return err
	}
	if err := v.store.Flush(ctx); err != nil {
		return err
	}
	if err := gc.MakeLayout(v.store.StateDir()); err != nil {
		return err
	}
	if err := gc.AddPermanent(v.store.StateDir(), v.Dir, req.Path, req.Root); err != nil {
		return err
	}
	return v.answer(ctx, func() error { return v.W.String(req.Root) })
}

func (v *worker) syncWithGC(ctx context.Context) error {
	if err := v.begin(); err != nil {
		return err
	}
	return v.ok(ctx)
}

// censored is what a client that is not trusted reads in place of what others do.
const censored = "{censored}"

// rootName is a root as Nix names it, as far as the client may know.
func (v *worker) rootName(r gc.Root) string {
	hidden := r.Kind == gc.Temp || r.Kind == gc.Runtime
	switch {
	case hidden && v.session.access.Level != acl.Trusted:
		return censored
	case r.Kind == gc.Temp:
		return "{temp:" + r.Name + "}"
	default:
		return r.Name
	}
}

// collecting returns how the collector is to work for the client.
func (v *worker) collecting() gc.Options {
	return gc.Options{
		KeepDerivations: v.settings.KeepDerivations, KeepOutputs: v.settings.KeepOutputs,
		Shown: v.session.m.opts.Views.Dirs(),
		Censor: func(r gc.Root) gc.Root {
			r.Name = v.rootName(r)
			return r
		},
		IgnoreUnreadable: true, // as Nix does
		Unreadable:       func(err error) { _ = v.Log(workerproto.LevelWarn, "warning: "+err.Error()) },
		Waiting:          func() { _ = v.Log(workerproto.LevelError, "waiting for the big garbage collector lock...") },
	}
}

func (v *worker) findRoots(ctx context.Context) error {
	if err := v.begin(); err != nil {
		return err
	}
	v.session.letGo()
	found, err := gc.FindRoots(ctx, v.store, v.collecting(), true)
	if err != nil {
		return err
	}
	roots := make([]workerproto.Root, 0, len(found))
	for _, r := range found {
		roots = append(roots, workerproto.Root{Link: v.rootName(r), Path: r.Path})
	}
	return v.answer(ctx, func() error { return v.WriteRoots(roots) })
}

func (v *worker) collectGarbage(ctx context.Context) error {
	req, err := v.ReadCollectGarbage()
	if err != nil {
		return err
	}
	if err := v.begin(); err != nil {
		return err
	}
	if req.IgnoreLiveness {
		return errors.New("you are not allowed to ignore liveness")
	}
	v.session.letGo()
	v.changed = true
	if err := gc.MakeLayout(v.store.StateDir()); err != nil {
		return err
	}
	deletes := req.Action == workerproto.GCDeleteDead || req.Action == workerproto.GCDeleteSpecific
	c := gc.Look(v.store, v.collecting())
	if deletes {
		if c, err = gc.Begin(ctx, v.store, v.collecting()); err != nil {
			return err
		}
	}
	defer c.Close()
	if err := v.Log(workerproto.LevelInfo, "finding garbage collector roots..."); err != nil {
		return err
	}
	plan, err := c.Plan(ctx, deletes)
	if err != nil {
		return err
	}
	result := workerproto.Collected{}
	chosen := plan.Dead
	switch req.Action {
	case workerproto.GCReturnLive:
		chosen = plan.Living()
	case workerproto.GCDeleteSpecific:
		if chosen, err = c.Choose(plan, req.Paths); err != nil {
			return err
		}
	case workerproto.GCReturnDead, workerproto.GCDeleteDead:
	}
	if !deletes {
		for _, p := range chosen {
			result.Paths = append(result.Paths, v.Dir.Path(p))
		}
		return v.answer(ctx, func() error { return v.WriteCollected(result) })
	}
	if err := v.reclaim(ctx, c, chosen, req.MaxFreed, &result); err != nil {
		return err
	}
	return v.answer(ctx, func() error { return v.WriteCollected(result) })
}

// reclaim deletes paths.
func (v *worker) reclaim(ctx context.Context, c *gc.Collector, dead []nix.StorePath, maxFreed uint64, result *workerproto.Collected) error {
	var sayErr error
	done, err := c.Reclaim(ctx, dead, gc.ReclaimOptions{
		Limited: maxFreed <= math.MaxInt64, MaxFreed: int64(min(maxFreed, math.MaxInt64)),
		LetGo: v.session.m.opts.Views.LetGo,
		Report: store.CollectReport{Deleted: func(infos []nix.PathInfo) {
			for _, info := range infos {
				full := v.Dir.Path(info.Path)
				result.Paths = append(result.Paths, full)
				sayErr = errors.Join(sayErr, v.log(workerproto.LevelInfo, "deleting '%s'", full))
			}
		}},
	})
	result.Bytes = uint64(max(done.Freed, 0))
	return errors.Join(err, sayErr)
}

func (v *worker) optimiseStore(ctx context.Context) error {
	if err := v.begin(); err != nil {
		return err
	}
	// Chunks are stored once from the beginning.
	return v.ok(ctx)
}
