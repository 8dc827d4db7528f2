package drv

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/narfs/narfs/internal/nix"
)

// Modulo is the hash modulo of a derivation: what its store path is to other derivations, were it not for fixed outputs.
type Modulo struct {
	// Hash is of SHA-256. It is also there if Deferred, for the names of realisations (see nix.DrvOutput): they are made of it until Nix
	// 2.34, and no longer in 2.36.
	Hash nix.Hash
	// Fixed says that Hash stands for the one output called out, whatever builds it.
	Fixed bool
	// Deferred says that the paths of outputs cannot follow from Hash, because some input, direct or not, is floating or impure and
	// not built yet.
	Deferred bool
}

// OwnModulo returns the hash from which the paths and the names of the derivation's own outputs are made. Inputs returns the
// InputModulo of each input derivation.
func (d *Derivation) OwnModulo(dir nix.StoreDir, inputs func(nix.StorePath) (Modulo, error)) (Modulo, error) {
	return d.modulo(dir, inputs, true)
}

// InputModulo returns the hash that stands for the derivation where it is an input of another. Inputs returns the InputModulo
// of each input derivation.
//
// It is Deferred if an output has no path of its own. Nix until 2.34 looks at the inputs only; these differ for derivations
// that no Nix makes: with Deferred outputs and inputs of which none is.
func (d *Derivation) InputModulo(dir nix.StoreDir, inputs func(nix.StorePath) (Modulo, error)) (Modulo, error) {
	return d.modulo(dir, inputs, false)
}

func (d *Derivation) modulo(dir nix.StoreDir, inputs func(nix.StorePath) (Modulo, error), masked bool) (Modulo, error) {
	kind, err := d.Kind()
	if err != nil {
		return Modulo{}, fmt.Errorf("derivation %q: %w", d.Name, err)
	}
	var m Modulo
	switch kind {
	case Fixed:
		path, algo, hash, err := d.Outputs[OutName].Fields(dir, d.Name, OutName)
		if err != nil {
			return Modulo{}, fmt.Errorf("derivation %q: %w", d.Name, err)
		}
		return Modulo{Hash: hashString("fixed:out:" + algo + ":" + hash + ":" + path), Fixed: true}, nil
	case Impure:
		return Modulo{Hash: hashString("impure"), Deferred: true}, nil
	case Floating:
		m.Deferred = true
	case Deferred:
		m.Deferred = !masked
	default:
	}

	byHash := map[string][]string{}
	for p, outputs := range d.InputDrvs {
		in, err := inputs(p)
		if err != nil {
			return Modulo{}, err
		}
		if in.Hash.Algo() != nix.SHA256 {
			return Modulo{}, fmt.Errorf("derivation %q: the hash of input derivation %s is not known", d.Name, p)
		}
		if in.Fixed {
			for _, o := range outputs {
				if o != OutName {
					return Modulo{}, fmt.Errorf("no hash for output '%s' of derivation '%s'", o, dir.Path(p))
				}
			}
		}
		m.Deferred = m.Deferred || in.Deferred
		hex := in.Hash.Base16()
		byHash[hex] = append(byHash[hex], outputs...)
	}
	list := make([]input, 0, len(byHash))
	for _, hex := range slices.Sorted(maps.Keys(byHash)) {
		outputs := byHash[hex]
		slices.Sort(outputs)
		list = append(list, input{hex, slices.Compact(outputs)})
	}
	text, err := d.append(nil, dir, list, masked)
	if err != nil {
		return Modulo{}, err
	}
	m.Hash = nix.NewSHA256(sha256.Sum256(text))
	return m, nil
}

func hashString(s string) nix.Hash { return nix.NewSHA256(sha256.Sum256([]byte(s))) }

// Memo remembers the InputModulo of derivations by path. It may forget. What it holds must come from derivations whose bytes
// were checked against their path, which holds for what a Hasher puts there if it holds for what it loads.
type Memo interface {
	// Modulo returns what Remember was told.
	Modulo(drv nix.StorePath) (Modulo, bool)
	// Remember is told of each derivation after its inputs.
	Remember(drv nix.StorePath, m Modulo)
}

// maxPending bounds the memory that a walk takes; maxLoads, its time: about 100 times as much as the largest closures need.
const (
	maxPending = 1 << 20 // derivations to be looked at
	maxLoads   = 1 << 21 // twice for each derivation that has inputs
)

