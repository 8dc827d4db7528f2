package remote

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/narfs/narfs/daemon/build"
	"github.com/narfs/narfs/daemon/serveproto"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
	"github.com/narfs/narfs/internal/nixwire"
	"github.com/narfs/narfs/internal/wire"
)

// serve is a conversation by the serve protocol.
type serve struct {
	*process

	store  *store.Store
	client *serveproto.Client
}

func openServe(p *process, s *store.Store) (*serve, error) {
	client, err := serveproto.Open(p.out, p.in, s.Dir())
	if err != nil {
		return nil, err
	}
	if !client.Version.AtLeast(2, 5) {
		return nil, fmt.Errorf("it speaks version %v of the protocol; builders need 2.5, which Nix 2.2 has", client.Version)
	}
	return &serve{p, s, client}, nil
}

func (c *serve) ping() error {
	_, err := c.client.QueryValidPaths(nil, false, false)
	return err
}

// Upload implements build.Session.
func (c *serve) Upload(ctx context.Context, paths []nix.StorePath, substitute bool) error {
	valid, err := c.client.QueryValidPaths(paths, true, substitute)
	if err != nil {
		return c.explain(err)
	}
	return eachMissing(c.store, paths, valid, func(info nix.PathInfo) error {
		return c.explain(c.client.AddToStoreNar(info, func(w io.Writer) error { return c.store.WriteNAR(ctx, info.Path, w) }, nil))
	}, func() error { return c.explain(c.client.Finish()) })
}

// eachMissing calls send with those of some valid paths that are not among others, each behind what it refers to, and finish at the end.
func eachMissing(s *store.Store, paths, others []nix.StorePath, send func(nix.PathInfo) error, finish func() error) error {
	there := make(map[nix.StorePath]struct{}, len(others))
	for _, p := range others {
		there[p] = struct{}{}
	}
	missing := slices.DeleteFunc(slices.Clone(paths), func(p nix.StorePath) bool { _, ok := there[p]; return ok })
	missing, err := s.Sorted(missing)
	if err != nil {
		return err
	}
	for _, p := range missing {
		info, err := s.PathInfo(p)
		if err != nil {
			return err
		}
		info.Ultimate = false
		if err := send(info); err != nil {
			return err
		}
	}
	return finish()
}

// seconds rounds up: 0 would be no limit.
func seconds(d time.Duration) uint64 { return uint64((d + time.Second - 1) / time.Second) }

// Build implements build.Session.
func (c *serve) Build(_ context.Context, p nix.StorePath, d *drv.BasicDerivation, l build.Limits, log io.Writer) (nixwire.BuildResult, error) {
	c.ears.all()
	c.ears.to(log)
	defer c.ears.to(nil)
	r, err := c.client.BuildDerivation(serveproto.BuildDerivationRequest{Path: p, Derivation: *d, Options: serveproto.BuildOptions{
		MaxSilentTime: seconds(l.MaxSilent), BuildTimeout: seconds(l.Timeout), MaxLogSize: uint64(l.MaxLog), KeepFailed: l.KeepFailed,
	}})
	if err == nil {
		err = c.settle()
	}
	return r, c.explain(err)
}

// settle returns when all that was said before the result of a build has been heard. It comes another way than the result, through the
// error output: so it is there when the other side has been asked and has answered, and nothing was said between.
func (c *serve) settle() error {
	heard := c.ears.all()
	for range mostTimes {
		if err := c.ping(); err != nil {
			return err
		}
		before := heard
		if heard = c.ears.all(); heard == before {
			break
		}
	}
	return nil
}

// mostTimes is more than it takes to empty what pipes hold.
const mostTimes = 256

// Fetch implements build.Session.
func (c *serve) Fetch(paths []nix.StorePath, take func(info nix.PathInfo, nar io.Reader) error) error {
	infos, err := c.client.QueryPathInfos(paths)
	if err != nil {
		return c.explain(err)
	}
	if len(infos) < len(paths) {
		return fmt.Errorf("of %d outputs the other side knows %d", len(paths), len(infos))
	}
	infos = nix.InOrder(infos)
	sorted := make([]nix.StorePath, 0, len(infos))
	for _, info := range infos {
		sorted = append(sorted, info.Path)
	}
	var taken error
	err = c.client.DumpStorePaths(sorted, func(i int, r *wire.Reader) error {
		taken = take(infos[i], r)
		return taken
	})
	if taken != nil {
		return taken
	}
	return c.explain(err)
}
