package workerproto

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
	"github.com/narfs/narfs/internal/nixwire"
	"github.com/narfs/narfs/internal/wire"
)

// Operation reads the number of the next operation. An end of the stream before it is io.EOF.
func (c *Conn) Operation() (Operation, error) {
	v, err := c.R.Uint64()
	return Operation(v), err
}

// Options are what SetOptions sends: settings of the client for what it is going to ask.
type Options struct {
	KeepFailed     bool
	KeepGoing      bool
	TryFallback    bool
	Verbosity      Level
	MaxBuildJobs   uint64
	MaxSilentTime  uint64 // seconds
	VerboseBuild   bool
	BuildCores     uint64
	UseSubstitutes bool
	Overrides      [][2]string // names and values of other settings; since 1.12
}

// ReadOptions reads the request SetOptions.
func (c *Conn) ReadOptions() (o Options, err error) {
	var verbosity, verboseBuild, obsolete uint64
	if err := c.readBools(&o.KeepFailed, &o.KeepGoing, &o.TryFallback); err != nil {
		return o, err
	}
	err = c.readNumbers(&verbosity, &o.MaxBuildJobs, &o.MaxSilentTime, &obsolete, &verboseBuild, &obsolete, &obsolete, &o.BuildCores)
	if err != nil {
		return o, err
	}
	o.Verbosity, o.VerboseBuild = Level(verbosity), verboseBuild == uint64(LevelError)
	if err := c.readBools(&o.UseSubstitutes); err != nil {
		return o, err
	}
	if !c.Version.AtLeast(1, 12) {
		return o, nil
	}
	n, err := c.R.Count(maxOptions, "settings")
	if err != nil {
		return o, nixwire.Unexpected(err)
	}
	for range n {
		var pair [2]string
		for i := range pair {
			if pair[i], err = c.ReadText(maxMessage, "setting"); err != nil {
				return o, err
			}
		}
		o.Overrides = append(o.Overrides, pair)
	}
	return o, nil
}

func (c *Conn) writeOptions(o Options) error {
	_ = c.W.Bool(o.KeepFailed) // the writer keeps its first error
	_ = c.W.Bool(o.KeepGoing)
	_ = c.W.Bool(o.TryFallback)
	_ = c.W.Uint64(uint64(o.Verbosity))
	_ = c.W.Uint64(o.MaxBuildJobs)
	_ = c.W.Uint64(o.MaxSilentTime)
	_ = c.W.Uint64(1)
	if o.VerboseBuild {
		_ = c.W.Uint64(uint64(LevelError))
	} else {
		_ = c.W.Uint64(uint64(LevelVomit))
	}
	_ = c.W.Uint64(0)
	_ = c.W.Uint64(0)
	_ = c.W.Uint64(o.BuildCores)
	err := c.W.Bool(o.UseSubstitutes)
	if !c.Version.AtLeast(1, 12) {
		return err
	}
	err = c.W.Uint64(uint64(len(o.Overrides)))
	for _, pair := range o.Overrides {
		_ = c.W.String(pair[0])
		err = c.W.String(pair[1])
	}
	return err
}

// AddToStoreRequest asks for a path to be made of contents: a NAR, or the bytes of a file. They follow, and [Conn.Contents] reads
// them.
type AddToStoreRequest struct {
	Name       string
	Method     nix.Method // text, flat or NAR
	Algo       nix.Algo
	References []nix.StorePath // since 1.25
	Repair     bool            // since 1.25
}

// parseCAMethod parses "text:sha256", "fixed:sha256", "fixed:r:sha256" and the like.
func parseCAMethod(s string) (m nix.Method, a nix.Algo, err error) {
	rest, fixed := strings.CutPrefix(s, "fixed:")
	if m, a, err = nix.ParseMethodAlgo(rest); err == nil && fixed == (m == nix.MethodText) {
		err = errors.New("neither text: nor fixed: is its beginning")
	}
	if err != nil {
		return 0, 0, fmt.Errorf("content address method %q: %w", s, err)
	}
	return m, a, nil
}

