package session

import (
	"context"
	"fmt"
	"io"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

// requests is what the requests of one client, by whatever protocol, have in common.
type requests struct {
	session *Session
	store   *store.Store
	request int64 // bytes of the budget that the present request has
	// expected are the paths that the client asked about and does not find here: it is about to send them. Until the last of them
	// comes its copy is not complete, so that the others need not be durable when they are acknowledged.
	expected map[nix.StorePath]struct{}
}

// maxExpected bounds expected. Who asks for more has each path made durable.
const maxExpected = 1 << 16

// take takes memory for the present request.
func (q *requests) take(n int64) error {
	if err := q.session.m.budget.take(n); err != nil {
		return err
	}
	q.request += n
	return nil
}

func (q *requests) release() {
	q.session.m.budget.give(q.request)
	q.request = 0
}

// expect takes those of asked that are not valid for what is to come.
func (q *requests) expect(asked, valid []nix.StorePath) {
	if len(asked)-len(valid)+len(q.expected) > maxExpected {
		q.expected = nil
		return
	}
	if q.expected == nil {
		q.expected = map[nix.StorePath]struct{}{}
	}
	i := 0 // valid has what asked has, in the same order
	for _, p := range asked {
		if i < len(valid) && valid[i] == p {
			i++
		} else {
			q.expected[p] = struct{}{}
		}
	}
}

// lazily reports whether more is to come after a path.
func (q *requests) lazily(p nix.StorePath) bool {
	if _, ok := q.expected[p]; !ok {
		return false
	}
	delete(q.expected, p)
	return len(q.expected) > 0
}

// holdOrFail pins paths, all of which must be valid.
func (q *requests) holdOrFail(paths ...nix.StorePath) error {
	valid, err := q.session.hold(paths)
	if err != nil || len(valid) == len(paths) {
		return err
	}
	for i, p := range paths { // valid has what paths has, in the same order
		if i == len(valid) || valid[i] != p {
			return &store.NotValidError{Path: q.store.Dir().Path(p)}
		}
	}
	return nil
}

// holds pins a path if it is valid, and reports whether it is.
func (q *requests) holds(p nix.StorePath) (bool, error) {
	valid, err := q.session.hold([]nix.StorePath{p})
	return len(valid) == 1, err
}

// notHad says that a path is not to be had.
func (q *requests) notHad(p nix.StorePath) string {
	return fmt.Sprintf("path '%s' is not valid, and there is no substituter that has it", q.store.Dir().Path(p))
}

// receive makes one path valid that the client sends.
func (q *requests) receive(ctx context.Context, info nix.PathInfo, opts store.ImportOptions, nar io.Reader) error {
	paid, err := q.session.payPins(1 + len(info.References))
	if err != nil {
		return err
	}
	defer paid()
	q.session.setDoing("receiving " + info.Path.BaseName())
	if q.session.access.Level != acl.Trusted {
		info.Ultimate = false
	}
	return q.store.Import(ctx, info, nar, opts)
}

// add makes a path valid whose name follows from its contents. It is durable within a second, and before the session ends: clients
// add derivations one by one, and would wait for the disk each time.
func (q *requests) add(ctx context.Context, src io.Reader, opts store.AddOptions) (nix.PathInfo, error) {
	paid, err := q.session.payPins(1 + len(opts.References))
	if err != nil {
		return nix.PathInfo{}, err
	}
	defer paid()
	q.session.setDoing("receiving " + opts.Name)
	opts.Holder, opts.Pins, opts.Lazy = q.session.holder(), q.session.pins, true
	return q.store.Add(ctx, src, opts)
}
