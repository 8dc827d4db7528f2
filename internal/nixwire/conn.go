package nixwire

import (
	"errors"
	"io"
	"strings"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/wire"
)

// Limits of what a peer may send.
const (
	MaxPath       = 4096     // bytes of a store path in full
	MaxPaths      = 1 << 21  // elements of a set of paths
	MaxReferences = 1 << 18  // as of a record of the store
	maxSignatures = 1 << 10  // of one path
	maxSignature  = 4096     // bytes
	maxCA         = 1024     // bytes of a content address
	maxHash       = 256      // bytes of any spelling of a hash
	MaxMessage    = 16 << 20 // bytes of an error message
	MaxOutputs    = 1 << 12  // of a derivation or a build
	maxArgs       = 1 << 20  // arguments, or variables, of a builder
	maxArg        = 64 << 20 // bytes of one
)

// Conn is one side of a connection, for the protocols to embed. One goroutine at a time may read, and one may write.
type Conn struct {
	R   *wire.Reader
	W   *wire.Writer // to be flushed by the caller
	Dir nix.StoreDir
	// Budget is asked before memory is taken for n more bytes of a request, as they come in; nil always says yes.
	Budget func(n int64) error
}

// Unexpected turns the end of the stream into the error for an end inside a value.
func Unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// take asks the budget.
func (c *Conn) take(n int) error {
	if c.Budget == nil {
		return nil
	}
	return c.Budget(int64(n))
}

// pathCost is about what a store path takes beside its name.
const pathCost = 64

// ReadPath reads a store path.
func (c *Conn) ReadPath() (nix.StorePath, error) {
	p, err := c.ReadOptionalPath()
	if err == nil && p.IsZero() {
		err = errors.New("a store path is empty")
	}
	return p, err
}

// ReadOptionalPath reads a store path, or "" for none.
func (c *Conn) ReadOptionalPath() (p nix.StorePath, err error) {
	full, err := c.R.Token(MaxPath, "store path")
	if err != nil {
		return p, Unexpected(err)
	}
	if len(full) == 0 {
		return p, nil
	}
	if err := c.take(pathCost + len(full)); err != nil {
		return p, err
	}
	return nix.ParseStorePath(c.Dir, string(full))
}

// ReadPaths reads a set of store paths, in any order.
func (c *Conn) ReadPaths() ([]nix.StorePath, error) { return c.ReadPathsUpTo(MaxPaths, "paths") }

// ReadPathsUpTo reads a set of at most so many store paths; what says what they are, for the error.
func (c *Conn) ReadPathsUpTo(limit uint64, what string) (paths []nix.StorePath, err error) {
	n, err := c.R.Count(limit, what)
	if err != nil {
		return nil, Unexpected(err)
	}
	for range n {
		p, err := c.ReadPath()
		if err != nil {
			return nil, err
		}
		paths = append(paths, p)
	}
	return paths, nil
}

// WritePath writes a store path; "" for none.
func (c *Conn) WritePath(p nix.StorePath) error {
	if p.IsZero() {
		return c.W.String("")
	}
	return c.W.String(c.Dir.Path(p))
}

// WritePaths writes a set of store paths, in order.
func (c *Conn) WritePaths(paths []nix.StorePath) error {
	paths = nix.SortPaths(paths)
	err := c.W.Uint64(uint64(len(paths)))
	for _, p := range paths {
		err = c.WritePath(p)
	}
	return err // the writer keeps its first one
}

// ReadSignatures reads signatures. Nix 2.8 stores any text as one, and newer clients then refuse the whole info: so a server must
// not take what is none, and a client leaves it out.
func (c *Conn) ReadSignatures(leaveOut bool) (sigs []nix.Signature, err error) {
	n, err := c.R.Count(maxSignatures, "signatures")
	if err != nil {
		return nil, Unexpected(err)
	}
	for range n {
		text, err := c.R.Token(maxSignature, "signature")
		if err != nil {
			return nil, Unexpected(err)
		}
		if err := c.take(signatureCost + len(text)); err != nil {
			return nil, err
		}
		sig, err := nix.ParseSignature(string(text))
		switch {
		case err == nil:
			sigs = append(sigs, sig)
		case !leaveOut:
			return nil, err
		}
	}
	return sigs, nil
}

// signatureCost is about what a signature takes beside its text.
const signatureCost = 96

// WriteSignatures writes signatures.
func (c *Conn) WriteSignatures(sigs []nix.Signature) error {
	err := c.W.Uint64(uint64(len(sigs)))
	for _, sig := range sigs {
		err = c.W.String(sig.String())
	}
	return err
}

// ReadCA reads a content address, or "" for none.
func (c *Conn) ReadCA() (ca nix.ContentAddress, err error) {
	text, err := c.R.String(maxCA, "content address")
	if err != nil {
		return ca, Unexpected(err)
	}
	return nix.ParseContentAddress(text)
}

// ReadNarHash reads a SHA-256 in any spelling.
func (c *Conn) ReadNarHash() (h nix.Hash, err error) {
	text, err := c.R.String(maxHash, "NAR hash")
	if err != nil {
		return h, Unexpected(err)
	}
	return nix.ParseHash(text, nix.SHA256)
}

// textCost is about what a string takes beside its bytes.
const textCost = 32

// textGrain is how much of a long string is asked of the budget at a time.
const textGrain = 64 << 10

// ReadText reads a string that may be long. The budget is asked as its bytes come: neither for what is only announced, nor when
// the memory is taken already.
func (c *Conn) ReadText(limit int, what string) (string, error) {
	n, err := c.R.Uint64()
	if err != nil {
		return "", Unexpected(err)
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
			return "", Unexpected(err)
		}
		left -= part
	}
	if err := c.R.Padding(n); err != nil {
		return "", Unexpected(err)
	}
	return text.String(), nil
}
