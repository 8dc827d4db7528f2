package drv

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/narfs/narfs/internal/nix"
)

// Extension is how the name of a derivation's store path ends.
const Extension = ".drv"

// OutName is the name of the output that a derivation has if it does not say otherwise.
const OutName = "out"

// Kind says how an output gets its path. The zero value is none.
type Kind uint8

// The kinds; the package comment says what they mean.
const (
	InputAddressed Kind = iota + 1
	Fixed
	Floating
	Deferred
	Impure
)

// String returns the kind's name in words, "" for none.
func (k Kind) String() string {
	switch k {
	case InputAddressed:
		return "input-addressed"
	case Fixed:
		return "fixed"
	case Floating:
		return "floating"
	case Deferred:
		return "deferred"
	case Impure:
		return "impure"
	default:
		return ""
	}
}

// impureHash stands in the hash field of impure outputs.
const impureHash = "impure"

// Output is an output of a derivation. Outputs are comparable with ==.
type Output struct {
	Kind   Kind
	Path   nix.StorePath      // of InputAddressed
	CA     nix.ContentAddress // of Fixed
	Method nix.Method         // of Floating and Impure
	Algo   nix.Algo           // of Floating and Impure
}

// ParseOutput returns what the three fields of an output mean. The path of a fixed output must be the one that follows from its
// content address, as in Nix 2.36; 2.8 does not look. Any spelling of its hash without the algorithm is accepted.
func ParseOutput(dir nix.StoreDir, drvName, output, path, algo, hash string) (Output, error) {
	o, err := parseOutput(dir, drvName, output, path, algo, hash)
	if err != nil {
		return Output{}, fmt.Errorf("output %q: %w", output, err)
	}
	return o, nil
}

func parseOutput(dir nix.StoreDir, drvName, output, path, algo, hash string) (o Output, err error) {
	if err := nix.CheckName(output); err != nil {
		return o, err
	}
	switch {
	case algo == "" && hash != "":
		return o, errors.New("a hash without algorithm")
	case algo == "" && path == "":
		return Output{Kind: Deferred}, nil
	case algo == "":
		o.Kind = InputAddressed
		o.Path, err = nix.ParseStorePath(dir, path)
		return o, err
	}

	method, a, err := nix.ParseMethodAlgo(algo)
	if err != nil {
		return o, err
	}
	switch hash {
	case "":
		o = Output{Kind: Floating, Method: method, Algo: a}
	case impureHash:
		o = Output{Kind: Impure, Method: method, Algo: a}
	default:
		return parseFixed(dir, drvName, output, path, method, a, hash)
	}
	if path != "" {
		return Output{}, fmt.Errorf("%s, and has a path", o.Kind)
	}
	return o, nil
}

func parseFixed(dir nix.StoreDir, drvName, output, path string, method nix.Method, algo nix.Algo, hash string) (Output, error) {
	if strings.ContainsAny(hash, ":-") {
		return Output{}, fmt.Errorf("hash %q names an algorithm", hash)
	}
	h, err := nix.ParseHash(hash, algo)
	if err != nil {
		return Output{}, err
	}
	o := Output{Kind: Fixed, CA: nix.ContentAddress{Method: method, Hash: h}}
	p, err := o.fixedPath(dir, drvName, output)
	if err != nil {
		return Output{}, err
	}
	if path != dir.Path(p) {
		return Output{}, fmt.Errorf("has path %q, which does not match its content address; should be %q", path, dir.Path(p))
	}
	return o, nil
}

// Fields returns the three fields in which an output is written.
func (o Output) Fields(dir nix.StoreDir, drvName, output string) (path, algo, hash string, err error) {
	switch o.Kind {
	case InputAddressed:
		if o.Path.IsZero() {
			return "", "", "", fmt.Errorf("output %q: input-addressed, and has no path", output)
		}
		return dir.Path(o.Path), "", "", nil
	case Fixed:
		p, err := o.fixedPath(dir, drvName, output)
		if err != nil {
			return "", "", "", fmt.Errorf("output %q: %w", output, err)
		}
		return dir.Path(p), o.methodAlgo(), o.CA.Hash.Base16(), nil
	case Floating:
		return "", o.methodAlgo(), "", nil
	case Deferred:
		return "", "", "", nil
	case Impure:
		return "", o.methodAlgo(), impureHash, nil
	default:
		return "", "", "", fmt.Errorf("output %q: of no kind", output)
	}
}

func (o Output) methodAlgo() string {
	if o.Kind == Fixed {
		return nix.MethodAlgo(o.CA.Method, o.CA.Hash.Algo())
	}
	return nix.MethodAlgo(o.Method, o.Algo)
}

// StorePath returns where the output will be, as far as it says so itself: zero unless it is InputAddressed or Fixed.
func (o Output) StorePath(dir nix.StoreDir, drvName, output string) (nix.StorePath, error) {
	if o.Kind == Fixed {
		return o.fixedPath(dir, drvName, output)
	}
	return o.Path, nil
}

func (o Output) fixedPath(dir nix.StoreDir, drvName, output string) (nix.StorePath, error) {
	return nix.MakePathFromCA(dir, OutputPathName(drvName, output), o.CA, nil, false)
}

// OutputPathName returns the name of an output's store path.
func OutputPathName(drvName, output string) string {
	if output == OutName {
		return drvName
	}
	return drvName + "-" + output
}

