package workerproto

import (
	"fmt"
	"slices"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nixwire"
)

// WriteOK answers operations that only succeed or fail.
func (c *Conn) WriteOK() error { return c.W.Uint64(1) }

// Root is what FindRoots tells of one.
type Root struct {
	Link string
	Path nix.StorePath
}

// WriteRoots answers FindRoots.
func (c *Conn) WriteRoots(roots []Root) error {
	err := c.W.Uint64(uint64(len(roots)))
	for _, r := range roots {
		_ = c.W.String(r.Link)
		err = c.WritePath(r.Path)
	}
	return err
}

func (c *Conn) readRoots() (roots []Root, err error) {
	n, err := c.R.Count(nixwire.MaxPaths, "roots")
	if err != nil {
		return nil, nixwire.Unexpected(err)
	}
	for range n {
		var r Root
		if r.Link, err = c.ReadText(maxShort, "root"); err != nil {
			return nil, err
		}
		if r.Path, err = c.ReadPath(); err != nil {
			return nil, err
		}
		roots = append(roots, r)
	}
	return roots, nil
}

// Collected is what CollectGarbage has done.
type Collected struct {
	Paths []string // in full: deleted ones, or those that were asked for
	Bytes uint64   // freed
}

// WriteCollected answers CollectGarbage.
func (c *Conn) WriteCollected(r Collected) error {
	slices.Sort(r.Paths)
	_ = c.writeStrings(r.Paths)
	_ = c.W.Uint64(r.Bytes)
	return c.W.Uint64(0)
}

func (c *Conn) readCollected() (r Collected, err error) {
	if r.Paths, err = c.readStrings(nixwire.MaxPaths, "paths"); err != nil {
		return r, err
	}
	var obsolete uint64
	err = c.readNumbers(&r.Bytes, &obsolete)
	return r, err
}

// Missing is what is not there of some paths and must be had.
type Missing struct {
	WillBuild      []nix.StorePath // derivations
	WillSubstitute []nix.StorePath
	Unknown        []nix.StorePath
	DownloadSize   uint64 // bytes
	NarSize        uint64 // bytes
}

// WriteMissing answers QueryMissing.
func (c *Conn) WriteMissing(m Missing) error {
	_ = c.WritePaths(m.WillBuild)
	_ = c.WritePaths(m.WillSubstitute)
	_ = c.WritePaths(m.Unknown)
	_ = c.W.Uint64(m.DownloadSize)
	return c.W.Uint64(m.NarSize)
}

func (c *Conn) readMissing() (m Missing, err error) {
	for _, list := range []*[]nix.StorePath{&m.WillBuild, &m.WillSubstitute, &m.Unknown} {
		if *list, err = c.ReadPaths(); err != nil {
			return m, err
		}
	}
	err = c.readNumbers(&m.DownloadSize, &m.NarSize)
	return m, err
}

// OutputPath is where an output of a derivation is, or will be; a zero Path means that this is not known yet.
type OutputPath struct {
	Name string
	Path nix.StorePath
}

// WriteOutputMap answers QueryDerivationOutputMap.
func (c *Conn) WriteOutputMap(outputs []OutputPath) error {
	err := c.W.Uint64(uint64(len(outputs)))
	for _, o := range outputs {
		_ = c.W.String(o.Name)
		err = c.WritePath(o.Path)
	}
	return err
}

func (c *Conn) readOutputMap() (outputs []OutputPath, err error) {
	n, err := c.R.Count(nixwire.MaxOutputs, "outputs")
	if err != nil {
		return nil, nixwire.Unexpected(err)
	}
	for range n {
		var o OutputPath
		if o.Name, err = c.ReadText(maxShort, "output"); err != nil {
			return nil, err
		}
		if o.Path, err = c.ReadOptionalPath(); err != nil {
			return nil, err
		}
		outputs = append(outputs, o)
	}
	return outputs, nil
}

// WriteNames answers QueryDerivationOutputNames.
func (c *Conn) WriteNames(names []string) error { return c.writeStrings(names) }

// WriteBuildResult writes a build result.
func (c *Conn) WriteBuildResult(r nixwire.BuildResult) error {
	_ = c.W.Uint64(uint64(r.Status)) // the writer keeps its first error
	err := c.W.String(r.ErrorMsg)
	if c.Version.AtLeast(1, 29) {
		_ = c.W.Uint64(r.TimesBuilt)
		_ = c.W.Bool(r.NonDeterministic)
		_ = c.W.Uint64(uint64(r.Start))
		err = c.W.Uint64(uint64(r.Stop))
	}
	if c.Version.AtLeast(1, 37) {
		for _, t := range []*int64{r.CPUUser, r.CPUSystem} {
			if err = c.W.Bool(t != nil); t != nil {
				err = c.W.Uint64(uint64(*t))
			}
		}
	}
	if c.Version.AtLeast(1, 28) {
		err = c.WriteBuiltOutputs(r.Outputs)
	}
	return err
}

// ReadBuildResult reads a build result.
func (c *Conn) ReadBuildResult() (r nixwire.BuildResult, err error) {
	var status uint64
	if err := c.readNumbers(&status); err != nil {
		return r, err
	}
	if r.Status = nixwire.Status(status); r.Status > nixwire.NoSubstituters {
		return r, fmt.Errorf("build status %d is unknown", status)
	}
	if r.ErrorMsg, err = c.ReadText(nixwire.MaxMessage, "error message"); err != nil {
		return r, err
	}
	if c.Version.AtLeast(1, 29) {
		var start, stop uint64
		if err := c.readNumbers(&r.TimesBuilt); err != nil {
			return r, err
		}
		if err := c.readBools(&r.NonDeterministic); err != nil {
			return r, err
		}
		if err := c.readNumbers(&start, &stop); err != nil {
			return r, err
		}
		r.Start, r.Stop = int64(start), int64(stop)
	}
	if c.Version.AtLeast(1, 37) {
		for _, to := range []**int64{&r.CPUUser, &r.CPUSystem} {
			if *to, err = c.readOptionalTime(); err != nil {
				return r, err
			}
		}
	}
	if !c.Version.AtLeast(1, 28) {
		return r, nil
	}
	r.Outputs, err = c.ReadBuiltOutputs()
	return r, err
}

func (c *Conn) readOptionalTime() (*int64, error) {
	var there, v uint64
	if err := c.readNumbers(&there); err != nil || there == 0 {
		return nil, err
	}
	if there != 1 {
		return nil, fmt.Errorf("an optional value begins with %d", there)
	}
	err := c.readNumbers(&v)
	t := int64(v)
	return &t, err
}

// KeyedBuildResult is what became of one of several paths.
type KeyedBuildResult struct {
	Path   DerivedPath
	Result nixwire.BuildResult
}

// WriteKeyedBuildResults answers BuildPathsWithResults.
func (c *Conn) WriteKeyedBuildResults(all []KeyedBuildResult) error {
	err := c.W.Uint64(uint64(len(all)))
	for _, r := range all {
		if err := c.writeDerivedPath(r.Path); err != nil {
			return err
		}
		err = c.WriteBuildResult(r.Result)
	}
	return err
}

// ReadKeyedBuildResults reads the answer to BuildPathsWithResults.
func (c *Conn) ReadKeyedBuildResults() (all []KeyedBuildResult, err error) {
	n, err := c.R.Count(nixwire.MaxPaths, "build results")
	if err != nil {
		return nil, nixwire.Unexpected(err)
	}
	for range n {
		var r KeyedBuildResult
		if r.Path, err = c.readDerivedPath(); err != nil {
			return nil, err
		}
		if r.Result, err = c.ReadBuildResult(); err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}
