package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/daemon/build"
	"github.com/narfs/narfs/daemon/serveproto"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/daemon/workerproto"
	"github.com/narfs/narfs/internal/nix"
)

// ServeOptions of one client of the serve protocol.
type ServeOptions struct {
	// Write allows what changes the store, as nix-store --serve --write does.
	Write bool
	// Compression of what is new to the store.
	Compression store.Compression
	// Log gets what builders say; nil discards.
	Log io.Writer
}

// serveOp is a row of the serve protocol's table.
type serveOp struct {
	command serveproto.Command
	since   serveproto.Version // below it the command is unknown
	// write says that the command needs --write; refusal is what Nix says without.
	write   bool
	refusal string
	need    acl.Permission
	do      func(s *server, ctx context.Context) error
}

func serveOps() []serveOp {
	const noImport, noBuild = "importing paths is not allowed", "building paths is not allowed"
	v20, v25 := serveproto.Version{Major: 2}, serveproto.Version{Major: 2, Minor: 5}
	return []serveOp{
		{command: serveproto.QueryValidPaths, since: v20, need: acl.Query, do: (*server).queryValidPaths},
		{command: serveproto.QueryPathInfos, since: v20, need: acl.Query, do: (*server).queryPathInfos},
		{command: serveproto.DumpStorePath, since: v20, need: acl.Query, do: (*server).dumpStorePath},
		{command: serveproto.ImportPaths, since: v20, write: true, refusal: noImport, need: acl.Add, do: (*server).importPaths},
		{command: serveproto.ExportPaths, since: v20, need: acl.Query, do: (*server).exportPaths},
		{command: serveproto.BuildPaths, since: v20, write: true, refusal: noBuild, need: acl.Build, do: (*server).buildPaths},
		{command: serveproto.QueryClosure, since: v20, need: acl.Query, do: (*server).queryClosure},
		{command: serveproto.BuildDerivation, since: v20, write: true, refusal: noBuild, need: acl.Build, do: (*server).buildDerivation},
		{command: serveproto.AddToStoreNar, since: v25, write: true, refusal: noImport, need: acl.Add, do: (*server).addToStoreNar},
	}
}

// server serves one client of the serve protocol.
type server struct {
	*serveproto.Conn
	requests

	opts ServeOptions
}

// Serve speaks the serve protocol with a session's client until that has no more to ask. The error is for the client's error
// output: see the package comment. When ctx ends, reading and writing must end, which is the caller's to see to.
func (m *Manager) Serve(ctx context.Context, s *Session, r io.Reader, w io.Writer, o ServeOptions) error {
	err := m.serve(ctx, s, r, w, o)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}

func (m *Manager) serve(ctx context.Context, s *Session, r io.Reader, w io.Writer, o ServeOptions) error {
	conn, err := serveproto.Accept(s.Read(r), s.Write(w), m.store.Dir())
	if err != nil {
		return err
	}
	v := &server{Conn: conn, requests: requests{session: s, store: m.store}, opts: o}
	conn.Budget = v.take
	defer v.release()
	ops := serveOps()
	for {
		v.release()
		s.setDoing(waiting)
		command, err := conn.Command()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		i := slices.IndexFunc(ops, func(op serveOp) bool { return op.command == command && !conn.Version.Less(op.since) })
		if i < 0 {
			return fmt.Errorf("unknown serve command %d", uint64(command))
		}
		op := ops[i]
		if op.write && !o.Write {
			return errors.New(op.refusal)
		}
		if err := s.access.May(op.need); err != nil {
			return err
		}
		s.setDoing(command.String())
		if err := op.do(v, ctx); err != nil {
			return err
		}
		if err := conn.W.Flush(); err != nil {
			return err
		}
	}
}

// pinCost is about what a pinned path takes, with its name.
const pinCost = 384

// hold pins those of paths that are valid and returns them.
func (s *Session) hold(paths []nix.StorePath) ([]nix.StorePath, error) {
	if err := s.takePins(len(paths)); err != nil {
		return nil, err
	}
	before := s.asked.Len()
	valid, err := s.asked.AddValid(paths)
	s.givePins(len(paths) - (s.asked.Len() - before))
	return valid, err
}

// letGo lets go of what the client only asked about.
func (s *Session) letGo() {
	n := s.asked.Len()
	s.asked.Release()
	s.givePins(n)
}

func (s *Session) takePins(n int) error {
	if err := s.m.budget.take(int64(n) * pinCost); err != nil {
		return err
	}
	s.pinned.Add(int64(n) * pinCost)
	return nil
}

func (s *Session) givePins(n int) {
	s.pinned.Add(-int64(n) * pinCost)
	s.m.budget.give(int64(n) * pinCost)
}

// payPins takes memory for up to n pins that somebody else is going to add; paid gives back what these have not needed.
func (s *Session) payPins(n int) (paid func(), err error) {
	if err := s.takePins(n); err != nil {
		return nil, err
	}
	before := s.pins.Len()
	return func() { s.givePins(n - (s.pins.Len() - before)) }, nil
}

// holdAlso pins paths whether or not they are valid.
func (s *Session) holdAlso(paths ...nix.StorePath) error {
	paid, err := s.payPins(len(paths))
	if err != nil {
		return err
	}
	defer paid()
	s.pins.Add(paths...)
	return nil
}

