package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/daemon/gc"
	"github.com/narfs/narfs/daemon/workerproto"
	"github.com/narfs/narfs/internal/nix"
)

// workerOp is a row of the worker protocol's table.
type workerOp struct {
	operation workerproto.Operation
	since     uint8 // the minor version below which the operation is unknown
	need      acl.Permission
	do        func(w *worker, ctx context.Context) error
}

func workerOps() []workerOp {
	return []workerOp{
		{workerproto.IsValidPath, 10, acl.Query, (*worker).isValidPath},
		{workerproto.QueryReferrers, 10, acl.Query, (*worker).queryReferrers},
		{workerproto.AddToStore, 10, acl.Add, (*worker).addToStore},
		{workerproto.AddTextToStore, 10, acl.Add, (*worker).addTextToStore},
		{workerproto.BuildPaths, 10, acl.Build, (*worker).buildPaths},
		{workerproto.EnsurePath, 10, acl.Build, (*worker).ensurePath},
		{workerproto.AddTempRoot, 10, acl.Add, (*worker).addTempRoot},
		{workerproto.AddIndirectRoot, 10, acl.Add, (*worker).addIndirectRoot},
		{workerproto.SyncWithGC, 10, acl.Query, (*worker).syncWithGC},
		{workerproto.FindRoots, 10, acl.Query, (*worker).findRoots},
		{workerproto.QueryDeriver, 10, acl.Query, (*worker).queryDeriver},
		{workerproto.SetOptions, 10, acl.Query, (*worker).setOptions},
		{workerproto.CollectGarbage, 10, acl.Collect, (*worker).collectGarbage},
		{workerproto.QuerySubstitutablePathInfo, 10, acl.Query, (*worker).querySubstitutablePathInfo},
		{workerproto.QueryDerivationOutputs, 10, acl.Query, (*worker).queryDerivationOutputs},
		{workerproto.QueryAllValidPaths, 10, acl.Query, (*worker).queryAllValidPaths},
		{workerproto.QueryPathInfo, 10, acl.Query, (*worker).queryPathInfo},
		{workerproto.QueryDerivationOutputNames, 10, acl.Query, (*worker).queryDerivationOutputNames},
		{workerproto.QueryPathFromHashPart, 11, acl.Query, (*worker).queryPathFromHashPart},
		{workerproto.QuerySubstitutablePathInfos, 12, acl.Query, (*worker).querySubstitutablePathInfos},
		{workerproto.QueryValidPaths, 12, acl.Query, (*worker).queryValidPaths},
		{workerproto.QuerySubstitutablePaths, 12, acl.Query, (*worker).querySubstitutablePaths},
		{workerproto.QueryValidDerivers, 13, acl.Query, (*worker).queryValidDerivers},
		{workerproto.OptimiseStore, 14, acl.Add, (*worker).optimiseStore},
		{workerproto.VerifyStore, 14, acl.Query, (*worker).verifyStore},
		{workerproto.BuildDerivation, 14, acl.Build, (*worker).buildDerivation},
		{workerproto.AddSignatures, 16, acl.Sign, (*worker).addSignatures},
		{workerproto.NarFromPath, 17, acl.Query, (*worker).narFromPath},
		{workerproto.AddToStoreNar, 17, acl.Add, (*worker).addToStoreNar},
		{workerproto.QueryMissing, 19, acl.Query, (*worker).queryMissing},
		{workerproto.QueryDerivationOutputMap, 22, acl.Query, (*worker).queryDerivationOutputMap},
		{workerproto.RegisterDrvOutput, 27, acl.Add, (*worker).registerDrvOutput},
		{workerproto.QueryRealisation, 27, acl.Query, (*worker).queryRealisation},
		{workerproto.AddMultipleToStore, 32, acl.Add, (*worker).addMultipleToStore},
		{workerproto.AddBuildLog, 32, acl.AddLog, (*worker).addBuildLog},
		{workerproto.BuildPathsWithResults, 34, acl.Build, (*worker).buildPathsWithResults},
		{workerproto.AddPermRoot, 36, acl.PermRoot, (*worker).addPermRoot},
	}
}

// worker serves one client of the worker protocol.
type worker struct {
	*workerproto.Conn
	requests

	settings *acl.Settings // with what the client has set
	activity uint64        // the last one's number

	// Of the present operation:
	need     acl.Permission
	begun    bool // its arguments have been read
	answered bool // its result has begun
	// rest reads what the client still sends of the operation's arguments; nil if nothing. Stop, if it is not nil, ends what reads it.
	rest func() error
	stop func()
	// changed says that the store has, which the mounts are to show before the client is answered.
	changed bool
	// lost says that nobody knows where the next operation begins.
	lost bool
}

// WorkerTrust says what a client is told about its being trusted.
func workerTrust(a acl.Access) workerproto.Trust {
	if a.Level == acl.Trusted {
		return workerproto.Trusted
	}
	return workerproto.NotTrusted
}

// Work speaks the worker protocol with a session's client until that has no more to ask. When ctx ends, reading must end, and
// writing a moment later, which is the caller's to see to.
func (m *Manager) Work(ctx context.Context, s *Session, r io.Reader, w io.Writer) error {
	err := m.work(ctx, s, r, w)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if errors.Is(err, ErrHangup) && *s.doing.Load() == waiting {
		err = nil // clients do not say goodbye
	}
	if ferr := m.store.Flush(context.WithoutCancel(ctx)); ferr != nil {
		return ferr // worse than whatever else
	}
	return err
}

