package workerproto

import (
	"errors"
	"fmt"
	"io"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
	"github.com/narfs/narfs/internal/nixwire"
	"github.com/narfs/narfs/internal/wire"
)

// Client is the client's side of a connection. Its methods must not be called concurrently. After a *RemoteError the connection can be
// used on if the server has kept it; after others it cannot.
type Client struct {
	*Conn

	Server Greeting       // what the server says of itself
	Hear   func(Message)  // hears of the server's work; nil does not listen
	source *io.PipeReader // what servers of 1.21 and 1.22 ask for piece by piece; nil while there is nothing
}

// Message is what a server tells while it works: of Type Log, StartActivity and so on, with what that has.
type Message struct {
	Text     string       // of a line of its log
	Activity *Activity    // that begins
	Stopped  uint64       // the activity that ends
	Result   *ActivityEnd // what an activity tells
}

// ActivityEnd is a result of an activity.
type ActivityEnd struct {
	ID     uint64
	Type   ResultType
	Fields []Field
}

// RemoteError is an error that the server has answered with.
type RemoteError struct {
	Level   Level
	Message string
}

// Error implements error.
func (e *RemoteError) Error() string { return e.Message }

// Open is the client's half of the handshake, for a client that speaks no later version than the given one.
func Open(r io.Reader, w io.Writer, dir nix.StoreDir, version nixwire.Version) (*Client, error) {
	c := &Client{Conn: newConn(r, w, dir)}
	if err := c.open(version); err != nil {
		return nil, fmt.Errorf("handshake: %w", nixwire.Unexpected(err))
	}
	return c, nil
}

func (c *Client) open(version nixwire.Version) error {
	_ = c.W.Uint64(ClientMagic) // the writer keeps its first error
	if err := c.W.Flush(); err != nil {
		return err
	}
	if magic, err := c.R.Uint64(); err != nil {
		return err
	} else if magic != ServerMagic {
		return ErrMismatch
	}
	theirs, err := c.R.Uint64()
	if err != nil {
		return err
	}
	if nixwire.ParseVersion(theirs).Major != Latest.Major {
		return fmt.Errorf("the server speaks version %v", nixwire.ParseVersion(theirs))
	}
	c.Version = version
	if v := nixwire.ParseVersion(theirs); v.Less(version) {
		c.Version = v
	}
	_ = c.W.Uint64(version.Number())
	if c.Version.AtLeast(1, 38) {
		_ = c.W.Uint64(0) // features
		if err := c.W.Flush(); err != nil {
			return err
		}
		if _, err := c.readStrings(maxFeatures, "features"); err != nil {
			return err
		}
	}
	if c.Version.AtLeast(1, 14) {
		_ = c.W.Uint64(0) // affinity
	}
	if c.Version.AtLeast(1, 11) {
		_ = c.W.Uint64(0) // reserve space
	}
	if err := c.W.Flush(); err != nil {
		return err
	}
	if c.Version.AtLeast(1, 33) {
		if c.Server.Program, err = c.ReadText(maxShort, "version"); err != nil {
			return err
		}
	}
	if c.Version.AtLeast(1, 35) {
		var trust uint64
		if err := c.readNumbers(&trust); err != nil {
			return err
		}
		c.Server.Trust = Trust(trust)
	}
	return c.listen()
}

// listen hears messages until the last.
func (c *Client) listen() error {
	for {
		kind, err := c.R.Uint64()
		if err != nil {
			return nixwire.Unexpected(err)
		}
		var m Message
		switch kind {
		case msgLast:
			return nil
		case msgError:
			return c.readError()
		case msgNext:
			m.Text, err = c.ReadText(maxMessage, "message")
		case msgStartActivity:
			m.Activity, err = c.readActivity()
		case msgStopActivity:
			err = c.readNumbers(&m.Stopped)
		case msgResult:
			m.Result, err = c.readResult()
		case msgRead:
			if err = c.answerRead(); err == nil {
				continue
			}
		default:
			err = fmt.Errorf("message of the unknown type %#x", kind)
		}
		if err != nil {
			return err
		}
		if c.Hear != nil {
			c.Hear(m)
		}
	}
}

