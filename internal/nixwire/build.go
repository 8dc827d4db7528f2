package nixwire

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
)

// ReadDerivation reads a derivation, whose name is that of its path. An output or a variable that comes twice is an error, as is
// what [drv.ParseOutput] refuses.
func (c *Conn) ReadDerivation(path nix.StorePath) (d drv.BasicDerivation, err error) {
	if d.Name, err = drv.NameFromPath(path); err != nil {
		return d, err
	}
	if d.Outputs, err = c.readOutputs(d.Name); err != nil {
		return d, err
	}
	inputs, err := c.ReadPaths()
	if err != nil {
		return d, err
	}
	d.InputSrcs = nix.SortPaths(inputs)
	if d.Platform, err = c.ReadText(MaxPath, "platform"); err != nil {
		return d, err
	}
	if d.Builder, err = c.ReadText(MaxPath, "builder"); err != nil {
		return d, err
	}
	n, err := c.R.Count(maxArgs, "arguments")
	if err != nil {
		return d, Unexpected(err)
	}
	for range n {
		arg, err := c.ReadText(maxArg, "argument")
		if err != nil {
			return d, err
		}
		d.Args = append(d.Args, arg)
	}
	d.Env, err = c.readEnv()
	return d, err
}

// outputCost is about what an output takes beside its texts.
const outputCost = 256

func (c *Conn) readOutputs(drvName string) (map[string]drv.Output, error) {
	n, err := c.R.Count(MaxOutputs, "outputs")
	if err != nil {
		return nil, Unexpected(err)
	}
	outputs := map[string]drv.Output{}
	for range n {
		if err := c.take(outputCost); err != nil {
			return nil, err
		}
		var name, path, algo, hash string
		for _, field := range []*string{&name, &path, &algo, &hash} {
			if *field, err = c.ReadText(MaxPath, "output"); err != nil {
				return nil, err
			}
		}
		if _, ok := outputs[name]; ok {
			return nil, fmt.Errorf("output %q comes twice", name)
		}
		if outputs[name], err = drv.ParseOutput(c.Dir, drvName, name, path, algo, hash); err != nil {
			return nil, err
		}
	}
	return outputs, nil
}

// pairCost is about what a variable takes beside name and value.
const pairCost = 64

func (c *Conn) readEnv() (map[string]string, error) {
	n, err := c.R.Count(maxArgs, "variables")
	if err != nil {
		return nil, Unexpected(err)
	}
	env := map[string]string{}
	for range n {
		if err := c.take(pairCost); err != nil {
			return nil, err
		}
		var name, value string
		for _, field := range []*string{&name, &value} {
			if *field, err = c.ReadText(maxArg, "variable"); err != nil {
				return nil, err
			}
		}
		if _, ok := env[name]; ok {
			return nil, fmt.Errorf("variable %q comes twice", name)
		}
		env[name] = value
	}
	return env, nil
}

// WriteDerivation writes a derivation, but not its name. It fails before it writes if an output has no fields.
func (c *Conn) WriteDerivation(d *drv.BasicDerivation) error {
	var outputs []string
	for _, name := range d.OutputNames() {
		path, algo, hash, err := d.Outputs[name].Fields(c.Dir, d.Name, name)
		if err != nil {
			return fmt.Errorf("derivation %q: %w", d.Name, err)
		}
		outputs = append(outputs, name, path, algo, hash)
	}
	_ = c.W.Uint64(uint64(len(d.Outputs))) // the writer keeps its first error
	for _, field := range outputs {
		_ = c.W.String(field)
	}
	_ = c.WritePaths(d.InputSrcs)
	_ = c.W.String(d.Platform)
	_ = c.W.String(d.Builder)
	_ = c.W.Uint64(uint64(len(d.Args)))
	for _, arg := range d.Args {
		_ = c.W.String(arg)
	}
	err := c.W.Uint64(uint64(len(d.Env)))
	for _, name := range slices.Sorted(maps.Keys(d.Env)) {
		_ = c.W.String(name)
		err = c.W.String(d.Env[name])
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

// String returns the name that Nix has for a status in JSON.
func (s Status) String() string {
	names := [...]string{
		"Built", "Substituted", "AlreadyValid", "PermanentFailure", "InputRejected", "OutputRejected", "TransientFailure", "CachedFailure", "TimedOut",
		"MiscFailure", "DependencyFailed", "LogLimitExceeded", "NotDeterministic", "ResolvesToAlreadyValid", "NoSubstituters",
	}
	if s < Status(len(names)) {
		return names[s]
	}
	return strconv.FormatUint(uint64(s), 10)
}

// BuiltOutput is an output that was built.
type BuiltOutput struct {
	ID          string // "sha256:" and base 16 of the derivation's hash, "!", the output's name
	Realisation string // JSON
}

// BuildResult says how a build went. Older versions of the protocols have only some of its fields.
type BuildResult struct {
	Status           Status
	ErrorMsg         string
	TimesBuilt       uint64
	NonDeterministic bool
	Start, Stop      int64  // seconds since 1970 began
	CPUUser          *int64 // microseconds; nil if unknown
	CPUSystem        *int64
	Outputs          []BuiltOutput // in order
}

// ReadBuiltOutputs reads the outputs of a build result.
func (c *Conn) ReadBuiltOutputs() (outputs []BuiltOutput, err error) {
	n, err := c.R.Count(MaxOutputs, "outputs")
	if err != nil {
		return nil, Unexpected(err)
	}
	for range n {
		var o BuiltOutput
		if o.ID, err = c.ReadText(MaxPath, "output"); err != nil {
			return nil, err
		}
		if o.Realisation, err = c.ReadText(MaxMessage, "realisation"); err != nil {
			return nil, err
		}
		outputs = append(outputs, o)
	}
	return outputs, nil
}

// WriteBuiltOutputs writes the outputs of a build result.
func (c *Conn) WriteBuiltOutputs(outputs []BuiltOutput) error {
	err := c.W.Uint64(uint64(len(outputs)))
	for _, o := range outputs {
		_ = c.W.String(o.ID)
		err = c.W.String(o.Realisation)
	}
	return err // the writer keeps its first one
}
