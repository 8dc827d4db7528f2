package session

import (
	"context"
	"errors"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/daemon/workerproto"
	"github.com/narfs/narfs/internal/nix"
)

func (v *worker) isValidPath(ctx context.Context) error {
	p, err := v.pathArgument()
	if err != nil {
		return err
	}
	there, err := v.holds(p)
	if err != nil {
		return err
	}
	return v.answer(ctx, func() error { return v.W.Bool(there) })
}

func (v *worker) queryReferrers(ctx context.Context) error {
	p, err := v.pathArgument()
	if err != nil {
		return err
	}
	paths, err := v.store.Referrers(p)
	if err != nil {
		return err
	}
	return v.answerPaths(ctx, paths)
}

func (v *worker) queryDeriver(ctx context.Context) error {
	p, err := v.pathArgument()
	if err != nil {
		return err
	}
	info, err := v.store.PathInfo(p)
	if err != nil {
		return err
	}
	return v.answerPath(ctx, info.Deriver)
}

func (v *worker) queryPathInfo(ctx context.Context) error {
	p, err := v.pathArgument()
	if err != nil {
		return err
	}
	if _, err := v.holds(p); err != nil {
		return err
	}
	info, err := v.store.PathInfo(p)
	old := !v.Version.AtLeast(1, 17)
	if err != nil && (old || !errors.Is(err, store.ErrNotValid)) {
		return err
	}
	return v.answer(ctx, func() error {
		if !old {
			if werr := v.W.Bool(err == nil); err != nil {
				return werr
			}
		}
		return v.WriteUnkeyedPathInfo(info)
	})
}

func (v *worker) queryAllValidPaths(ctx context.Context) error {
	if err := v.begin(); err != nil {
		return err
	}
	var paths []nix.StorePath
	for info, err := range v.store.All() {
		if err == nil {
			err = v.take(pinCost)
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		paths = append(paths, info.Path)
	}
	return v.answerPaths(ctx, paths)
}

func (v *worker) queryPathFromHashPart(ctx context.Context) error {
	part, err := v.ReadHashPart()
	if err != nil {
		return err
	}
	if err := v.begin(); err != nil {
		return err
	}
	p, err := v.store.ByHashPart(part)
	if err != nil && !errors.Is(err, store.ErrNotValid) {
		return err
	}
	return v.answerPath(ctx, p)
}

func (v *worker) queryValidPaths(ctx context.Context) error {
	req, err := v.ReadQueryValidPaths()
	if err != nil {
		return err
	}
	if err := v.begin(); err != nil {
		return err
	}
	valid, err := v.session.hold(req.Paths)
	if err != nil {
		return err
	}
	v.expect(req.Paths, valid)
	// What is told to be there must stay there.
	if err := v.store.Flush(ctx); err != nil {
		return err
	}
	return v.answerPaths(ctx, valid)
}

// Of substitutes there are none yet.

func (v *worker) querySubstitutablePathInfo(ctx context.Context) error {
	if _, err := v.pathArgument(); err != nil {
		return err
	}
	return v.answer(ctx, func() error { return v.W.Bool(false) })
}

func (v *worker) querySubstitutablePathInfos(ctx context.Context) error {
	if _, err := v.ReadSubstitutable(); err != nil {
		return err
	}
	if err := v.begin(); err != nil {
		return err
	}
	return v.answer(ctx, func() error { return v.W.Uint64(0) })
}

func (v *worker) querySubstitutablePaths(ctx context.Context) error {
	if _, err := v.ReadPaths(); err != nil {
		return err
	}
	if err := v.begin(); err != nil {
		return err
	}
	return v.answerPaths(ctx, nil)
}

func (v *worker) narFromPath(ctx context.Context) error {
	p, err := v.pathArgument()
	if err != nil {
		return err
	}
	if err := v.holdOrFail(p); err != nil {
		return err
	}
	v.session.setDoing("sending " + p.BaseName())
	return v.answer(ctx, func() error { return v.store.WriteNAR(ctx, p, v.W) })
}

func (v *worker) verifyStore(ctx context.Context) error {
	req, err := v.ReadVerifyStore()
	if err != nil {
		return err
	}
	if err := v.begin(); err != nil {
		return err
	}
	opts := store.VerifyOptions{Contents: req.CheckContents}
	wrong := false
	if req.Repair {
		if err := v.session.access.May(acl.Repair); err != nil {
			return err
		}
		// What can be mended from the rest of the store is; there is nowhere yet to have contents again from.
		err = v.store.Repair(ctx, store.RepairOptions{Verify: opts}, func(r store.Repaired) {
			wrong = wrong || r.Action == store.ActionNone
			_ = v.log(workerproto.LevelError, "%v (%s)", r.Err, r.Action)
		})
	} else {
		err = v.store.Verify(ctx, opts, func(p store.Problem) {
			wrong = true
			_ = v.Log(workerproto.LevelError, p.Err.Error())
		})
	}
	if err != nil {
		return err
	}
	return v.answer(ctx, func() error { return v.W.Bool(wrong) })
}
