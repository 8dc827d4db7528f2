package drv

import (
	"errors"
	"fmt"
	"strings"

	"github.com/narfs/narfs/internal/nix"
)

// Limits of what Parse accepts. With them a derivation takes less than about twenty times the memory of its file.
const (
	MaxSize = 64 << 20 // bytes of a file

	maxOutputs   = 1 << 12 // of a derivation, and of one input
	maxInputs    = 1 << 18 // input derivations, and input sources
	maxArguments = 1 << 20 // arguments, and variables
)

// Parse parses a derivation's file, which is all of text. The name is that of the derivation, see NameFromPath. Only what ATerm
// writes is accepted, so that the derivation has the same hash under any reader: Nix itself also takes lists out of order,
// names that come twice, needless or missing escapes, and bytes behind the end.
func Parse(dir nix.StoreDir, name string, text []byte) (*Derivation, error) {
	if len(text) > MaxSize {
		return nil, fmt.Errorf("parse derivation %q: %d bytes are more than %d", name, len(text), MaxSize)
	}
	p := parser{dir: dir, text: string(text)}
	d := &Derivation{}
	d.Name = name
	err := nix.CheckName(name)
	if err == nil {
		err = p.derivation(d)
	}
	if err != nil {
		return nil, fmt.Errorf("parse derivation %q: byte %d: %w", name, p.pos, err)
	}
	return d, nil
}

type parser struct {
	dir  nix.StoreDir
	text string
	pos  int
}

func (p *parser) derivation(d *Derivation) error {
	if strings.HasPrefix(p.text, "DrvWithVersion(") {
		return errors.New("format DrvWithVersion, of dynamic derivations, is not supported")
	}
	if err := p.expect("Derive("); err != nil {
		return err
	}
	if err := p.outputs(d); err != nil {
		return err
	}
	if err := p.expect(","); err != nil {
		return err
	}
	if err := p.inputDrvs(d); err != nil {
		return err
	}
	if err := p.expect(","); err != nil {
		return err
	}
	if err := p.inputSrcs(d); err != nil {
		return err
	}
	for _, field := range []struct {
		read func() (string, error)
		to   *string
	}{{p.plain, &d.Platform}, {p.quoted, &d.Builder}} {
		if err := p.expect(","); err != nil {
			return err
		}
		var err error
		if *field.to, err = field.read(); err != nil {
			return err
		}
	}
	if err := p.expect(","); err != nil {
		return err
	}
	if err := p.list("arguments", maxArguments, func() error {
		arg, err := p.quoted()
		d.Args = append(d.Args, arg)
		return err
	}); err != nil {
		return err
	}
	if err := p.expect(","); err != nil {
		return err
	}
	if err := p.env(d); err != nil {
		return err
	}
	if err := p.expect(")"); err != nil {
		return err
	}
	if p.pos < len(p.text) {
		return errors.New("bytes behind the end")
	}
	return nil
}

func (p *parser) outputs(d *Derivation) error {
	d.Outputs = map[string]Output{}
	last := ""
	return p.list("outputs", maxOutputs, func() error {
		fields, err := p.tuple(p.plain, p.plain, p.plain, p.plain)
		if err != nil {
			return err
		}
		name, path, algo, hash := fields[0], fields[1], fields[2], fields[3]
		if name <= last && len(d.Outputs) > 0 {
			return fmt.Errorf("output %q is out of order", name)
		}
		last = name
		o, err := ParseOutput(p.dir, d.Name, name, path, algo, hash)
		if err != nil {
			return err
		}
		if o.Kind == Fixed && hash != o.CA.Hash.Base16() {
			return fmt.Errorf("output %q: hash %q is not in base 16", name, hash)
		}
		d.Outputs[name] = o
		return nil
	})
}

func (p *parser) inputDrvs(d *Derivation) error {
	d.InputDrvs = map[nix.StorePath][]string{}
	var last nix.StorePath
	return p.list("input derivations", maxInputs, func() error {
		if err := p.expect("("); err != nil {
			return err
		}
		path, err := p.storePath()
		if err != nil {
			return err
		}
		if last.Compare(path) >= 0 {
			return fmt.Errorf("input derivation %s is out of order", path)
		}
		last = path
		if err := p.expect(","); err != nil {
			return err
		}
		var outputs []string
		if err := p.list("outputs", maxOutputs, func() error {
			name, err := p.plain()
			if err != nil {
				return err
			}
			if err := nix.CheckName(name); err != nil {
				return err
			}
			if n := len(outputs); n > 0 && outputs[n-1] >= name {
				return fmt.Errorf("output %q of %s is out of order", name, path)
			}
			outputs = append(outputs, name)
			return nil
		}); err != nil {
			return err
		}
		if len(outputs) == 0 {
			return fmt.Errorf("input derivation %s specifies no outputs", path)
		}
		d.InputDrvs[path] = outputs
		return p.expect(")")
	})
}

