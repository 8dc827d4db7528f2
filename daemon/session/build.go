package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/daemon/build"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/daemon/workerproto"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
	"github.com/narfs/narfs/internal/nixwire"
)

// buildSettings are those of a session's builds, as settings have them.
func (s *Session) buildSettings(settings *acl.Settings, hear func(build.Event)) (build.Settings, error) {
	keys, err := settings.SecretKeys()
	if err != nil {
		return build.Settings{}, err
	}
	var users acl.Builders
	if settings.MaxJobs > 0 { // else nobody builds here
		if users, err = settings.Builders(); err != nil {
			return build.Settings{}, err
		}
	}
	cores := settings.Cores
	if cores == 0 {
		cores = runtime.NumCPU()
	}
	return build.Settings{
		Machines:   sync.OnceValues(func() ([]build.Machine, error) { return build.ParseMachines(settings.Machines, settings.System) }),
		Substitute: settings.MachinesSubst,
		MaxJobs:    settings.MaxJobs, Cores: cores, KeepGoing: settings.KeepGoing, KeepFailed: settings.KeepFailed,
		Timeout: settings.Timeout, MaxSilent: settings.MaxSilentTime, MaxLog: settings.MaxBuildLogSize,
		Sandboxed: settings.Sandbox == "true", Relaxed: settings.Sandbox == "relaxed", SandboxPaths: settings.SandboxPaths,
		Users:   build.Users{IDs: users.UIDs, GID: users.GID, First: users.First, Count: users.Count},
		Cgroups: settings.UseCgroups,
		System:  settings.System, Platforms: settings.ExtraPlatforms, Features: settings.SystemFeatures,
		LogLines: settings.LogLines, NoLog: !settings.KeepBuildLog, ImpureEnv: os.Getenv, Holder: s.holder(), Pins: s.pins, Hear: hear,
		Keys: keys, PostBuildHook: settings.PostBuildHook, Mirrors: strings.Join(settings.HashedMirrors, " "),
	}, nil
}

// buildResult is a result as the protocols have it.
func buildResult(r build.Result) (nixwire.BuildResult, error) {
	out := nixwire.BuildResult{Status: r.Status, ErrorMsg: r.Err, TimesBuilt: r.Times, Start: seconds(r.Start), Stop: seconds(r.Stop)}
	out.CPUUser, out.CPUSystem = r.CPU.Microseconds()
	for _, o := range r.Outputs {
		if o.Realisation.ID.IsZero() {
			continue
		}
		json, err := o.Realisation.JSON()
		if err != nil {
			return out, err
		}
		out.Outputs = append(out.Outputs, nixwire.BuiltOutput{ID: o.Realisation.ID.String(), Realisation: string(json)})
	}
	return out, nil
}

func seconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// build has derivations realised.
func (q *requests) build(ctx context.Context, wanted []build.Wanted, mode build.Mode, o build.Settings) ([]build.Result, error) {
	builder := q.session.m.opts.Builder
	if builder == nil {
		return nil, errNoBuilder
	}
	q.session.setDoing("building")
	return builder.Build(ctx, wanted, mode, o), nil
}

// buildDerivation has a derivation realised whose inputs are there, if the client may have it built.
func (q *requests) buildDerivation(ctx context.Context, p nix.StorePath, d *drv.BasicDerivation, mode build.Mode, o build.Settings) (nixwire.BuildResult, error) {
	builder := q.session.m.opts.Builder
	if builder == nil {
		return nixwire.BuildResult{Status: nixwire.MiscFailure, ErrorMsg: errNoBuilder.Error()}, nil
	}
	kind, err := d.Kind()
	if err != nil {
		return nixwire.BuildResult{Status: nixwire.MiscFailure, ErrorMsg: fmt.Sprintf("derivation '%s': %v", q.store.Dir().Path(p), err)}, nil
	}
	// Where the contents decide about the path, nobody can put there what he likes. Else it needs the derivation, and all below it.
	if kind == drv.InputAddressed || kind == drv.Deferred {
		if err := q.session.access.May(acl.BuildAny); err != nil {
			return nixwire.BuildResult{}, err
		}
	}
	if q.session.access.Level != acl.Trusted {
		// What it says that it is called like counts for others.
		if p, err = q.ownPath(ctx, d); err != nil {
			return nixwire.BuildResult{}, err
		}
	}
	q.session.setDoing("building " + p.BaseName())
	return buildResult(builder.BuildDerivation(ctx, p, d, mode, o))
}

// ownPath stores a derivation and returns its path.
func (q *requests) ownPath(ctx context.Context, basic *drv.BasicDerivation) (nix.StorePath, error) {
	d := &drv.Derivation{BasicDerivation: *basic}
	file, err := d.File(q.store.Dir())
	if err != nil {
		return nix.StorePath{}, err
	}
	info, err := q.add(ctx, bytes.NewReader(file.Text), store.AddOptions{
		Name: d.Name + drv.Extension, Method: nix.MethodText, References: file.References, LockTimeout: q.session.settings.LockTimeout,
	})
	return info.Path, err
}

// Build has derivations realised for a command, with the settings as change leaves them. What it gives stays until the session ends.
func (s *Session) Build(ctx context.Context, wanted []build.Wanted, mode build.Mode, change func(*acl.Settings), hear func(build.Event)) ([]build.Result, error) {
	if err := s.access.May(acl.Build); err != nil {
		return nil, err
	}
	builder := s.m.opts.Builder
	if builder == nil {
		return nil, errNoBuilder
	}
	own := *s.settings
	change(&own)
	settings, err := s.buildSettings(&own, hear)
	if err != nil {
		return nil, err
	}
	// What is built must not survive a crash that takes what it was built from.
	if err := s.m.store.Flush(ctx); err != nil {
		return nil, err
	}
	return builder.Build(ctx, wanted, mode, settings), nil
}

// Missing says what would have to be built.
func (s *Session) Missing(ctx context.Context, wanted []workerproto.DerivedPath) (workerproto.Missing, error) {
	q := &requests{session: s, store: s.m.store}
	defer q.release()
	return q.missing(ctx, wanted)
}

// errNoBuilder says that this process does not build.
var errNoBuilder = errors.New("nothing is built here")