func (c *Client) readActivity() (*Activity, error) {
	var a Activity
	var level, kind uint64
	err := c.readNumbers(&a.ID, &level, &kind)
	if err == nil {
		a.Level, a.Type = Level(level), ActivityType(kind)
		a.Text, err = c.ReadText(maxMessage, "activity")
	}
	if err == nil {
		a.Fields, err = c.readFields()
	}
	if err == nil {
		err = c.readNumbers(&a.Parent)
	}
	return &a, err
}

func (c *Client) readResult() (*ActivityEnd, error) {
	var e ActivityEnd
	var kind uint64
	err := c.readNumbers(&e.ID, &kind)
	if err == nil {
		e.Type = ResultType(kind)
		e.Fields, err = c.readFields()
	}
	return &e, err
}

func (c *Client) readError() error {
	e := &RemoteError{}
	var level, n uint64
	var err error
	if !c.Version.AtLeast(1, 26) {
		if e.Message, err = c.ReadText(maxMessage, "error message"); err == nil {
			err = c.readNumbers(&n)
		}
		if err != nil {
			return err
		}
		return e
	}
	if _, err = c.ReadText(maxShort, "error"); err == nil {
		err = c.readNumbers(&level)
	}
	if err == nil {
		_, err = c.ReadText(maxShort, "error")
	}
	if err == nil {
		e.Message, err = c.ReadText(maxMessage, "error message")
	}
	if err == nil {
		err = c.readNumbers(&n) // a position
	}
	if err == nil {
		err = c.readNumbers(&n)
	}
	if err == nil && n > maxTraces {
		err = &wire.LimitError{What: "traces", Len: n, Max: maxTraces}
	}
	for i := uint64(0); err == nil && i < n; i++ {
		var position uint64
		if err = c.readNumbers(&position); err == nil {
			_, err = c.ReadText(maxMessage, "trace")
		}
	}
	if err != nil {
		return err
	}
	e.Level = Level(level)
	return e
}

// answerRead sends the next piece of what is being added.
func (c *Client) answerRead() error {
	var most uint64
	if err := c.readNumbers(&most); err != nil {
		return err
	}
	if c.source == nil || most == 0 {
		return errors.New("the server wants to read what there is not")
	}
	piece := make([]byte, min(most, askSize))
	n, err := io.ReadFull(c.source, piece)
	if n == 0 {
		return nixwire.Unexpected(err)
	}
	_ = c.W.Bytes(piece[:n])
	return c.W.Flush()
}

// Do sends an operation with its arguments, and hears messages until the result is next to be read.
func (c *Client) Do(op Operation, arguments func()) error {
	return c.doWith(op, arguments, func(io.Writer) error { return nil })
}

// doWith is Do with something behind the arguments that has no end of its own: where that fails, there is nothing to wait for, and the
// connection is of no further use.
func (c *Client) doWith(op Operation, arguments func(), source func(io.Writer) error) error {
	_ = c.W.Uint64(uint64(op)) // the writer keeps its first error
	arguments()
	if own, ok := errors.AsType[*sourceError](c.write(c.W, source)); ok {
		return own.err
	}
	werr := c.W.Flush()
	err := c.listen() // also of a server that has hung up: it has said why
	if _, remote := errors.AsType[*RemoteError](err); werr != nil && !remote {
		err = werr
	}
	return c.heard(op, err)
}

func (*Client) heard(op Operation, err error) error {
	if _, remote := errors.AsType[*RemoteError](err); err == nil || remote {
		return err
	}
	return fmt.Errorf("%v: %w", op, err)
}

// sourceError says that what was to be sent could not be had: the connection is not to blame.
type sourceError struct{ err error }

// Error implements error.
func (e *sourceError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *sourceError) Unwrap() error { return e.err }

// write has a source write to the server. What it fails with is a *sourceError unless the connection has failed.
func (c *Client) write(w io.Writer, source func(io.Writer) error) error {
	err := source(w)
	if ferr := c.W.Flush(); err != nil && ferr == nil {
		return &sourceError{err}
	}
	return err
}

