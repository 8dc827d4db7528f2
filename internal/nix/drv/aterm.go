package drv

import (
	"fmt"
	"maps"
	"slices"

	"github.com/narfs/narfs/internal/nix"
)

// ATerm returns the derivation's file. What Parse would not read again is an error.
func (d *Derivation) ATerm(dir nix.StoreDir) ([]byte, error) { return d.Append(nil, dir) }

// Append appends the derivation's file to b; see ATerm.
func (d *Derivation) Append(b []byte, dir nix.StoreDir) ([]byte, error) {
	inputs := make([]input, 0, len(d.InputDrvs))
	for _, p := range slices.SortedFunc(maps.Keys(d.InputDrvs), nix.StorePath.Compare) {
		inputs = append(inputs, input{dir.Path(p), d.InputDrvs[p]})
	}
	return d.append(b, dir, inputs, false)
}

// input is an input derivation as it is written.
type input struct {
	key     string // path or hash
	outputs []string
}

// append appends the derivation with the inputs given instead of its input derivations. If it is masked, the outputs' paths and
// the variables called as they are, are empty.
func (d *Derivation) append(b []byte, dir nix.StoreDir, inputs []input, masked bool) ([]byte, error) {
	if err := d.check(); err != nil {
		return nil, fmt.Errorf("derivation %q: %w", d.Name, err)
	}
	b = append(b, "Derive(["...)
	for i, name := range d.OutputNames() {
		path, algo, hash, err := d.Outputs[name].Fields(dir, d.Name, name)
		if err != nil {
			return nil, fmt.Errorf("derivation %q: %w", d.Name, err)
		}
		if masked {
			path = ""
		}
		b = append(appendComma(b, i), '(')
		b = appendPlain(b, name)
		b = appendPlain(append(b, ','), path)
		b = appendPlain(append(b, ','), algo)
		b = appendPlain(append(b, ','), hash)
		b = append(b, ')')
	}

	b = append(b, "],["...)
	for i, in := range inputs {
		b = append(appendComma(b, i), '(')
		b = appendPlain(b, in.key)
		b = append(b, ",["...)
		for j, o := range in.outputs {
			b = appendPlain(appendComma(b, j), o)
		}
		b = append(b, "])"...)
	}

	b = append(b, "],["...)
	for i, p := range d.InputSrcs {
		b = appendPlain(appendComma(b, i), dir.Path(p))
	}
	b = append(b, "],"...)
	b = appendPlain(b, d.Platform)
	b = appendQuoted(append(b, ','), d.Builder)

	b = append(b, ",["...)
	for i, arg := range d.Args {
		b = appendQuoted(appendComma(b, i), arg)
	}

	b = append(b, "],["...)
	for i, name := range slices.Sorted(maps.Keys(d.Env)) {
		value := d.Env[name]
		if _, output := d.Outputs[name]; masked && output {
			value = ""
		}
		b = append(appendComma(b, i), '(')
		b = appendQuoted(b, name)
		b = appendQuoted(append(b, ','), value)
		b = append(b, ')')
	}
	return append(b, "])"...), nil
}

// appendComma appends what stands before the element i of a list.
func appendComma(b []byte, i int) []byte {
	if i > 0 {
		return append(b, ',')
	}
	return b
}

func appendPlain(b []byte, s string) []byte {
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

func appendQuoted(b []byte, s string) []byte {
	b = append(b, '"')
	from := 0
	for i := range len(s) {
		if escape := escapeOf(s[i]); escape != 0 {
			b = append(b, s[from:i]...)
			b = append(b, '\\', escape)
			from = i + 1
		}
	}
	b = append(b, s[from:]...)
	return append(b, '"')
}

// escapeOf returns what stands for c behind a backslash, 0 if c stands for itself.
func escapeOf(c byte) byte {
	switch c {
	case '"', '\\':
		return c
	case '\n':
		return 'n'
	case '\r':
		return 'r'
	case '\t':
		return 't'
	default:
		return 0
	}
}
