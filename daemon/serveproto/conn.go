package serveproto

import (
	"errors"
	"fmt"
	"io"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/wire"
)

// The magic numbers that the two sides begin with.
const (
	ClientMagic = 0x390c9deb
	ServerMagic = 0x5452eecb
)

// Version is a version of the protocol.
type Version struct{ Major, Minor uint8 }

// Latest is the version that this package speaks, which all of Nix 2.4 to 2.34 do.
var Latest = Version{2, 7} //nolint:gochecknoglobals // a constant

// Less reports whether v is older than o.
func (v Version) Less(o Version) bool {
	return v.Major < o.Major || v.Major == o.Major && v.Minor < o.Minor
}

func (v Version) atLeast(minor uint8) bool { return !v.Less(Version{2, minor}) }

// String returns "major.minor".
func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

func (v Version) number() uint64 { return uint64(v.Major)<<8 | uint64(v.Minor) }

// Command is one of the protocol's commands.
type Command uint64

// The commands.
const (
	QueryValidPaths Command = iota + 1
	QueryPathInfos
	DumpStorePath
	ImportPaths
	ExportPaths
	BuildPaths
	QueryClosure
	BuildDerivation
	AddToStoreNar
)

// String returns the command's name.
func (c Command) String() string {
	names := []string{
		"QueryValidPaths", "QueryPathInfos", "DumpStorePath", "ImportPaths", "ExportPaths", "BuildPaths", "QueryClosure", "BuildDerivation",
		"AddToStoreNar",
	}
	if c >= 1 && int(c) <= len(names) {
		return names[c-1]
	}
	return fmt.Sprintf("command %d", uint64(c))
}

// Limits of what a peer may send.
const (
	maxPath       = 4096     // bytes of a store path in full
	maxPaths      = 1 << 21  // elements of a set of paths
	maxReferences = 1 << 18  // as of a record of the store
	maxSignatures = 1 << 10  // of one path
	maxSignature  = 4096     // bytes
	maxCA         = 1024     // bytes of a content address
	maxHash       = 256      // bytes of any spelling of a hash
	maxMessage    = 16 << 20 // bytes of an error message
	maxOutputs    = 1 << 12  // of a derivation or a build
	maxArgs       = 1 << 20  // arguments, or variables, of a builder
	maxArg        = 64 << 20 // bytes of one
)

// Conn is one side of a connection whose handshake is over. One goroutine at a time may read, and one may write.
type Conn struct {
	R       *wire.Reader
	W       *wire.Writer // to be flushed by the caller
	Dir     nix.StoreDir
	Version Version // the lesser of both sides'
	// Budget is asked before memory is taken for n more bytes of a request, as they come in; nil always says yes.
	Budget func(n int64) error
}

// ErrMismatch says that the other side does not speak the protocol.
var ErrMismatch = errors.New("protocol mismatch")

// Accept is the server's half of the handshake. It writes nothing to who does not begin as a client does: that is ErrMismatch.
func Accept(r io.Reader, w io.Writer, dir nix.StoreDir) (*Conn, error) {
	c := &Conn{R: wire.NewReader(r), W: wire.NewWriter(w), Dir: dir}
	magic, err := c.R.Uint64()
	if err != nil {
		return nil, fmt.Errorf("handshake: %w", unexpected(err))
	}
	if magic != ClientMagic {
		return nil, ErrMismatch
	}
	_ = c.W.Uint64(ServerMagic) // the writer keeps its first error
	_ = c.W.Uint64(Latest.number())
	if err := c.W.Flush(); err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	v, err := c.R.Uint64()
	if err != nil {
		return nil, fmt.Errorf("handshake: %w", unexpected(err))
	}
	c.Version = lesser(v)
	return c, nil
}

// lesser returns the version to speak with a side that speaks v. The server of Nix 2.8 takes any major version for its own.
func lesser(v uint64) Version { return Version{2, uint8(min(v&0xff, uint64(Latest.Minor)))} }