// Send is Do with a stream of frames behind the arguments, which is written while the server may already say something. Where the stream
// fails the frames end, so that the server does not wait for more: it refuses half a NAR, and the connection can be used further.
func (c *Client) Send(op Operation, arguments func(), stream func(io.Writer) error) error {
	sent := make(chan error, 1)
	go func() {
		_ = c.W.Uint64(uint64(op))
		arguments()
		fw := wire.NewFrameWriter(c.W)
		err := c.write(fw, stream)
		if cerr := errors.Join(fw.Close(), c.W.Flush()); err == nil {
			err = cerr
		}
		sent <- err
	}()
	err := c.listen()
	serr := <-sent
	if own, ok := errors.AsType[*sourceError](serr); ok {
		return own.err
	}
	if serr != nil {
		return errors.Join(serr, err)
	}
	return c.heard(op, err)
}

// paths does an operation that is about one path and answers with some.
func (c *Client) paths(op Operation, p nix.StorePath) ([]nix.StorePath, error) {
	if err := c.Do(op, func() { _ = c.WritePath(p) }); err != nil {
		return nil, err
	}
	return c.ReadPaths()
}

// number does an operation that answers with a number.
func (c *Client) number(op Operation, arguments func()) (n uint64, err error) {
	if err := c.Do(op, arguments); err != nil {
		return 0, err
	}
	err = c.readNumbers(&n)
	return n, err
}

func (c *Client) ok(op Operation, arguments func()) error {
	_, err := c.number(op, arguments)
	return err
}

// IsValidPath reports whether a path is valid.
func (c *Client) IsValidPath(p nix.StorePath) (bool, error) {
	n, err := c.number(IsValidPath, func() { _ = c.WritePath(p) })
	return n != 0, err
}

// QueryReferrers returns the valid paths that refer to a path.
func (c *Client) QueryReferrers(p nix.StorePath) ([]nix.StorePath, error) {
	return c.paths(QueryReferrers, p)
}

// QueryValidDerivers returns the derivations that make a path.
func (c *Client) QueryValidDerivers(p nix.StorePath) ([]nix.StorePath, error) {
	return c.paths(QueryValidDerivers, p)
}

// QueryDerivationOutputs returns where the outputs of a derivation are.
func (c *Client) QueryDerivationOutputs(p nix.StorePath) ([]nix.StorePath, error) {
	return c.paths(QueryDerivationOutputs, p)
}

// QueryDerivationOutputNames returns the names of a derivation's outputs.
func (c *Client) QueryDerivationOutputNames(p nix.StorePath) ([]string, error) {
	if err := c.Do(QueryDerivationOutputNames, func() { _ = c.WritePath(p) }); err != nil {
		return nil, err
	}
	return c.readStrings(nixwire.MaxOutputs, "outputs")
}

// QueryDerivationOutputMap returns where which output of a derivation is.
func (c *Client) QueryDerivationOutputMap(p nix.StorePath) ([]OutputPath, error) {
	if err := c.Do(QueryDerivationOutputMap, func() { _ = c.WritePath(p) }); err != nil {
		return nil, err
	}
	return c.readOutputMap()
}

// QueryDeriver returns what a valid path was made by; zero if that is not known.
func (c *Client) QueryDeriver(p nix.StorePath) (nix.StorePath, error) {
	if err := c.Do(QueryDeriver, func() { _ = c.WritePath(p) }); err != nil {
		return nix.StorePath{}, err
	}
	return c.ReadOptionalPath()
}

// QueryPathInfo returns what is known about a path; ok is false if it is not valid.
func (c *Client) QueryPathInfo(p nix.StorePath) (info nix.PathInfo, ok bool, err error) {
	if err := c.Do(QueryPathInfo, func() { _ = c.WritePath(p) }); err != nil {
		return info, false, err
	}
	ok = true
	if c.Version.AtLeast(1, 17) {
		if err := c.readBools(&ok); err != nil || !ok {
			return info, false, err
		}
	}
	info, err = c.ReadUnkeyedPathInfo(p)
	return info, err == nil, err
}

