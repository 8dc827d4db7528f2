package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/daemon/build"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/daemon/workerproto"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nixwire"
)

func (v *worker) ensurePath(ctx context.Context) error {
	p, err := v.pathArgument()
	if err != nil {
		return err
	}
	if there, err := v.holds(p); err != nil {
		return err
	} else if !there {
		return errors.New(v.notHad(p))
	}
	return v.ok(ctx)
}

// has reports whether what a client wants to have is there, and holds it.
func (q *requests) has(ctx context.Context, d workerproto.DerivedPath) (bool, error) {
	if !d.Built {
		return q.holds(d.Path)
	}
	outputs, err := q.outputs(ctx, d)
	if err != nil {
		return false, err
	}
	for _, o := range outputs {
		if o.Path.IsZero() {
			return false, nil
		}
		if there, err := q.holds(o.Path); err != nil || !there {
			return false, err
		}
	}
	return true, nil
}

// outputs returns those outputs of a derivation that a client means, and where they are, or will be.
func (q *requests) outputs(ctx context.Context, d workerproto.DerivedPath) ([]workerproto.OutputPath, error) {
	all, err := q.outputMap(ctx, d.Path)
	if err != nil || len(d.Outputs) == 0 {
		return all, err
	}
	var some []workerproto.OutputPath
	for _, name := range d.Outputs {
		i := slices.IndexFunc(all, func(o workerproto.OutputPath) bool { return o.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("derivation '%s' does not have an output named '%s'", q.store.Dir().Path(d.Path), name)
		}
		some = append(some, all[i])
	}
	return some, nil
}

// outputMap returns where the outputs of a valid derivation are, or will be, as far as that is known, by their names.
func (q *requests) outputMap(ctx context.Context, p nix.StorePath) ([]workerproto.OutputPath, error) {
	if !store.IsDerivation(p) {
		return nil, fmt.Errorf("'%s' is not a derivation", q.store.Dir().Path(p))
	}
	d, err := q.store.Derivation(p)
	if err != nil {
		return nil, err
	}
	outputs, err := q.store.KnownOutputs(ctx, d)
	if err != nil {
		return nil, err
	}
	all := make([]workerproto.OutputPath, len(outputs))
	for i, r := range outputs {
		all[i] = workerproto.OutputPath{Name: r.ID.Output, Path: r.OutPath}
	}
	return all, nil
}

func (v *worker) queryDerivationOutputs(ctx context.Context) error {
	p, err := v.pathArgument()
	if err != nil {
		return err
	}
	all, err := v.outputMap(ctx, p)
	if err != nil {
		return err
	}
	var paths []nix.StorePath
	for _, o := range all {
		if !o.Path.IsZero() {
			paths = append(paths, o.Path)
		}
	}
	return v.answerPaths(ctx, paths)
}

func (v *worker) queryDerivationOutputNames(ctx context.Context) error {
	p, err := v.pathArgument()
	if err != nil {
		return err
	}
	d, err := v.store.Derivation(p)
	if err != nil {
		return err
	}
	return v.answer(ctx, func() error { return v.WriteNames(d.OutputNames()) })
}

func (v *worker) queryDerivationOutputMap(ctx context.Context) error {
	p, err := v.pathArgument()
	if err != nil {
		return err
	}
	all, err := v.outputMap(ctx, p)
	if err != nil {
		return err
	}
	return v.answer(ctx, func() error { return v.WriteOutputMap(all) })
}

func (v *worker) queryValidDerivers(ctx context.Context) error {
	p, err := v.pathArgument()
	if err != nil {
		return err
	}
	paths, err := v.store.Derivers(p)
	if err != nil {
		return err
	}
	return v.answerPaths(ctx, paths)
}

// queryMissing says what would have to be built.
func (v *worker) queryMissing(ctx context.Context) error {
	wanted, err := v.ReadDerivedPaths()
	if err != nil {
		return err
	}
	if err := v.begin(); err != nil {
		return err
	}
	missing, err := v.missing(ctx, wanted)
	if err != nil {
		return err
	}
	return v.answer(ctx, func() error { return v.WriteMissing(missing) })
}

// missing finds out what would have to be built.
func (q *requests) missing(ctx context.Context, wanted []workerproto.DerivedPath) (missing workerproto.Missing, err error) {
	seen := map[nix.StorePath]struct{}{}
	for len(wanted) > 0 {
		if ctx.Err() != nil {
			return missing, context.Cause(ctx)
		}
		d := wanted[len(wanted)-1]
		wanted = wanted[:len(wanted)-1]
		if _, ok := seen[d.Path]; ok {
			continue
		}
		there, err := q.has(ctx, d)
		switch {
		case errors.Is(err, store.ErrNotValid) || err == nil && !there && !d.Built:
			seen[d.Path] = struct{}{}
			missing.Unknown = append(missing.Unknown, d.Path)
			continue
		case err != nil:
			return missing, err
		case there:
			continue
		}
		seen[d.Path] = struct{}{}
		missing.WillBuild = append(missing.WillBuild, d.Path)
		derivation, err := q.store.Derivation(d.Path)
		if err != nil {
			return missing, err
		}
		if err := q.take(int64(len(derivation.InputDrvs)) * pinCost); err != nil {
			return missing, err
		}
		for input, outputs := range derivation.InputDrvs {
			wanted = append(wanted, workerproto.DerivedPath{Path: input, Built: true, Outputs: outputs})
		}
	}
	return missing, nil
}

// buildMode is the mode of a build that a client asks for, if he may.
func (v *worker) buildMode(mode workerproto.BuildMode) (build.Mode, error) {
	switch {
	case mode == workerproto.BuildCheck:
		return build.Check, nil
	case mode != workerproto.BuildRepair:
		return build.Normal, nil
	case !v.may(acl.Repair):
		return 0, errors.New("repairing is not allowed because you are not in 'trusted-users'")
	default:
		return build.Repair, nil
	}
}

func (v *worker) buildPaths(ctx context.Context) error {
	results, err := v.buildAll(ctx)
	if err != nil {
		return err
	}
	var bad []string
	first := ""
	for _, r := range results {
		if r.Result.Status > nixwire.AlreadyValid {
			bad = append(bad, "'"+v.Dir.Path(r.Path.Path)+"'")
			first = r.Result.ErrorMsg
		}
	}
	switch len(bad) {
	case 0:
		return v.ok(ctx)
	case 1:
		return errors.New(first)
	default:
		return fmt.Errorf("build of %s failed", strings.Join(bad, ", "))
	}
}

// outputCost is about what a built output takes beside its realisation.
const outputCost = 256

// buildAll reads which paths a client wants, has them there, and says what became of each.
func (v *worker) buildAll(ctx context.Context) ([]workerproto.KeyedBuildResult, error) {
	req, err := v.ReadBuildPaths()
	if err != nil {
		return nil, err
	}
	if err := v.begin(); err != nil {
		return nil, err
	}
	mode, err := v.buildMode(req.Mode)
	if err != nil {
		return nil, err
	}
	results := make([]workerproto.KeyedBuildResult, len(req.Paths))
	var wanted []build.Wanted
	var at []int
	for i, d := range req.Paths {
		results[i].Path = d
		if d.Built {
			wanted, at = append(wanted, build.Wanted{Path: d.Path, Outputs: d.Outputs}), append(at, i)
			continue
		}
		there, err := v.holds(d.Path)
		if err != nil {
			return nil, err
		}
		results[i].Result.Status = nixwire.AlreadyValid
		if !there {
			results[i].Result = nixwire.BuildResult{Status: nixwire.NoSubstituters, ErrorMsg: v.notHad(d.Path)}
		}
	}
	if len(wanted) == 0 {
		return results, nil
	}
	if err := v.store.Flush(ctx); err != nil {
		return nil, err
	}
	v.changed = true
	settings, err := v.buildSettings()
	if err != nil {
		return nil, err
	}
	built, err := v.build(ctx, wanted, mode, settings)
	if err != nil {
		return nil, err
	}
	for i, r := range built {
		result, err := buildResult(r)
		if err != nil {
			return nil, err
		}
		for _, out := range result.Outputs {
			if err := v.take(outputCost + int64(len(out.Realisation))); err != nil {
				return nil, err
			}
		}
		results[at[i]].Result = result
	}
	return results, nil
}

// buildSettings are those of the client's builds, of which he is told.
func (v *worker) buildSettings() (build.Settings, error) {
	settings, err := v.session.buildSettings(v.settings, v.hear())
	v.Gather()
	settings.Heard = func() { _ = v.FlushMessages() } // who does not listen will be found out
	return settings, err
}

// hear returns what tells the client of builds.
func (v *worker) hear() func(build.Event) {
	var mu sync.Mutex
	ids := map[nix.StorePath]uint64{}
	return func(e build.Event) {
		mu.Lock()
		defer mu.Unlock()
		full := v.Dir.Path(e.Path)
		// Who does not listen will be found out.
		switch e.Kind {
		case build.EventStarted:
			v.activity++
			ids[e.Path] = v.activity
			text := fmt.Sprintf("building '%s'", full)
			if e.Machine != "" {
				text += fmt.Sprintf(" on '%s'", e.Machine)
			}
			_ = v.StartActivity(workerproto.Activity{
				ID: v.activity, Level: workerproto.LevelInfo, Type: workerproto.ActBuild, Text: text,
				Fields: []workerproto.Field{workerproto.Text(full), workerproto.Text(e.Machine), workerproto.Int(1), workerproto.Int(1)},
			})
		case build.EventLine:
			id, ok := ids[e.Path]
			if ok && v.Version.AtLeast(1, 20) {
				_ = v.Result(id, workerproto.ResBuildLogLine, workerproto.Text(e.Line))
			} else {
				_ = v.Log(workerproto.LevelError, e.Line)
			}
		case build.EventEnded:
			_ = v.StopActivity(ids[e.Path])
			delete(ids, e.Path)
		case build.EventPhase:
			if id, ok := ids[e.Path]; ok && v.Version.AtLeast(1, 20) {
				_ = v.Result(id, workerproto.ResSetPhase, workerproto.Text(e.Line))
			}
		case build.EventOutput, build.EventFailed:
		}
	}
}

func (v *worker) buildPathsWithResults(ctx context.Context) error {
	results, err := v.buildAll(ctx)
	if err != nil {
		return err
	}
	return v.answer(ctx, func() error { return v.WriteKeyedBuildResults(results) })
}

func (v *worker) buildDerivation(ctx context.Context) error {
	req, err := v.ReadBuildDerivation()
	if err != nil {
		return err
	}
	if err := v.begin(); err != nil {
		return err
	}
	mode, err := v.buildMode(req.Mode)
	if err != nil {
		return err
	}
	v.changed = true
	settings, err := v.buildSettings()
	if err != nil {
		return err
	}
	r, err := v.requests.buildDerivation(ctx, req.Path, &req.Derivation, mode, settings)
	if err != nil {
		return err
	}
	return v.answer(ctx, func() error { return v.WriteBuildResult(r) })
}
