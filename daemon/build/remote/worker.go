package remote

import (
	"context"
	"errors"
	"fmt"
	"io"

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
}

func openWorker(p *process, s *store.Store) (*worker, error) {
	client, err := workerproto.Open(p.out, p.in, s.Dir(), workerproto.Latest)
	if err != nil {
		return nil, err
	}
	switch {
	case !client.Version.AtLeast(1, 18):
		return nil, fmt.Errorf("it speaks version %v of the protocol; builders need 1.18", client.Version)
	case client.Server.Trust == workerproto.NotTrusted:
		return nil, errors.New("it does not trust its user, who must be one of trusted-users there")
	}
	return &worker{p, s, client}, nil
}

func (c *worker) ping() error {
	_, err := c.client.QueryValidPaths(workerproto.QueryValidPathsRequest{})
	return err
}

// Upload implements build.Session.
func (c *worker) Upload(ctx context.Context, paths []nix.StorePath, substitute bool) error {
	valid, err := c.client.QueryValidPaths(workerproto.QueryValidPathsRequest{Paths: paths, Substitute: substitute})
	if err != nil {
		return c.said(err)
	}
	var all []workerproto.Added
	return eachMissing(c.store, paths, valid, func(info nix.PathInfo) error {
		all = append(all, workerproto.Added{Info: info, NAR: func(w io.Writer) error { return c.store.WriteNAR(ctx, info.Path, w) }})
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

// Build implements build.Session.
func (c *worker) Build(p nix.StorePath, d *drv.BasicDerivation, l build.Limits, log io.Writer) (r nixwire.BuildResult, err error) {
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
		r, err = c.client.BuildDerivation(p, d, workerproto.BuildNormal)
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
