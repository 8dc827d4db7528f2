package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/narfs/narfs/daemon/build"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/daemon/workerproto"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
	"github.com/narfs/narfs/internal/nixwire"
)

// worker is a conversation by the worker protocol.
type worker struct {
	*process

	store  *store.Store
	client *workerproto.Client

	// Who is not trusted gets in what is signed or content-addressed only. The rest the other side has to build itself.
	guest   bool
	refused map[nix.StorePath]struct{} // by the last upload
}

func openWorker(p *process, s *store.Store) (*worker, error) {
	client, err := workerproto.Open(p.out, p.in, s.Dir(), workerproto.Latest)
	if err != nil {
		return nil, err
	}
	if !client.Version.AtLeast(1, 18) {
		return nil, fmt.Errorf("it speaks version %v of the protocol; builders need 1.18", client.Version)
	}
	return &worker{process: p, store: s, client: client, guest: client.Server.Trust == workerproto.NotTrusted}, nil
}

func (c *worker) ping() error {
	_, err := c.client.QueryValidPaths(workerproto.QueryValidPathsRequest{})
	return err
}

// Upload implements build.Session.
func (c *worker) Upload(ctx context.Context, paths []nix.StorePath, substitute bool) error {
	c.refused = map[nix.StorePath]struct{}{}
	valid, err := c.client.QueryValidPaths(workerproto.QueryValidPathsRequest{Paths: paths, Substitute: substitute})
	if err != nil {
		return c.said(err)
	}
	var all []workerproto.Added
	return eachMissing(c.store, paths, valid, func(info nix.PathInfo) error {
		one := workerproto.Added{Info: info, NAR: func(w io.Writer) error { return c.store.WriteNAR(ctx, info.Path, w) }}
		if c.guest {
			return c.said(c.offer(one))
		}
		all = append(all, one)
		return nil
	}, func() error {
		if len(all) == 0 {
			return nil
		}
		if c.client.Version.AtLeast(1, 32) {
			return c.said(c.client.AddMultipleToStore(workerproto.AddMultipleToStoreRequest{DontCheckSigs: true}, all))
		}
		for _, a := range all {
			if err := c.said(c.client.AddToStoreNar(workerproto.AddToStoreNarRequest{Info: a.Info, DontCheckSigs: true}, a.NAR)); err != nil {
				return err
			}
		}
		return nil
	})
}

// offer sends a path to who may refuse it, and then goes without those that refer to it.
func (c *worker) offer(one workerproto.Added) error {
	for _, ref := range one.Info.References {
		if _, ok := c.refused[ref]; ok && ref != one.Info.Path {
			c.refused[one.Info.Path] = struct{}{}
			return nil
		}
	}
	err := c.client.AddToStoreNar(workerproto.AddToStoreNarRequest{Info: one.Info}, one.NAR)
	if told, ok := errors.AsType[*workerproto.RemoteError](err); ok && strings.Contains(told.Message, "lacks a ") { // as Nix has it, and we
		c.refused[one.Info.Path] = struct{}{}
		return nil
	}
	return err
}

// build has a derivation built. Who is not trusted must show that its outputs are what they are called: by the derivation itself, with
// all those below it, by which the other side also builds the inputs that it did not take.
func (c *worker) build(ctx context.Context, p nix.StorePath, d *drv.BasicDerivation) (r nixwire.BuildResult, err error) {
	kind, err := d.Kind()
	if err != nil {
		return r, err
	}
	free := kind != drv.InputAddressed && kind != drv.Deferred
	if !c.guest || free && len(c.refused) == 0 {
		return c.client.BuildDerivation(p, d, workerproto.BuildNormal)
	}
	closure, err := c.store.Closure(p)
	if err != nil {
		return r, fmt.Errorf("it does not trust its user, who must be one of trusted-users there to have this built: %w", err)
	}
	if err := c.Upload(ctx, closure, false); err != nil {
		return r, err
	}
	results, err := c.client.BuildPathsWithResults(workerproto.BuildPathsRequest{Paths: []workerproto.DerivedPath{{Path: p, Built: true}}})
	if err == nil && len(results) != 1 {
		err = fmt.Errorf("%d results for one derivation", len(results))
	}
	if err != nil {
		return r, err
	}
	return results[0].Result, nil
}

// Build implements build.Session.
func (c *worker) Build(ctx context.Context, p nix.StorePath, d *drv.BasicDerivation, l build.Limits, log io.Writer) (r nixwire.BuildResult, err error) {
	err = c.client.SetOptions(workerproto.Options{
		KeepFailed: l.KeepFailed, MaxBuildJobs: 1, MaxSilentTime: seconds(l.MaxSilent),
		Overrides: [][2]string{{"timeout", fmt.Sprint(seconds(l.Timeout))}, {"max-build-log-size", fmt.Sprint(l.MaxLog)}},
	})
	if err == nil {
		c.client.Hear = func(m workerproto.Message) {
			if m.Result != nil && m.Result.Type == workerproto.ResBuildLogLine && len(m.Result.Fields) > 0 {
				_, _ = io.WriteString(log, m.Result.Fields[0].Text+"\n") // a log does not fail
			}
		}
		r, err = c.build(ctx, p, d)
		c.client.Hear = nil
	}
	return r, c.said(err)
}

// Fetch implements build.Session.
func (c *worker) Fetch(paths []nix.StorePath, take func(info nix.PathInfo, nar io.Reader) error) error {
	var infos []nix.PathInfo
	for _, p := range paths {
		info, ok, err := c.client.QueryPathInfo(p)
		if err != nil {
			return c.said(err)
		}
		if !ok {
			return fmt.Errorf("the other side does not know '%s'", c.store.Dir().Path(p))
		}
		infos = append(infos, info)
	}
	var taken error
	for _, info := range nix.InOrder(infos) {
		err := c.client.NarFromPath(info.Path, func(r io.Reader) error {
			taken = take(info, r)
			return taken
		})
		if taken != nil {
			return taken
		}
		if err != nil {
			return c.said(err)
		}
	}
	return nil
}

// said explains an error, unless it is one that the other side has told of by the protocol.
func (c *worker) said(err error) error {
	if _, told := errors.AsType[*workerproto.RemoteError](err); told {
		return err
	}
	return c.explain(err)
}
