package serveproto

import (
	"fmt"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
	"github.com/narfs/narfs/internal/nixwire"
)

// BuildOptions come with the commands that build.
type BuildOptions struct {
	MaxSilentTime      uint64 // seconds; 0 means no limit
	BuildTimeout       uint64 // seconds; 0 means no limit
	MaxLogSize         uint64 // bytes; 0 means no limit. Since 2.2
	Repeats            uint64 // since 2.3
	EnforceDeterminism bool   // since 2.3
	KeepFailed         bool   // since 2.7
}

// ReadBuildOptions reads build options.
func (c *Conn) ReadBuildOptions() (o BuildOptions, err error) {
	numbers := []*uint64{&o.MaxSilentTime, &o.BuildTimeout}
	if c.Version.AtLeast(2, 2) {
		numbers = append(numbers, &o.MaxLogSize)
	}
	if c.Version.AtLeast(2, 3) {
		numbers = append(numbers, &o.Repeats)
	}
	for _, n := range numbers {
		if *n, err = c.R.Uint64(); err != nil {
			return o, nixwire.Unexpected(err)
		}
	}
	if c.Version.AtLeast(2, 3) {
		if o.EnforceDeterminism, err = c.R.Bool(); err != nil {
			return o, nixwire.Unexpected(err)
		}
	}
	if c.Version.AtLeast(2, 7) {
		if o.KeepFailed, err = c.R.Bool(); err != nil {
			return o, nixwire.Unexpected(err)
		}
	}
	return o, nil
}

// WriteBuildOptions writes build options.
func (c *Conn) WriteBuildOptions(o BuildOptions) error {
	_ = c.W.Uint64(o.MaxSilentTime) // the writer keeps its first error
	err := c.W.Uint64(o.BuildTimeout)
	if c.Version.AtLeast(2, 2) {
		err = c.W.Uint64(o.MaxLogSize)
	}
	if c.Version.AtLeast(2, 3) {
		_ = c.W.Uint64(o.Repeats)
		err = c.W.Bool(o.EnforceDeterminism)
	}
	if c.Version.AtLeast(2, 7) {
		err = c.W.Bool(o.KeepFailed)
	}
	return err
}

// BuildPathsRequest is what BuildPaths asks.
type BuildPathsRequest struct {
	Paths   []string // store paths in full, those of derivations perhaps with "!" and names of outputs
	Options BuildOptions
}

// ReadBuildPaths reads the request.
func (c *Conn) ReadBuildPaths() (req BuildPathsRequest, err error) {
	n, err := c.R.Count(nixwire.MaxPaths, "paths")
	if err != nil {
		return req, nixwire.Unexpected(err)
	}
	for range n {
		text, err := c.ReadText(2*nixwire.MaxPath, "path to build")
		if err != nil {
			return req, err
		}
		req.Paths = append(req.Paths, text)
	}
	req.Options, err = c.ReadBuildOptions()
	return req, err
}

// WriteBuilt answers BuildPaths: all is built.
func (c *Conn) WriteBuilt() error { return c.W.Uint64(0) }

// WriteNotBuilt answers BuildPaths with an exit status, which is not 0, and a message.
func (c *Conn) WriteNotBuilt(status uint64, message string) error {
	_ = c.W.Uint64(status)
	return c.W.String(message)
}

// BuildDerivationRequest is what BuildDerivation asks.
type BuildDerivationRequest struct {
	Path       nix.StorePath // a derivation's, which need not be valid
	Derivation drv.BasicDerivation
	Options    BuildOptions
}

// ReadBuildDerivation reads the request.
func (c *Conn) ReadBuildDerivation() (req BuildDerivationRequest, err error) {
	if req.Path, err = c.ReadPath(); err != nil {
		return req, err
	}
	if req.Derivation, err = c.ReadDerivation(req.Path); err != nil {
		return req, err
	}
	req.Options, err = c.ReadBuildOptions()
	return req, err
}

// WriteBuildResult writes a build result.
func (c *Conn) WriteBuildResult(r nixwire.BuildResult) error {
	_ = c.W.Uint64(uint64(r.Status)) // the writer keeps its first error
	err := c.W.String(r.ErrorMsg)
	if c.Version.AtLeast(2, 3) {
		_ = c.W.Uint64(r.TimesBuilt)
		_ = c.W.Bool(r.NonDeterministic)
		_ = c.W.Uint64(uint64(r.Start))
		err = c.W.Uint64(uint64(r.Stop))
	}
	// The server of Nix 2.8 writes the outputs to all clients, and older ones lose step.
	if c.Version.AtLeast(2, 6) {
		err = c.WriteBuiltOutputs(r.Outputs)
	}
	return err
}

// readBuildResult reads a build result.
func (c *Conn) readBuildResult() (r nixwire.BuildResult, err error) {
	status, err := c.R.Uint64()
	if err != nil {
		return r, nixwire.Unexpected(err)
	}
	if r.Status = nixwire.Status(status); r.Status > nixwire.NoSubstituters {
		return r, fmt.Errorf("build status %d is unknown", status)
	}
	if r.ErrorMsg, err = c.ReadText(nixwire.MaxMessage, "error message"); err != nil {
		return r, err
	}
	if c.Version.AtLeast(2, 3) {
		var start, stop uint64
		if r.TimesBuilt, err = c.R.Uint64(); err != nil {
			return r, nixwire.Unexpected(err)
		}
		if r.NonDeterministic, err = c.R.Bool(); err != nil {
			return r, nixwire.Unexpected(err)
		}
		for _, n := range []*uint64{&start, &stop} {
			if *n, err = c.R.Uint64(); err != nil {
				return r, nixwire.Unexpected(err)
			}
		}
		r.Start, r.Stop = int64(start), int64(stop)
	}
	if !c.Version.AtLeast(2, 6) {
		return r, nil
	}
	r.Outputs, err = c.ReadBuiltOutputs()
	return r, err
}