func caMethod(m nix.Method, a nix.Algo) string {
	if m == nix.MethodText {
		return nix.MethodAlgo(m, a)
	}
	return "fixed:" + nix.MethodAlgo(m, a)
}

// ReadAddToStore reads the request, but for the contents.
func (c *Conn) ReadAddToStore() (req AddToStoreRequest, err error) {
	if req.Name, err = c.ReadText(maxShort, "name"); err != nil {
		return req, err
	}
	if !c.Version.AtLeast(1, 25) {
		return c.readOldAddToStore(req)
	}
	method, err := c.ReadText(maxShort, "content address method")
	if err != nil {
		return req, err
	}
	if req.References, err = c.ReadPathsUpTo(nixwire.MaxReferences, "references"); err != nil {
		return req, err
	}
	if err := c.readBools(&req.Repair); err != nil {
		return req, err
	}
	req.Method, req.Algo, err = parseCAMethod(method)
	return req, err
}

func (c *Conn) readOldAddToStore(req AddToStoreRequest) (_ AddToStoreRequest, err error) {
	var fixed bool
	var recursive uint64
	if err := c.readBools(&fixed); err != nil {
		return req, err
	}
	if err := c.readNumbers(&recursive); err != nil {
		return req, err
	}
	algo, err := c.ReadText(maxShort, "hash algorithm")
	if err != nil {
		return req, err
	}
	switch {
	case recursive > 1:
		return req, fmt.Errorf("unsupported method of hashing %d", recursive)
	case !fixed: // of the oldest clients
		req.Method, req.Algo = nix.MethodNAR, nix.SHA256
		return req, nil
	case recursive == 1:
		req.Method = nix.MethodNAR
	default:
		req.Method = nix.MethodFlat
	}
	req.Algo, err = nix.ParseAlgo(algo)
	return req, err
}

// Framed returns the stream of frames that comes next.
func (c *Conn) Framed() *wire.Frames { return wire.NewFrames(c.R) }

// Inside returns a Conn that reads from a stream within this one. There is one at a time.
func (c *Conn) Inside(r io.Reader) *nixwire.Conn {
	if c.framed == nil {
		c.framed = wire.NewReader(r)
	} else {
		c.framed.Reset(r)
	}
	return &nixwire.Conn{R: c.framed, W: c.W, Dir: c.Dir, Budget: c.Budget}
}

// Asked returns the stream that a client of 1.21 or 1.22 sends for AddToStoreNar, of whose end it knows nothing: nothing comes that is
// not read. Rest reads what is left of a piece that was not read to its end.
func (c *Conn) Asked() (r io.Reader, rest func() error) {
	a := &asked{c: c}
	return a, a.drain
}

// AddTextToStoreRequest asks for a path to be made of a text.
type AddTextToStoreRequest struct {
	Name       string
	Text       string
	References []nix.StorePath
}

// ReadAddTextToStore reads the request.
func (c *Conn) ReadAddTextToStore() (req AddTextToStoreRequest, err error) {
	if req.Name, err = c.ReadText(maxShort, "name"); err != nil {
		return req, err
	}
	if req.Text, err = c.ReadText(maxText, "text"); err != nil {
		return req, err
	}
	req.References, err = c.ReadPathsUpTo(nixwire.MaxReferences, "references")
	return req, err
}

// AddToStoreNarRequest asks for a path to be made valid with a NAR, which follows: framed from 1.23 on, see [Conn.Asked] for 1.21
// and 1.22, as it is for those before.
type AddToStoreNarRequest struct {
	Info          nix.PathInfo
	Repair        bool
	DontCheckSigs bool
}

// ReadAddToStoreNar reads the request, but for the NAR.
func (c *Conn) ReadAddToStoreNar() (req AddToStoreNarRequest, err error) {
	p, err := c.ReadPath()
	if err != nil {
		return req, err
	}
	if req.Info, err = c.readUnkeyed(p, true, false); err != nil {
		return req, err
	}
	err = c.readBools(&req.Repair, &req.DontCheckSigs)
	return req, err
}

// AddMultipleToStoreRequest asks for paths to be made valid. A framed stream follows, with their number, and of each its info and its
// NAR: see [Conn.Inside] and [ReadAdded].
type AddMultipleToStoreRequest struct{ Repair, DontCheckSigs bool }