func (m *Manager) work(ctx context.Context, s *Session, r io.Reader, w io.Writer) error {
	s.setDoing("greeting")
	conn, err := workerproto.Accept(s.Read(r), s.Write(w), m.store.Dir(), workerproto.Greeting{Program: m.opts.Program, Trust: workerTrust(s.access)})
	if err != nil {
		return err
	}
	// Clients expect to find these.
	err = gc.MakeLayout(m.store.StateDir())
	if err == nil {
		err = gc.MakeUserLayout(m.store.StateDir(), s.access.User, s.access.Peer.UID)
	}
	if err != nil {
		m.opts.Logger.WarnContext(ctx, "a client will not find its profiles", "err", err)
	}
	conn.SetLevel(workerproto.LevelInfo)
	conn.StartWork()
	if err := errors.Join(conn.StopWork(), conn.W.Flush()); err != nil {
		return err
	}
	v := &worker{Conn: conn, requests: requests{session: s, store: m.store}, settings: s.settings}
	conn.Budget = v.take
	defer v.release()
	defer func() {
		if v.stop != nil {
			v.stop()
		}
	}()
	ops := workerOps()
	for {
		v.release()
		s.setDoing(waiting)
		operation, err := conn.Operation()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		s.setDoing(operation.String())
		err = v.perform(ctx, ops, operation)
		if err == nil {
			err = conn.W.Flush()
		}
		if err != nil {
			if err = v.fail(ctx, err); err != nil {
				return err
			}
		}
	}
}

// perform does one operation.
func (v *worker) perform(ctx context.Context, ops []workerOp, operation workerproto.Operation) error {
	v.begun, v.answered, v.rest, v.changed, v.lost = false, false, nil, false, false
	i := slices.IndexFunc(ops, func(op workerOp) bool { return op.operation == operation && v.Version.AtLeast(1, op.since) })
	if i < 0 {
		return fmt.Errorf("invalid operation %d", uint64(operation))
	}
	v.need = ops[i].need
	return ops[i].do(v, ctx)
}

// begin says that the arguments have been read, but for v.rest, and asks whether the client may do what it wants.
func (v *worker) begin() error {
	v.begun = true
	v.StartWork()
	return v.session.access.May(v.need)
}

// done says that the work is done: the result follows.
func (v *worker) done(ctx context.Context) error {
	if v.rest != nil {
		if err := v.rest(); err != nil {
			v.lost = true
			return err
		}
	}
	if v.changed {
		// That a mount does not show it yet is no failure.
		if err := v.session.m.opts.Views.Sync(ctx); err != nil {
			v.session.m.opts.Logger.WarnContext(ctx, "the mounts do not show yet what has changed", "err", err)
		}
	}
	v.answered = true
	return v.StopWork()
}

// ok answers an operation that has no other result.
func (v *worker) ok(ctx context.Context) error {
	if err := v.done(ctx); err != nil {
		return err
	}
	return v.WriteOK()
}

// fail tells the client what went wrong, and returns an error if there is no going on.
func (v *worker) fail(ctx context.Context, cause error) error {
	if v.answered {
		return cause
	}
	var restErr error
	if v.rest != nil && !v.lost && ctx.Err() == nil {
		restErr = v.rest()
	}
	ends := ctx.Err() != nil
	if ends {
		cause = context.Cause(ctx)
	}
	if err := v.Fail(cause.Error()); err != nil {
		return errors.Join(cause, restErr, err)
	}
	if !v.begun || v.lost || ends { // who hangs up now has got his answer
		return cause
	}
	return restErr
}

// log tells the client something.
func (v *worker) log(level workerproto.Level, format string, args ...any) error {
	return v.Log(level, fmt.Sprintf(format, args...))
}

// pathArgument reads a path that is all that an operation wants to know, and begins.
func (v *worker) pathArgument() (nix.StorePath, error) {
	p, err := v.ReadPath()
	if err != nil {
		return p, err
	}
	return p, v.begin()
}

// answer writes a result.
func (v *worker) answer(ctx context.Context, write func() error) error {
	if err := v.done(ctx); err != nil {
		return err
	}
	return write()
}

func (v *worker) answerPaths(ctx context.Context, paths []nix.StorePath) error {
	return v.answer(ctx, func() error { return v.WritePaths(paths) })
}

func (v *worker) answerPath(ctx context.Context, p nix.StorePath) error {
	return v.answer(ctx, func() error { return v.WritePath(p) })
}

// Limits of what clients set.
const (
	maxJobs    = 1 << 16
	maxSeconds = 1 << 31
)

func (v *worker) setOptions(ctx context.Context) error {
	o, err := v.ReadOptions()
	if err != nil {
		return err
	}
	if err := v.begin(); err != nil {
		return err
	}
	v.SetLevel(o.Verbosity)
	settings, ignored := v.session.settings.For(v.session.access, o.Overrides)
	own := *settings
	own.KeepFailed, own.KeepGoing, own.MaxJobs = o.KeepFailed, o.KeepGoing, int(min(o.MaxBuildJobs, maxJobs))
	own.MaxSilentTime, own.Cores = time.Duration(min(o.MaxSilentTime, maxSeconds))*time.Second, int(min(o.BuildCores, maxJobs))
	v.settings = &own
	for _, text := range ignored {
		if err := v.Log(workerproto.LevelDebug, text); err != nil {
			return err
		}
	}
	return v.done(ctx)
}