func (p *parser) inputSrcs(d *Derivation) error {
	var last nix.StorePath
	return p.list("input sources", maxInputs, func() error {
		path, err := p.storePath()
		if err != nil {
			return err
		}
		if last.Compare(path) >= 0 {
			return fmt.Errorf("input source %s is out of order", path)
		}
		last = path
		d.InputSrcs = append(d.InputSrcs, path)
		return nil
	})
}

func (p *parser) env(d *Derivation) error {
	d.Env = map[string]string{}
	last := ""
	return p.list("variables", maxArguments, func() error {
		fields, err := p.tuple(p.quoted, p.quoted)
		if err != nil {
			return err
		}
		name, value := fields[0], fields[1]
		if name <= last && len(d.Env) > 0 {
			return fmt.Errorf("variable %q is out of order", name)
		}
		last = name
		d.Env[name] = value
		return nil
	})
}

// list reads a list whose elements element reads.
func (p *parser) list(what string, limit int, element func() error) error {
	if err := p.expect("["); err != nil {
		return err
	}
	if p.skip("]") {
		return nil
	}
	for range limit {
		if err := element(); err != nil {
			return err
		}
		if p.skip("]") {
			return nil
		}
		if err := p.expect(","); err != nil {
			return err
		}
	}
	return fmt.Errorf("more than %d %s", limit, what)
}

// tuple reads strings in parentheses.
func (p *parser) tuple(reads ...func() (string, error)) ([]string, error) {
	fields := make([]string, len(reads))
	separator := "("
	for i, read := range reads {
		if err := p.expect(separator); err != nil {
			return nil, err
		}
		var err error
		if fields[i], err = read(); err != nil {
			return nil, err
		}
		separator = ","
	}
	return fields, p.expect(")")
}

func (p *parser) skip(s string) bool {
	if strings.HasPrefix(p.text[p.pos:], s) {
		p.pos += len(s)
		return true
	}
	return false
}

func (p *parser) expect(s string) error {
	if !p.skip(s) {
		return fmt.Errorf("expected string '%s'", s)
	}
	return nil
}

func (p *parser) storePath() (nix.StorePath, error) {
	s, err := p.plain()
	if err != nil {
		return nix.StorePath{}, err
	}
	return nix.ParseStorePath(p.dir, s)
}

var errUnterminated = errors.New("unterminated string in derivation")

// plain reads a string that has no escapes.
func (p *parser) plain() (string, error) {
	if err := p.expect(`"`); err != nil {
		return "", err
	}
	n := strings.IndexByte(p.text[p.pos:], '"')
	if n < 0 {
		return "", errUnterminated
	}
	s := p.text[p.pos : p.pos+n]
	if strings.IndexByte(s, '\\') >= 0 {
		return "", errors.New("a backslash in a string that cannot have escapes")
	}
	p.pos += n + 1
	return s, nil
}

// quoted reads a string with escapes.
func (p *parser) quoted() (string, error) {
	if err := p.expect(`"`); err != nil {
		return "", err
	}
	var unescaped strings.Builder // what comes before from
	from := p.pos
	for ; p.pos < len(p.text); p.pos++ {
		switch c := p.text[p.pos]; c {
		case '"':
			rest := p.text[from:p.pos]
			p.pos++
			if unescaped.Len() == 0 {
				return rest, nil
			}
			unescaped.WriteString(rest)
			return unescaped.String(), nil
		case '\n', '\r', '\t':
			return "", fmt.Errorf("%q without escape", c)
		case '\\':
			if p.pos+1 == len(p.text) {
				return "", errUnterminated
			}
			byEscape, ok := unescape(p.text[p.pos+1])
			if !ok {
				return "", fmt.Errorf("needless escape %q", p.text[p.pos:p.pos+2])
			}
			unescaped.WriteString(p.text[from:p.pos])
			unescaped.WriteByte(byEscape)
			p.pos++
			from = p.pos + 1
		}
	}
	return "", errUnterminated
}

// unescape returns what c stands for behind a backslash.
func unescape(c byte) (byte, bool) {
	switch c {
	case '"', '\\':
		return c, true
	case 'n':
		return '\n', true
	case 'r':
		return '\r', true
	case 't':
		return '\t', true
	default:
		return 0, false
	}
}