// ReadAddMultipleToStore reads the request, but for the stream.
func (c *Conn) ReadAddMultipleToStore() (req AddMultipleToStoreRequest, err error) {
	err = c.readBools(&req.Repair, &req.DontCheckSigs)
	return req, err
}

// ReadAdded reads the info of one of the paths in the stream of AddMultipleToStore, which has the form of version 1.16 whatever is
// spoken.
func ReadAdded(inside *nixwire.Conn) (info nix.PathInfo, err error) {
	p, err := inside.ReadPath()
	if err != nil {
		return info, err
	}
	return (&Conn{Conn: *inside}).readUnkeyed(p, true, false)
}

// WriteAdded writes what ReadAdded reads.
func WriteAdded(inside *nixwire.Conn, info nix.PathInfo) error {
	_ = inside.WritePath(info.Path)
	return (&Conn{Conn: *inside}).writeUnkeyed(info, true)
}

// BuildMode says what to do about outputs that are valid.
type BuildMode uint64

// The modes.
const (
	BuildNormal BuildMode = iota
	BuildRepair           // build them again where they are damaged
	BuildCheck            // build them again and compare
)

// DerivedPath is a path to have: itself, or some outputs of a derivation.
type DerivedPath struct {
	Path    nix.StorePath
	Built   bool     // Path is that of a derivation, and outputs of it are meant
	Outputs []string // their names, in order; none means all
}

// format writes the path as versions from 1.30 on do.
func (d DerivedPath) format(dir nix.StoreDir) string {
	switch {
	case !d.Built:
		return dir.Path(d.Path)
	case len(d.Outputs) == 0:
		return dir.Path(d.Path) + "!*"
	default:
		return dir.Path(d.Path) + "!" + strings.Join(d.Outputs, ",")
	}
}

// formatOld writes the path as versions before 1.30 do, where a derivation means all its outputs.
func (d DerivedPath) formatOld(dir nix.StoreDir) (string, error) {
	switch {
	case !d.Built && isDerivation(d.Path):
		return "", errors.New("a derivation cannot be had without its outputs by so old a protocol")
	case d.Built && len(d.Outputs) == 0:
		return dir.Path(d.Path), nil
	default:
		return d.format(dir), nil
	}
}

func isDerivation(p nix.StorePath) bool { return strings.HasSuffix(p.Name(), ".drv") }

// ParseDerivedPath parses what format writes, or, if old, formatOld.
func ParseDerivedPath(dir nix.StoreDir, s string, old bool) (d DerivedPath, err error) {
	path, outputs, built := strings.Cut(s, "!")
	if d.Path, err = nix.ParseStorePath(dir, path); err != nil {
		return d, err
	}
	if !built {
		d.Built = old && isDerivation(d.Path)
		return d, nil
	}
	d.Built = true
	if outputs == "*" {
		return d, nil
	}
	for name := range strings.SplitSeq(outputs, ",") {
		if err := nix.CheckName(name); err != nil {
			return d, fmt.Errorf("outputs of '%s': %w", path, err)
		}
		d.Outputs = append(d.Outputs, name)
	}
	slices.Sort(d.Outputs)
	d.Outputs = slices.Compact(d.Outputs)
	return d, nil
}

