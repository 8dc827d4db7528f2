package serveproto

import (
	"fmt"
	"io"
	"strings"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/wire"
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
	if c.Version.atLeast(2) {
		numbers = append(numbers, &o.MaxLogSize)
	}
	if c.Version.atLeast(3) {
		numbers = append(numbers, &o.Repeats)
	}
	for _, n := range numbers {
		if *n, err = c.R.Uint64(); err != nil {
			return o, unexpected(err)
		}
	}
	if c.Version.atLeast(3) {
		if o.EnforceDeterminism, err = c.R.Bool(); err != nil {
			return o, unexpected(err)
		}
	}
	if c.Version.atLeast(7) {
		if o.KeepFailed, err = c.R.Bool(); err != nil {
			return o, unexpected(err)
		}
	}
	return o, nil
}

// WriteBuildOptions writes build options.
func (c *Conn) WriteBuildOptions(o BuildOptions) error {
	_ = c.W.Uint64(o.MaxSilentTime) // the writer keeps its first error
	err := c.W.Uint64(o.BuildTimeout)
	if c.Version.atLeast(2) {
		err = c.W.Uint64(o.MaxLogSize)
	}
	if c.Version.atLeast(3) {
		_ = c.W.Uint64(o.Repeats)
		err = c.W.Bool(o.EnforceDeterminism)
	}
	if c.Version.atLeast(7) {
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
	n, err := c.R.Count(maxPaths, "paths")
	if err != nil {
		return req, unexpected(err)
	}
	for range n {
		text, err := c.readText(2*maxPath, "path to build")
		if err != nil {
			return req, err
		}
		req.Paths = append(req.Paths, text)
	}
	req.Options, err = c.ReadBuildOptions()
	return req, err
}

// textCost is about what a string takes beside its bytes.
const textCost = 32

// textGrain is how much of a long string is asked of the budget at a time.
const textGrain = 64 << 10

// readText reads a string that may be long. The budget is asked as its bytes come: neither for what is only announced, nor when
// the memory is taken already.
func (c *Conn) readText(limit int, what string) (string, error) {
	n, err := c.R.Uint64()
	if err != nil {
		return "", unexpected(err)
	}
	if n > uint64(limit) {
		return "", &wire.LimitError{What: what, Len: n, Max: uint64(limit)}
	}
	if err := c.take(textCost); err != nil {
		return "", err
	}
	var text strings.Builder
	for left := int(n); left > 0; {
		part := min(left, textGrain)
		if err := c.take(part); err != nil {
			return "", err
		}
		if _, err := io.CopyN(&text, c.R, int64(part)); err != nil {
			return "", unexpected(err)
		}
		left -= part
	}
	if err := c.R.Padding(n); err != nil {
		return "", unexpected(err)
	}
	return text.String(), nil
}

// WriteBuilt answers BuildPaths: all is built.
func (c *Conn) WriteBuilt() error { return c.W.Uint64(0) }

// WriteNotBuilt answers BuildPaths with an exit status, which is not 0, and a message.
func (c *Conn) WriteNotBuilt(status uint64, message string) error {
	_ = c.W.Uint64(status)
	return c.W.String(message)
}

// Output is an output of a derivation. What its fields mean together says [BasicDerivation].
type Output struct{ Name, Path, HashAlgo, Hash string }

// BasicDerivation is a derivation whose inputs are store paths. Of an output, Path alone says that it is addressed by its inputs; Path,
// HashAlgo and Hash, that its content address is fixed; HashAlgo alone, that it is addressed by its contents.
type BasicDerivation struct {
	Outputs  []Output
	Inputs   []nix.StorePath
	Platform string
	Builder  string
	Args     []string
	Env      [][2]string // names and values, in order
}

// BuildDerivationRequest is what BuildDerivation asks.
type BuildDerivationRequest struct {
	Path       nix.StorePath // need not be valid
	Derivation BasicDerivation
	Options    BuildOptions
}

// ReadBuildDerivation reads the request.
func (c *Conn) ReadBuildDerivation() (req BuildDerivationRequest, err error) {
	if req.Path, err = c.ReadPath(); err != nil {
		return req, err
	}
	if req.Derivation, err = c.readDerivation(); err != nil {
		return req, err
	}
	req.Options, err = c.ReadBuildOptions()
	return req, err
}

func (c *Conn) readDerivation() (d BasicDerivation, err error) {
	n, err := c.R.Count(maxOutputs, "outputs")
	if err != nil {
		return d, unexpected(err)
	}
	for range n {
		var o Output
		for _, field := range []*string{&o.Name, &o.Path, &o.HashAlgo, &o.Hash} {
			if *field, err = c.readText(maxPath, "output"); err != nil {
				return d, err
			}
		}
		d.Outputs = append(d.Outputs, o)
	}
	if d.Inputs, err = c.ReadPaths(); err != nil {
		return d, err
	}
	if d.Platform, err = c.readText(maxPath, "platform"); err != nil {
		return d, err
	}
	if d.Builder, err = c.readText(maxPath, "builder"); err != nil {
		return d, err
	}
	if n, err = c.R.Count(maxArgs, "arguments"); err != nil {
		return d, unexpected(err)
	}
	for range n {
		arg, err := c.readText(maxArg, "argument")
		if err != nil {
			return d, err
		}
		d.Args = append(d.Args, arg)
	}
	if n, err = c.R.Count(maxArgs, "variables"); err != nil {
		return d, unexpected(err)
	}
	for range n {
		var pair [2]string
		for i := range pair {
			if pair[i], err = c.readText(maxArg, "variable"); err != nil {
				return d, err
			}
		}
		d.Env = append(d.Env, pair)
	}
	return d, nil
}

// Status says how a build ended.
type Status uint64

// The statuses.
const (
	Built Status = iota
	Substituted
	AlreadyValid
	PermanentFailure
	InputRejected
	OutputRejected
	TransientFailure
	CachedFailure
	TimedOut
	MiscFailure
	DependencyFailed
	LogLimitExceeded
	NotDeterministic
	ResolvesToAlreadyValid
	NoSubstituters
)

// BuiltOutput is an output that was built.
type BuiltOutput struct {
	ID          string // "sha256:" and base 16 of the derivation's hash, "!", the output's name
	Realisation string // JSON
}

// BuildResult answers BuildDerivation.
type BuildResult struct {
	Status           Status
	ErrorMsg         string
	TimesBuilt       uint64 // this and the next three since 2.3
	NonDeterministic bool
	Start, Stop      int64         // seconds since 1970 began
	Outputs          []BuiltOutput // since 2.6, in order
}

// WriteBuildResult writes a build result.
func (c *Conn) WriteBuildResult(r BuildResult) error {
	_ = c.W.Uint64(uint64(r.Status)) // the writer keeps its first error
	err := c.W.String(r.ErrorMsg)
	if c.Version.atLeast(3) {
		_ = c.W.Uint64(r.TimesBuilt)
		_ = c.W.Bool(r.NonDeterministic)
		_ = c.W.Uint64(uint64(r.Start))
		err = c.W.Uint64(uint64(r.Stop))
	}
	// The server of Nix 2.8 writes the outputs to all clients, and older ones lose step.
	if c.Version.atLeast(6) {
		_ = c.W.Uint64(uint64(len(r.Outputs)))
		for _, o := range r.Outputs {
			_ = c.W.String(o.ID)
			err = c.W.String(o.Realisation)
		}
	}
	return err
}

// readBuildResult reads a build result.
func (c *Conn) readBuildResult() (r BuildResult, err error) {
	status, err := c.R.Uint64()
	if err != nil {
		return r, unexpected(err)
	}
	if r.Status = Status(status); r.Status > NoSubstituters {
		return r, fmt.Errorf("build status %d is unknown", status)
	}
	if r.ErrorMsg, err = c.readText(maxMessage, "error message"); err != nil {
		return r, err
	}
	if c.Version.atLeast(3) {
		var start, stop uint64
		if r.TimesBuilt, err = c.R.Uint64(); err != nil {
			return r, unexpected(err)
		}
		if r.NonDeterministic, err = c.R.Bool(); err != nil {
			return r, unexpected(err)
		}
		for _, n := range []*uint64{&start, &stop} {
			if *n, err = c.R.Uint64(); err != nil {
				return r, unexpected(err)
			}
		}
		r.Start, r.Stop = int64(start), int64(stop)
	}
	if !c.Version.atLeast(6) {
		return r, nil
	}
	n, err := c.R.Count(maxOutputs, "outputs")
	if err != nil {
		return r, unexpected(err)
	}
	for range n {
		var o BuiltOutput
		if o.ID, err = c.readText(maxPath, "output"); err != nil {
			return r, err
		}
		if o.Realisation, err = c.readText(maxMessage, "realisation"); err != nil {
			return r, err
		}
		r.Outputs = append(r.Outputs, o)
	}
	return r, nil
}