// OutputPath returns the path of an input-addressed output from its derivation's hash modulo.
func OutputPath(dir nix.StoreDir, drvName, output string, modulo nix.Hash) (nix.StorePath, error) {
	return nix.MakeStorePath(dir, "output:"+output, modulo, OutputPathName(drvName, output))
}

// NameFromPath returns the name of the derivation that a store path, which must end in ".drv", holds.
func NameFromPath(p nix.StorePath) (string, error) {
	if !p.IsDerivation() {
		return "", fmt.Errorf("store path %q is not a valid derivation path", p)
	}
	name := strings.TrimSuffix(p.Name(), Extension)
	if err := nix.CheckName(name); err != nil {
		return "", fmt.Errorf("store path %q is not a valid derivation path: %w", p, err)
	}
	return name, nil
}

// BasicDerivation is a derivation whose inputs are all there: it needs no other derivation. The build commands of Nix's protocols
// send it.
type BasicDerivation struct {
	Name      string // of the derivation's path, without ".drv"
	Outputs   map[string]Output
	InputSrcs []nix.StorePath // as nix.SortPaths leaves them
	Platform  string
	Builder   string
	Args      []string
	Env       map[string]string
}

// OutputNames returns the names of the outputs, in order.
func (d *BasicDerivation) OutputNames() []string { return slices.Sorted(maps.Keys(d.Outputs)) }

// Kind returns the kind that all outputs have. It is an error if they are of different kinds, and whatever else Nix does not
// allow: no output, fixed outputs other than one called out, floating ones with different algorithms.
func (d *BasicDerivation) Kind() (Kind, error) {
	var kind Kind
	var algo nix.Algo
	for _, name := range d.OutputNames() {
		o := d.Outputs[name]
		switch {
		case kind == 0:
			kind, algo = o.Kind, o.Algo
		case o.Kind != kind:
			return 0, errors.New("can't mix derivation output types")
		case kind == Fixed:
			return 0, errors.New("only one fixed output is allowed for now")
		case kind == Floating && o.Algo != algo:
			return 0, errors.New("all floating outputs must use the same hash algorithm")
		}
	}
	if kind == 0 {
		return 0, errors.New("must have at least one output")
	}
	if _, ok := d.Outputs[OutName]; kind == Fixed && !ok {
		return 0, errors.New(`single fixed output must be named "out"`)
	}
	return kind, nil
}

// IsBuiltin reports whether the builder is a function of Nix and not a program.
func (d *BasicDerivation) IsBuiltin() bool { return strings.HasPrefix(d.Builder, "builtin:") }

// check refuses what cannot be written, or would read as another derivation.
func (d *BasicDerivation) check() error {
	if err := nix.CheckName(d.Name); err != nil {
		return err
	}
	for name := range d.Outputs {
		if err := nix.CheckName(name); err != nil {
			return fmt.Errorf("output %q: %w", name, err)
		}
	}
	if strings.ContainsAny(d.Platform, `"\`) {
		return fmt.Errorf("platform %q contains an illegal character", d.Platform)
	}
	return checkSorted(d.InputSrcs)
}

func checkSorted(paths []nix.StorePath) error {
	for i, p := range paths {
		if p.IsZero() || i > 0 && paths[i-1].Compare(p) >= 0 {
			return errors.New("input sources are not in order")
		}
	}
	return nil
}

// Derivation is a derivation as its file has it.
type Derivation struct {
	BasicDerivation

	InputDrvs map[nix.StorePath][]string // the outputs needed of each: at least one, in order
}

func (d *Derivation) check() error {
	if err := d.BasicDerivation.check(); err != nil {
		return err
	}
	for p, outputs := range d.InputDrvs {
		if p.IsZero() || len(outputs) == 0 {
			return fmt.Errorf("input derivation %q specifies no outputs", p)
		}
		for i, o := range outputs {
			if err := nix.CheckName(o); err != nil {
				return fmt.Errorf("output %q of input derivation %s: %w", o, p, err)
			}
			if i > 0 && outputs[i-1] >= o {
				return fmt.Errorf("outputs of input derivation %s are not in order", p)
			}
		}
	}
	return nil
}

// References returns the references of the derivation's file: its inputs, as nix.SortPaths leaves them.
func (d *Derivation) References() []nix.StorePath {
	return nix.SortPaths(slices.AppendSeq(slices.Clone(d.InputSrcs), maps.Keys(d.InputDrvs)))
}

// File is the store object that holds a derivation: a text with references.
type File struct {
	Path       nix.StorePath
	CA         nix.ContentAddress
	References []nix.StorePath // as nix.SortPaths leaves them
	Text       []byte
}

// File returns the store object of the derivation. It fails where ATerm does, and if the name is too long.
func (d *Derivation) File(dir nix.StoreDir) (File, error) {
	text, err := d.ATerm(dir)
	if err != nil {
		return File{}, err
	}
	f := File{
		CA:         nix.ContentAddress{Method: nix.MethodText, Hash: nix.NewSHA256(sha256.Sum256(text))},
		References: d.References(),
		Text:       text,
	}
	f.Path, err = nix.MakePathFromCA(dir, d.Name+Extension, f.CA, f.References, false)
	return f, err
}
