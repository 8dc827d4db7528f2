package nixwire

import (
	"github.com/narfs/narfs/internal/nix"
)

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

// ReadDerivation reads a derivation.
func (c *Conn) ReadDerivation() (d BasicDerivation, err error) {
	n, err := c.R.Count(MaxOutputs, "outputs")
	if err != nil {
		return d, Unexpected(err)
	}
	for range n {
		var o Output
		for _, field := range []*string{&o.Name, &o.Path, &o.HashAlgo, &o.Hash} {
			if *field, err = c.ReadText(MaxPath, "output"); err != nil {
				return d, err
			}
		}
		d.Outputs = append(d.Outputs, o)
	}
	if d.Inputs, err = c.ReadPaths(); err != nil {
		return d, err
	}
	if d.Platform, err = c.ReadText(MaxPath, "platform"); err != nil {
		return d, err
	}
	if d.Builder, err = c.ReadText(MaxPath, "builder"); err != nil {
		return d, err
	}
	if n, err = c.R.Count(maxArgs, "arguments"); err != nil {
		return d, Unexpected(err)
	}
	for range n {
		arg, err := c.ReadText(maxArg, "argument")
		if err != nil {
			return d, err
		}
		d.Args = append(d.Args, arg)
	}
	if n, err = c.R.Count(maxArgs, "variables"); err != nil {
		return d, Unexpected(err)
	}
	for range n {
		var pair [2]string
		for i := range pair {
			if pair[i], err = c.ReadText(maxArg, "variable"); err != nil {
				return d, err
			}
		}
		d.Env = append(d.Env, pair)
	}
	return d, nil
}

// WriteDerivation writes a derivation.
func (c *Conn) WriteDerivation(d BasicDerivation) error {
	_ = c.W.Uint64(uint64(len(d.Outputs))) // the writer keeps its first error
	for _, o := range d.Outputs {
		for _, field := range []string{o.Name, o.Path, o.HashAlgo, o.Hash} {
			_ = c.W.String(field)
		}
	}
	_ = c.WritePaths(d.Inputs)
	_ = c.W.String(d.Platform)
	_ = c.W.String(d.Builder)
	_ = c.W.Uint64(uint64(len(d.Args)))
	for _, arg := range d.Args {
		_ = c.W.String(arg)
	}
	err := c.W.Uint64(uint64(len(d.Env)))
	for _, pair := range d.Env {
		_ = c.W.String(pair[0])
		err = c.W.String(pair[1])
	}
	return err
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
