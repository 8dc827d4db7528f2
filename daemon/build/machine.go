package build

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Machine is another one that may build.
type Machine struct {
	Store     string   // its address, such as ssh://alice@host
	Systems   []string // in order, as Features and Mandatory
	Key       string   // the file of the key for ssh; "" for ssh's own choice
	MaxJobs   int
	Speed     float64  // more than others', or less
	Features  []string // that derivations may require
	Mandatory []string // further ones, all of which a derivation must require
	HostKey   string   // as known_hosts has it behind the name; "" for what ssh knows
}

// The text of the setting builders, or of a file that it names as @FILE, which may be missing:
//
//	STORE SYSTEM,… KEYFILE MAXJOBS SPEED FEATURE,… MANDATORY-FEATURE,… HOSTKEY
//
// in lines, or with ; between. A # begins a comment. Fields may be missing at the end, or be -. HOSTKEY is in base 64.
const (
	maxMachines     = 4096
	maxMachineText  = 1 << 20 // bytes of a text, or a file
	maxMachineFiles = 64
)

// ParseMachines reads a text of the setting builders. System is the one of machines that name none. Errors name line and file.
func ParseMachines(text, system string) ([]Machine, error) {
	p := &machineParser{system: system}
	err := p.text("builders", text)
	return p.all, err
}

type machineParser struct {
	system string
	all    []Machine
	files  int
}

func (p *machineParser) text(origin, text string) error {
	if len(text) > maxMachineText {
		return fmt.Errorf("%s: longer than %d bytes", origin, maxMachineText)
	}
	number := 0
	for line := range strings.Lines(text) {
		number++
		line, _, _ = strings.Cut(line, "#")
		for entry := range strings.SplitSeq(line, ";") {
			entry = strings.TrimSpace(entry)
			if entry == "" {
				continue
			}
			if name, isFile := strings.CutPrefix(entry, "@"); isFile {
				if err := p.file(strings.TrimSpace(name)); err != nil {
					return fmt.Errorf("%s:%d: %w", origin, number, err)
				}
				continue
			}
			m, err := p.machine(strings.Fields(entry))
			if err != nil {
				return fmt.Errorf("%s:%d: bad machine specification '%.200s': %w", origin, number, entry, err)
			}
			if p.all = append(p.all, m); len(p.all) > maxMachines {
				return fmt.Errorf("%s:%d: more than %d machines", origin, number, maxMachines)
			}
		}
	}
	return nil
}

func (p *machineParser) file(name string) error {
	// What names itself would never end.
	if p.files++; p.files > maxMachineFiles {
		return fmt.Errorf("%s is one file too many, after %d", name, maxMachineFiles)
	}
	info, err := os.Stat(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() { // which might never end, or never begin
		return fmt.Errorf("%s is no file", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	text, err := io.ReadAll(io.LimitReader(f, maxMachineText+1))
	if err != nil {
		return err
	}
	return p.text(name, string(text))
}

func (p *machineParser) machine(fields []string) (m Machine, err error) {
	field := func(i int) string {
		if i >= len(fields) || fields[i] == "-" {
			return ""
		}
		return fields[i]
	}
	m = Machine{Store: field(0), Systems: commas(field(1)), Key: field(2), MaxJobs: 1, Speed: 1, Features: commas(field(5)), Mandatory: commas(field(6))}
	if m.Store == "" {
		return m, errors.New("there is no address of a store")
	}
	if strings.ContainsFunc(strings.Join(fields, ""), unicode.IsControl) {
		return m, errors.New("it has control characters")
	}
	if isHost(m.Store) {
		m.Store = "ssh://" + m.Store
	}
	if len(m.Systems) == 0 {
		m.Systems = []string{p.system}
	}
	if text := field(3); text != "" {
		n, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			return m, fmt.Errorf("%q is not a number of jobs", text)
		}
		m.MaxJobs = int(n)
	}
	if text := field(4); text != "" {
		m.Speed, err = strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(m.Speed) || math.IsInf(m.Speed, 0) {
			return m, fmt.Errorf("%q is not a speed factor", text)
		}
		if m.Speed < 0 {
			return m, errors.New("speed factor must be >= 0")
		}
		if m.Speed == 0 {
			m.Speed = 1
		}
	}
	if text := field(7); text != "" {
		key, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
		if err != nil {
			return m, fmt.Errorf("%q is not a host key in base 64", text)
		}
		m.HostKey = strings.TrimSpace(string(key))
		if strings.ContainsFunc(m.HostKey, func(r rune) bool { return r < ' ' }) {
			return m, errors.New("the host key has several lines, or control characters")
		}
	}
	return m, nil
}

// isHost reports whether what stands for a store is only the name of a host, perhaps with a user.
func isHost(store string) bool {
	word, _, _ := strings.Cut(store, "?")
	return !strings.Contains(store, "/") && word != "" && word != "auto" && word != "daemon" && word != "local"
}

// commas returns the words between commas, in order, each once.
func commas(text string) []string {
	if text == "" {
		return nil
	}
	words := strings.FieldsFunc(text, func(r rune) bool { return r == ',' })
	slices.Sort(words)
	return slices.Compact(words)
}

// requirement is what a derivation needs of a machine.
type requirement struct {
	system   string
	features []string // in order
}

// refuses says why a machine cannot build something; "" if it can.
func (m *Machine) refuses(r requirement) string {
	missing := slices.DeleteFunc(slices.Clone(r.features), func(f string) bool {
		return slices.Contains(m.Features, f) || slices.Contains(m.Mandatory, f)
	})
	unmet := slices.DeleteFunc(slices.Clone(m.Mandatory), func(f string) bool { return slices.Contains(r.features, f) })
	switch {
	case r.system != "builtin" && !slices.Contains(m.Systems, r.system):
		return "it builds for " + strings.Join(m.Systems, ", ")
	case len(missing) > 0:
		return "it lacks the features " + strings.Join(missing, ", ")
	case len(unmet) > 0:
		return "it is for derivations that require the features " + strings.Join(unmet, ", ")
	case m.MaxJobs == 0:
		return "its number of jobs is 0"
	}
	return ""
}