// ErrTooLarge says that there are too many derivations below one.
var ErrTooLarge = errors.New("too many input derivations")

// Hasher finds the hashes of derivations with those of all derivations below them. It has no state but the Memo's.
type Hasher struct {
	Dir nix.StoreDir
	// Load returns a derivation that is an input. One that has inputs is asked for twice if no Memo knows it.
	Load func(ctx context.Context, drv nix.StorePath) (*Derivation, error)
	// Memo is asked before Load; nil remembers for the length of one call.
	Memo Memo
}

// Own returns d's OwnModulo.
func (h *Hasher) Own(ctx context.Context, d *Derivation) (Modulo, error) {
	known, err := h.inputs(ctx, d)
	if err != nil {
		return Modulo{}, err
	}
	return d.OwnModulo(h.Dir, known)
}

// Input returns d's InputModulo. If d is stored, it is worth remembering.
func (h *Hasher) Input(ctx context.Context, d *Derivation) (Modulo, error) {
	known, err := h.inputs(ctx, d)
	if err != nil {
		return Modulo{}, err
	}
	return d.InputModulo(h.Dir, known)
}

// inputs finds the InputModulo of all that d has for inputs. A fixed derivation needs none of them.
func (h *Hasher) inputs(ctx context.Context, d *Derivation) (func(nix.StorePath) (Modulo, error), error) {
	w := walk{Hasher: h, found: map[nix.StorePath]Modulo{}, open: map[nix.StorePath]bool{}}
	if err := w.push(d); err != nil {
		return nil, err
	}
	if err := w.run(ctx); err != nil {
		return nil, err
	}
	return w.input, nil
}

// walk goes through input derivations, depth first, without recursion.
type walk struct {
	*Hasher

	found   map[nix.StorePath]Modulo
	pending []nix.StorePath
	open    map[nix.StorePath]bool // those pending whose inputs are pending above them
	loads   int
}

// lookup returns what is known of a derivation.
func (w *walk) lookup(p nix.StorePath) (Modulo, bool) {
	if m, ok := w.found[p]; ok {
		return m, true
	}
	if w.Memo == nil {
		return Modulo{}, false
	}
	m, ok := w.Memo.Modulo(p)
	if ok {
		w.found[p] = m // the memo may forget it before the end
	}
	return m, ok
}

func (w *walk) input(p nix.StorePath) (Modulo, error) {
	m, ok := w.lookup(p)
	if !ok {
		return Modulo{}, fmt.Errorf("hash of derivation '%s' is not known", w.Dir.Path(p))
	}
	return m, nil
}

// push makes the inputs of d pending whose hashes d needs and nobody knows.
func (w *walk) push(d *Derivation) error {
	if kind, err := d.Kind(); err != nil || kind == Fixed || kind == Impure {
		return err
	}
	for _, p := range slices.SortedFunc(maps.Keys(d.InputDrvs), nix.StorePath.Compare) { // so that errors are the same each time
		if _, ok := w.lookup(p); ok {
			continue
		}
		if w.open[p] {
			return fmt.Errorf("derivation '%s' is an input of itself", w.Dir.Path(p))
		}
		if len(w.pending) == maxPending {
			return ErrTooLarge
		}
		w.pending = append(w.pending, p)
	}
	return nil
}

func (w *walk) run(ctx context.Context) error {
	for len(w.pending) > 0 {
		top := len(w.pending) - 1
		p := w.pending[top]
		if _, ok := w.lookup(p); ok {
			w.pending = w.pending[:top]
			continue
		}
		if err := w.visit(ctx, p); err != nil {
			return fmt.Errorf("hash of derivation '%s': %w", w.Dir.Path(p), err)
		}
	}
	return nil
}

// visit finds the hash of p, or makes pending what it needs for that.
func (w *walk) visit(ctx context.Context, p nix.StorePath) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if w.loads == maxLoads {
		return ErrTooLarge
	}
	w.loads++
	d, err := w.Load(ctx, p)
	if err != nil {
		return err
	}
	before := len(w.pending)
	if !w.open[p] {
		w.open[p] = true
		if err := w.push(d); err != nil {
			return err
		}
	}
	if len(w.pending) > before {
		return nil
	}
	m, err := d.InputModulo(w.Dir, w.input)
	if err != nil {
		return err
	}
	delete(w.open, p)
	w.found[p] = m
	if w.Memo != nil {
		w.Memo.Remember(p, m)
	}
	return nil
}