func (v *server) queryValidPaths(ctx context.Context) error {
	req, err := v.ReadQueryValidPaths()
	if err != nil {
		return err
	}
	if req.Lock && v.opts.Write {
		// Also those that are not valid yet, as Nix has it.
		if err := v.session.holdAlso(req.Paths...); err != nil {
			return err
		}
	}
	valid, err := v.session.hold(req.Paths)
	if err != nil {
		return err
	}
	if v.opts.Write {
		v.expect(req.Paths, valid)
	}
	// What is told to be there must stay there.
	if err := v.store.Flush(ctx); err != nil {
		return err
	}
	return v.WritePaths(valid)
}

func (v *server) queryPathInfos(ctx context.Context) error {
	paths, err := v.ReadPaths()
	if err != nil {
		return err
	}
	valid, err := v.session.hold(paths)
	if err != nil {
		return err
	}
	if err := v.store.Flush(ctx); err != nil {
		return err
	}
	for _, p := range valid {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		info, err := v.store.PathInfo(p)
		if err != nil {
			return err
		}
		if err := v.WritePathInfo(info); err != nil {
			return err
		}
	}
	return v.WritePathInfosEnd()
}

func (v *server) dumpStorePath(ctx context.Context) error {
	p, err := v.ReadPath()
	if err != nil {
		return err
	}
	if err := v.holdOrFail(p); err != nil {
		return err
	}
	v.session.setDoing("sending " + p.BaseName())
	return v.store.WriteNAR(ctx, p, v.W)
}

func (v *server) queryClosure(context.Context) error {
	// Nix once could add the outputs of derivations; nobody asks for them, and Nix no longer knows how.
	_, paths, err := v.ReadQueryClosure()
	if err != nil {
		return err
	}
	if err := v.holdOrFail(paths...); err != nil {
		return err
	}
	closure, err := v.store.Closure(paths...)
	if err != nil {
		return err
	}
	return v.WritePaths(closure)
}

func (v *server) exportPaths(ctx context.Context) error {
	paths, err := v.ReadExportPaths()
	if err != nil {
		return err
	}
	if err := v.holdOrFail(paths...); err != nil {
		return err
	}
	v.session.setDoing(fmt.Sprintf("sending %d paths", len(paths)))
	return v.store.ExportStream(ctx, v.W, paths...)
}

// importOptions are those of everything that the client sends.
func (s *Session) importOptions() store.ImportOptions {
	return store.ImportOptions{
		Holder:           s.holder(),
		RequireSignature: s.settings.RequireSigs && s.access.Level != acl.Trusted,
		Keys:             s.settings.TrustedKeys,
		Pins:             s.pins,
		LockTimeout:      s.settings.LockTimeout,
	}
}

func (v *server) importPaths(ctx context.Context) error {
	opts := v.session.importOptions()
	opts.Compression = v.opts.Compression
	err := v.store.ImportStream(ctx, v.R, opts, func(info nix.PathInfo) {
		v.session.setDoing("receiving; the last path was " + info.Path.BaseName())
	})
	if err != nil {
		return err
	}
	return v.WriteOK()
}

func (v *server) addToStoreNar(ctx context.Context) error {
	info, err := v.ReadAddToStoreNar()
	if err != nil {
		return err
	}
	opts := v.session.importOptions()
	opts.Lazy, opts.Compression = v.lazily(info.Path), v.opts.Compression
	if err := v.receive(ctx, info, opts, v.R); err != nil {
		return err
	}
	return v.WriteOK()
}

// settings are those of a request to build: Nix's server neither substitutes nor keeps logs.
func (v *server) settings(o serveproto.BuildOptions) (build.Settings, error) {
	log := v.opts.Log
	s, err := v.session.buildSettings(v.session.settings, func(e build.Event) {
		if e.Kind == build.EventOutput && log != nil {
			_, _ = log.Write(e.Data) // who does not listen does not hear
		}
	})
	s.MaxSilent, s.Timeout = time.Duration(o.MaxSilentTime)*time.Second, time.Duration(o.BuildTimeout)*time.Second
	s.MaxLog, s.KeepFailed = int64(min(o.MaxLogSize, math.MaxInt64)), s.KeepFailed || o.KeepFailed
	return s, err
}

func (v *server) buildPaths(ctx context.Context) error {
	req, err := v.ReadBuildPaths()
	if err != nil {
		return err
	}
	var wanted []build.Wanted
	for _, text := range req.Paths {
		d, err := workerproto.ParseDerivedPath(v.store.Dir(), text, true)
		if err != nil {
			return err
		}
		if d.Built {
			wanted = append(wanted, build.Wanted{Path: d.Path, Outputs: d.Outputs})
			continue
		}
		if there, err := v.holds(d.Path); err != nil {
			return err
		} else if !there {
			return v.WriteNotBuilt(1, v.notHad(d.Path))
		}
	}
	settings, err := v.settings(req.Options)
	if err != nil {
		return v.WriteNotBuilt(1, err.Error())
	}
	results, err := v.build(ctx, wanted, build.Normal, settings)
	if err != nil {
		return v.WriteNotBuilt(1, err.Error())
	}
	for _, r := range results {
		if !r.OK() {
			return v.WriteNotBuilt(buildFailed, r.Err)
		}
	}
	return v.WriteBuilt()
}

// buildFailed is the exit status of Nix's commands when a build has failed.
const buildFailed = 100

func (v *server) buildDerivation(ctx context.Context) error {
	req, err := v.ReadBuildDerivation()
	if err != nil {
		return err
	}
	settings, err := v.settings(req.Options)
	if err != nil {
		return err
	}
	r, err := v.requests.buildDerivation(ctx, req.Path, &req.Derivation, build.Normal, settings)
	if err != nil {
		return err
	}
	return v.WriteBuildResult(r)
}