// QueryAllValidPaths returns all valid paths.
func (c *Client) QueryAllValidPaths() ([]nix.StorePath, error) {
	if err := c.Do(QueryAllValidPaths, func() {}); err != nil {
		return nil, err
	}
	return c.ReadPaths()
}

// QueryPathFromHashPart returns the valid path that begins with 32 characters; zero if there is none.
func (c *Client) QueryPathFromHashPart(part string) (nix.StorePath, error) {
	if err := c.Do(QueryPathFromHashPart, func() { _ = c.W.String(part) }); err != nil {
		return nix.StorePath{}, err
	}
	return c.ReadOptionalPath()
}

// QueryValidPaths returns those of some paths that are valid.
func (c *Client) QueryValidPaths(req QueryValidPathsRequest) ([]nix.StorePath, error) {
	err := c.Do(QueryValidPaths, func() {
		_ = c.WritePaths(req.Paths)
		if c.Version.AtLeast(1, 27) {
			_ = c.W.Bool(req.Substitute)
		}
	})
	if err != nil {
		return nil, err
	}
	return c.ReadPaths()
}

// QuerySubstitutablePaths returns those of some paths that can be had from elsewhere.
func (c *Client) QuerySubstitutablePaths(paths []nix.StorePath) ([]nix.StorePath, error) {
	if err := c.Do(QuerySubstitutablePaths, func() { _ = c.WritePaths(paths) }); err != nil {
		return nil, err
	}
	return c.ReadPaths()
}

// NarFromPath hands the NAR of a path to read, which must read it to its end and no further.
func (c *Client) NarFromPath(p nix.StorePath, read func(io.Reader) error) error {
	if err := c.Do(NarFromPath, func() { _ = c.WritePath(p) }); err != nil {
		return err
	}
	return read(c.R)
}

// AddToStore makes a path of contents: a NAR, or the bytes of a file. Below 1.25 both are sent as a NAR, and only the path is known of
// the answer.
func (c *Client) AddToStore(req AddToStoreRequest, contents func(io.Writer) error) (info nix.PathInfo, err error) {
	if c.Version.AtLeast(1, 25) {
		err := c.Send(AddToStore, func() {
			_ = c.W.String(req.Name)
			_ = c.W.String(caMethod(req.Method, req.Algo))
			_ = c.WritePaths(req.References)
			_ = c.W.Bool(req.Repair)
		}, contents)
		if err != nil {
			return info, err
		}
		return c.ReadPathInfo()
	}
	if req.Method == nix.MethodText || len(req.References) > 0 {
		return info, fmt.Errorf("version %v of the protocol adds neither texts nor references so", c.Version)
	}
	err = c.doWith(AddToStore, func() {
		_ = c.W.String(req.Name)
		_ = c.W.Bool(req.Method != nix.MethodNAR || req.Algo != nix.SHA256)
		_ = c.W.Bool(req.Method == nix.MethodNAR)
		_ = c.W.String(req.Algo.String())
	}, contents)
	if err != nil {
		return info, err
	}
	info.Path, err = c.ReadPath()
	return info, err
}

// AddTextToStore makes a path of a text.
func (c *Client) AddTextToStore(req AddTextToStoreRequest) (nix.StorePath, error) {
	err := c.Do(AddTextToStore, func() {
		_ = c.W.String(req.Name)
		_ = c.W.String(req.Text)
		_ = c.WritePaths(req.References)
	})
	if err != nil {
		return nix.StorePath{}, err
	}
	return c.ReadPath()
}

// AddToStoreNar makes a path valid with the NAR that is written.
func (c *Client) AddToStoreNar(req AddToStoreNarRequest, nar func(io.Writer) error) error {
	arguments := func() {
		_ = c.WritePath(req.Info.Path)
		_ = c.writeUnkeyed(req.Info, true)
		_ = c.W.Bool(req.Repair)
		_ = c.W.Bool(req.DontCheckSigs)
	}
	switch {
	case c.Version.AtLeast(1, 23):
		return c.Send(AddToStoreNar, arguments, nar)
	case c.Version.AtLeast(1, 21):
		return c.addAsked(arguments, nar)
	}
	return c.doWith(AddToStoreNar, arguments, nar)
}