// ReadDerivedPaths reads a list of paths to have.
func (c *Conn) ReadDerivedPaths() (all []DerivedPath, err error) {
	n, err := c.R.Count(nixwire.MaxPaths, "paths")
	if err != nil {
		return nil, nixwire.Unexpected(err)
	}
	for range n {
		d, err := c.readDerivedPath()
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return all, nil
}

// What a path to have takes beside its text, and each output beside the first.
const (
	derivedCost = 128
	outputCost  = 32
)

func (c *Conn) readDerivedPath() (d DerivedPath, err error) {
	s, err := c.ReadText(2*nixwire.MaxPath, "path to have")
	if err != nil {
		return d, err
	}
	// Names share their text, but each takes as much again or more.
	if c.Budget != nil {
		if err := c.Budget(derivedCost + outputCost*int64(strings.Count(s, ","))); err != nil {
			return d, err
		}
	}
	return ParseDerivedPath(c.Dir, s, !c.Version.AtLeast(1, 30))
}

// WriteDerivedPaths writes a list of paths to have.
func (c *Conn) WriteDerivedPaths(all []DerivedPath) error {
	err := c.W.Uint64(uint64(len(all)))
	for _, d := range all {
		err = c.writeDerivedPath(d)
		if err != nil {
			return err
		}
	}
	return err
}

func (c *Conn) writeDerivedPath(d DerivedPath) error {
	text := d.format(c.Dir)
	if !c.Version.AtLeast(1, 30) {
		var err error
		if text, err = d.formatOld(c.Dir); err != nil {
			return err
		}
	}
	return c.W.String(text)
}

// BuildPathsRequest asks for paths to be there, built if need be.
type BuildPathsRequest struct {
	Paths []DerivedPath
	Mode  BuildMode // since 1.15
}

// ReadBuildPaths reads the request of BuildPaths and of BuildPathsWithResults.
func (c *Conn) ReadBuildPaths() (req BuildPathsRequest, err error) {
	if req.Paths, err = c.ReadDerivedPaths(); err != nil {
		return req, err
	}
	if c.Version.AtLeast(1, 15) {
		req.Mode, err = c.readBuildMode()
	}
	return req, err
}

func (c *Conn) readBuildMode() (BuildMode, error) {
	mode, err := c.R.Uint64()
	if err == nil && mode > uint64(BuildCheck) {
		err = fmt.Errorf("build mode %d is unknown", mode)
	}
	return BuildMode(mode), nixwire.Unexpected(err)
}

// BuildDerivationRequest asks for a derivation to be built.
type BuildDerivationRequest struct {
	Path       nix.StorePath // need not be valid
	Derivation drv.BasicDerivation
	Mode       BuildMode
}

// ReadBuildDerivation reads the request.
func (c *Conn) ReadBuildDerivation() (req BuildDerivationRequest, err error) {
	if req.Path, err = c.ReadPath(); err != nil {
		return req, err
	}
	if req.Derivation, err = c.ReadDerivation(req.Path); err != nil {
		return req, err
	}
	req.Mode, err = c.readBuildMode()
	return req, err
}

// GCAction says what CollectGarbage is to do.
type GCAction uint64

// The actions.
const (
	GCReturnLive GCAction = iota
	GCReturnDead
	GCDeleteDead
	GCDeleteSpecific
)

// CollectGarbageRequest asks for paths to be deleted, or listed.
type CollectGarbageRequest struct {
	Action         GCAction
	Paths          []nix.StorePath // for GCDeleteSpecific
	IgnoreLiveness bool
	MaxFreed       uint64 // bytes after which to stop
}

// ReadCollectGarbage reads the request.
func (c *Conn) ReadCollectGarbage() (req CollectGarbageRequest, err error) {
	var action, obsolete uint64
	if err := c.readNumbers(&action); err != nil {
		return req, err
	}
	if req.Action = GCAction(action); req.Action > GCDeleteSpecific {
		return req, fmt.Errorf("garbage collector action %d is unknown", action)
	}
	if req.Paths, err = c.ReadPaths(); err != nil {
		return req, err
	}
	if err := c.readBools(&req.IgnoreLiveness); err != nil {
		return req, err
	}
	err = c.readNumbers(&req.MaxFreed, &obsolete, &obsolete, &obsolete)
	return req, err
}

func (c *Conn) writeCollectGarbage(req CollectGarbageRequest) error {
	_ = c.W.Uint64(uint64(req.Action)) // the writer keeps its first error
	_ = c.WritePaths(req.Paths)
	_ = c.W.Bool(req.IgnoreLiveness)
	_ = c.W.Uint64(req.MaxFreed)
	_ = c.W.Uint64(0)
	_ = c.W.Uint64(0)
	return c.W.Uint64(0)
}

// QueryValidPathsRequest asks which of some paths are valid.
type QueryValidPathsRequest struct {
	Paths      []nix.StorePath
	Substitute bool // get those that are missing from elsewhere, first; since 1.27
}

// ReadQueryValidPaths reads the request.
func (c *Conn) ReadQueryValidPaths() (req QueryValidPathsRequest, err error) {
	if req.Paths, err = c.ReadPaths(); err != nil {
		return req, err
	}
	if c.Version.AtLeast(1, 27) {
		err = c.readBools(&req.Substitute)
	}
	return req, err
}

// ReadSubstitutable reads the request of QuerySubstitutablePathInfos, without the content addresses that it may have.
func (c *Conn) ReadSubstitutable() (paths []nix.StorePath, err error) {
	if !c.Version.AtLeast(1, 22) {
		return c.ReadPaths()
	}
	n, err := c.R.Count(nixwire.MaxPaths, "paths")
	if err != nil {
		return nil, nixwire.Unexpected(err)
	}
	for range n {
		p, err := c.ReadPath()
		if err != nil {
			return nil, err
		}
		if _, err := c.ReadCA(); err != nil {
			return nil, err
		}
		paths = append(paths, p)
	}
	return paths, nil
}

// VerifyStoreRequest asks for the store to be looked over.
type VerifyStoreRequest struct{ CheckContents, Repair bool }

// ReadVerifyStore reads the request.
func (c *Conn) ReadVerifyStore() (req VerifyStoreRequest, err error) {
	err = c.readBools(&req.CheckContents, &req.Repair)
	return req, err
}

// ReadAddSignatures reads the request.
func (c *Conn) ReadAddSignatures() (p nix.StorePath, sigs []nix.Signature, err error) {
	if p, err = c.ReadPath(); err != nil {
		return p, nil, err
	}
	sigs, err = c.ReadSignatures(false)
	return p, sigs, err
}

// Realisation says where an output is, of a derivation that is known by its hash.
type Realisation struct {
	ID   string // "sha256:" and base 16 of the hash, "!", the output's name
	Path string // base name, if that is all that is known; since 1.31 see JSON
	JSON string // since 1.31
}

// ReadRegisterDrvOutput reads the request.
func (c *Conn) ReadRegisterDrvOutput() (r Realisation, err error) {
	if c.Version.AtLeast(1, 31) {
		r.JSON, err = c.ReadText(maxMessage, "realisation")
		return r, err
	}
	if r.ID, err = c.ReadText(maxShort, "derivation output"); err != nil {
		return r, err
	}
	r.Path, err = c.ReadText(maxShort, "store path")
	return r, err
}

// ReadQueryRealisation reads the request.
func (c *Conn) ReadQueryRealisation() (id string, err error) {
	return c.ReadText(maxShort, "derivation output")
}

// WriteRealisation answers QueryRealisation; an empty ID means that there is none.
func (c *Conn) WriteRealisation(r Realisation) error {
	if r.ID == "" {
		return c.W.Uint64(0)
	}
	_ = c.W.Uint64(1)
	if c.Version.AtLeast(1, 31) {
		return c.W.String(r.JSON)
	}
	return c.W.String(string(c.Dir) + "/" + r.Path)
}

// ReadAddBuildLog reads the request, but for the log, which follows in frames. The path is that of a derivation.
func (c *Conn) ReadAddBuildLog() (nix.StorePath, error) {
	base, err := c.ReadText(maxShort, "store path")
	if err != nil {
		return nix.StorePath{}, err
	}
	return nix.ParseBaseName(base)
}

// AddPermRootRequest asks for a link to be made that keeps a path.
type AddPermRootRequest struct {
	Path nix.StorePath
	Root string // the link
}

// ReadAddPermRoot reads the request.
func (c *Conn) ReadAddPermRoot() (req AddPermRootRequest, err error) {
	if req.Path, err = c.ReadPath(); err != nil {
		return req, err
	}
	req.Root, err = c.ReadFile()
	return req, err
}

// ReadFile reads the name of a file of the client's.
func (c *Conn) ReadFile() (string, error) { return c.ReadText(maxShort, "file name") }

// ReadHashPart reads the request QueryPathFromHashPart.
func (c *Conn) ReadHashPart() (string, error) { return c.ReadText(maxShort, "hash part") }