func unexpected(err error) error {
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
	p, err := c.readOptionalPath()
	if err == nil && p.IsZero() {
		err = errors.New("a store path is empty")
	}
	return p, err
}

func (c *Conn) readOptionalPath() (p nix.StorePath, err error) {
	full, err := c.R.Token(maxPath, "store path")
	if err != nil {
		return p, unexpected(err)
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
func (c *Conn) ReadPaths() ([]nix.StorePath, error) { return c.readPaths(maxPaths, "paths") }

func (c *Conn) readPaths(limit uint64, what string) (paths []nix.StorePath, err error) {
	n, err := c.R.Count(limit, what)
	if err != nil {
		return nil, unexpected(err)
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

func (c *Conn) writePath(p nix.StorePath) error {
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
		err = c.writePath(p)
	}
	return err // the writer keeps its first one
}

// readSignatures reads signatures. Nix 2.8 stores any text as one, and newer clients then refuse the whole info: so a server must
// not take what is none, and a client leaves it out.
func (c *Conn) readSignatures(leaveOut bool) (sigs []nix.Signature, err error) {
	n, err := c.R.Count(maxSignatures, "signatures")
	if err != nil {
		return nil, unexpected(err)
	}
	for range n {
		text, err := c.R.Token(maxSignature, "signature")
		if err != nil {
			return nil, unexpected(err)
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

func (c *Conn) writeSignatures(sigs []nix.Signature) error {
	err := c.W.Uint64(uint64(len(sigs)))
	for _, sig := range sigs {
		err = c.W.String(sig.String())
	}
	return err
}

func (c *Conn) readCA() (ca nix.ContentAddress, err error) {
	text, err := c.R.String(maxCA, "content address")
	if err != nil {
		return ca, unexpected(err)
	}
	return nix.ParseContentAddress(text)
}

func (c *Conn) readNarHash() (h nix.Hash, err error) {
	text, err := c.R.String(maxHash, "NAR hash")
	if err != nil {
		return h, unexpected(err)
	}
	return nix.ParseHash(text, nix.SHA256)
}

// readPathInfo reads what QueryPathInfos answers about a path.
func (c *Conn) readPathInfo(p nix.StorePath) (info nix.PathInfo, err error) {
	info.Path = p
	if info.Deriver, err = c.readOptionalPath(); err != nil {
		return info, err
	}
	if info.References, err = c.readPaths(maxReferences, "references"); err != nil {
		return info, err
	}
	if _, err = c.R.Uint64(); err != nil { // what there would be to download
		return info, unexpected(err)
	}
	if info.NarSize, err = c.R.Uint64(); err != nil {
		return info, unexpected(err)
	}
	if !c.Version.atLeast(4) {
		return info, nil
	}
	if info.NarHash, err = c.readNarHash(); err != nil {
		return info, err
	}
	if info.CA, err = c.readCA(); err != nil {
		return info, err
	}
	info.Signatures, err = c.readSignatures(true)
	return info, err
}

// WritePathInfo writes one path of the answer to QueryPathInfos.
func (c *Conn) WritePathInfo(info nix.PathInfo) error {
	_ = c.writePath(info.Path) // the writer keeps its first error
	return c.writeUnkeyedPathInfo(info)
}

func (c *Conn) writeUnkeyedPathInfo(info nix.PathInfo) error {
	_ = c.writePath(info.Deriver)
	_ = c.WritePaths(info.References)
	_ = c.W.Uint64(info.NarSize) // to be downloaded; nobody looks at it
	err := c.W.Uint64(info.NarSize)
	if c.Version.atLeast(4) {
		_ = c.W.String(info.NarHash.String())
		_ = c.W.String(info.CA.String())
		err = c.writeSignatures(info.Signatures)
	}
	return err
}

// WritePathInfosEnd ends the answer to QueryPathInfos.
func (c *Conn) WritePathInfosEnd() error { return c.W.String("") }