// addAsked is AddToStoreNar where the server asks for the NAR, and may have said something else before, or have enough.
func (c *Client) addAsked(arguments func(), nar func(io.Writer) error) error {
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = w.CloseWithError(nar(w))
	}()
	c.source = r
	err := c.Do(AddToStoreNar, arguments)
	c.source = nil
	_ = r.Close()
	<-done
	return err
}

// Added is a path with its NAR.
type Added struct {
	Info nix.PathInfo
	NAR  func(io.Writer) error
}

// AddMultipleToStore makes paths valid, each of which comes after what it refers to.
func (c *Client) AddMultipleToStore(req AddMultipleToStoreRequest, all []Added) error {
	return c.Send(AddMultipleToStore, func() {
		_ = c.W.Bool(req.Repair)
		_ = c.W.Bool(req.DontCheckSigs)
	}, func(w io.Writer) error {
		inside := newConn(nil, w, c.Dir)
		_ = inside.W.Uint64(uint64(len(all)))
		for _, a := range all {
			_ = WriteAdded(&inside.Conn, a.Info)
			if err := a.NAR(inside.W); err != nil {
				return err
			}
		}
		return inside.W.Flush()
	})
}

// AddBuildLog adds the log of a derivation's build.
func (c *Client) AddBuildLog(p nix.StorePath, log func(io.Writer) error) error {
	if err := c.Send(AddBuildLog, func() { _ = c.W.String(p.BaseName()) }, log); err != nil {
		return err
	}
	var ok uint64
	return c.readNumbers(&ok)
}

// AddSignatures adds signatures to a valid path.
func (c *Client) AddSignatures(p nix.StorePath, sigs []nix.Signature) error {
	return c.ok(AddSignatures, func() {
		_ = c.WritePath(p)
		_ = c.WriteSignatures(sigs)
	})
}

// EnsurePath fails if a path is not valid and cannot be had.
func (c *Client) EnsurePath(p nix.StorePath) error {
	return c.ok(EnsurePath, func() { _ = c.WritePath(p) })
}

// AddTempRoot keeps a path, which need not be valid, until the connection ends.
func (c *Client) AddTempRoot(p nix.StorePath) error {
	return c.ok(AddTempRoot, func() { _ = c.WritePath(p) })
}

// AddIndirectRoot has a link that the client has made keep what it points to.
func (c *Client) AddIndirectRoot(link string) error {
	return c.ok(AddIndirectRoot, func() { _ = c.W.String(link) })
}

// AddPermRoot has the server make a link that keeps a path.
func (c *Client) AddPermRoot(req AddPermRootRequest) (string, error) {
	err := c.Do(AddPermRoot, func() {
		_ = c.WritePath(req.Path)
		_ = c.W.String(req.Root)
	})
	if err != nil {
		return "", err
	}
	return c.ReadFile()
}

// SyncWithGC does nothing any more.
func (c *Client) SyncWithGC() error { return c.ok(SyncWithGC, func() {}) }

// OptimiseStore has equal contents stored once.
func (c *Client) OptimiseStore() error { return c.ok(OptimiseStore, func() {}) }

// FindRoots returns what keeps paths, as far as the client may know.
func (c *Client) FindRoots() ([]Root, error) {
	if err := c.Do(FindRoots, func() {}); err != nil {
		return nil, err
	}
	return c.readRoots()
}

// SetOptions tells the server some of the client's settings.
func (c *Client) SetOptions(o Options) error {
	return c.Do(SetOptions, func() { _ = c.writeOptions(o) })
}

// CollectGarbage deletes paths, or lists them.
func (c *Client) CollectGarbage(req CollectGarbageRequest) (Collected, error) {
	if err := c.Do(CollectGarbage, func() { _ = c.writeCollectGarbage(req) }); err != nil {
		return Collected{}, err
	}
	return c.readCollected()
}

// VerifyStore looks the store over and reports whether something is wrong with it.
func (c *Client) VerifyStore(req VerifyStoreRequest) (bool, error) {
	n, err := c.number(VerifyStore, func() {
		_ = c.W.Bool(req.CheckContents)
		_ = c.W.Bool(req.Repair)
	})
	return n != 0, err
}

// QueryMissing returns what there is to do to have some paths.
func (c *Client) QueryMissing(paths []DerivedPath) (Missing, error) {
	var werr error
	if err := c.Do(QueryMissing, func() { werr = c.WriteDerivedPaths(paths) }); err != nil || werr != nil {
		return Missing{}, errors.Join(werr, err)
	}
	return c.readMissing()
}

func (c *Client) writeBuild(req BuildPathsRequest) error {
	err := c.WriteDerivedPaths(req.Paths)
	if c.Version.AtLeast(1, 15) {
		_ = c.W.Uint64(uint64(req.Mode))
	}
	return err
}

// BuildPaths has paths built.
func (c *Client) BuildPaths(req BuildPathsRequest) error {
	var werr error
	err := c.ok(BuildPaths, func() { werr = c.writeBuild(req) })
	return errors.Join(werr, err)
}

// BuildPathsWithResults has paths built and says what became of each.
func (c *Client) BuildPathsWithResults(req BuildPathsRequest) ([]KeyedBuildResult, error) {
	var werr error
	if err := c.Do(BuildPathsWithResults, func() { werr = c.writeBuild(req) }); err != nil || werr != nil {
		return nil, errors.Join(werr, err)
	}
	return c.ReadKeyedBuildResults()
}

// BuildDerivation has a derivation built, whose inputs are there.
func (c *Client) BuildDerivation(p nix.StorePath, d *drv.BasicDerivation, mode BuildMode) (nixwire.BuildResult, error) {
	var werr error
	err := c.Do(BuildDerivation, func() {
		_ = c.WritePath(p)
		werr = c.WriteDerivation(d)
		_ = c.W.Uint64(uint64(mode))
	})
	if err := errors.Join(werr, err); err != nil {
		return nixwire.BuildResult{}, err
	}
	return c.ReadBuildResult()
}

// RegisterDrvOutput says where an output is: by JSON from 1.31 on.
func (c *Client) RegisterDrvOutput(r Realisation) error {
	return c.Do(RegisterDrvOutput, func() {
		if c.Version.AtLeast(1, 31) {
			_ = c.W.String(r.JSON)
			return
		}
		_ = c.W.String(r.ID)
		_ = c.W.String(r.Path)
	})
}

// QueryRealisation returns where an output is: as JSON from 1.31 on, else as a full path. Empty means that this is not known.
func (c *Client) QueryRealisation(id string) (string, error) {
	if err := c.Do(QueryRealisation, func() { _ = c.W.String(id) }); err != nil {
		return "", err
	}
	n, err := c.R.Count(1, "realisations")
	if err != nil || n == 0 {
		return "", nixwire.Unexpected(err)
	}
	return c.ReadText(maxMessage, "realisation")
}

// QuerySubstitutablePathInfos returns the paths of those that can be had from elsewhere.
func (c *Client) QuerySubstitutablePathInfos(paths []nix.StorePath) (uint64, error) {
	return c.number(QuerySubstitutablePathInfos, func() {
		if !c.Version.AtLeast(1, 22) {
			_ = c.WritePaths(paths)
			return
		}
		_ = c.W.Uint64(uint64(len(paths)))
		for _, p := range paths {
			_ = c.WritePath(p)
			_ = c.W.String("")
		}
	})
}

// QuerySubstitutablePathInfo reports whether a path can be had from elsewhere.
func (c *Client) QuerySubstitutablePathInfo(p nix.StorePath) (bool, error) {
	n, err := c.number(QuerySubstitutablePathInfo, func() { _ = c.WritePath(p) })
	return n != 0, err
}
