package workerproto

import (
	"errors"
	"fmt"
	"io"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nixwire"
	"github.com/narfs/narfs/internal/wire"
)

// The magic numbers that the two sides begin with.
const (
	ClientMagic = 0x6e697863
	ServerMagic = 0x6478696f
)

// The first and the last version that this package speaks.
var (
	Oldest = nixwire.Version{Major: 1, Minor: 10} //nolint:gochecknoglobals // a constant
	Latest = nixwire.Version{Major: 1, Minor: 38} //nolint:gochecknoglobals // a constant
)

// Trust says what a server thinks of its client.
type Trust uint64

// What it may think.
const (
	TrustUnknown Trust = iota
	Trusted
	NotTrusted
)

// Limits of what a peer may send.
const (
	maxFeatures = 256
	maxShort    = 4096     // bytes of names and the like
	maxText     = 64 << 20 // bytes of a derivation, the longest of what comes as one string
	maxMessage  = 16 << 20 // bytes of a message
	maxOptions  = 1 << 12
	maxFields   = 64
	maxTraces   = 1 << 12 // of an error
)

// Conn is one side of a connection whose handshake is over.
type Conn struct {
	nixwire.Conn

	Version nixwire.Version // the lesser of both sides'
	tunnel  tunnel

	framed *wire.Reader // reused for framed arguments
}

// ErrMismatch says that the other side does not speak the protocol.
var ErrMismatch = errors.New("protocol mismatch")

// ErrTooOld says that the other side only speaks versions before [Oldest].
var ErrTooOld = errors.New("the Nix client version is too old")

// Greeting is what a server says of itself.
type Greeting struct {
	Program string // with its version, for people
	Trust   Trust
}

func newConn(r io.Reader, w io.Writer, dir nix.StoreDir) *Conn {
	return &Conn{Conn: nixwire.Conn{R: wire.NewReader(r), W: wire.NewWriter(w), Dir: dir}}
}

// Accept is the server's half of the handshake, up to the messages that end it: see [Conn.StopWork]. It writes nothing to who
// does not begin as a client does: that is ErrMismatch.
func Accept(r io.Reader, w io.Writer, dir nix.StoreDir, hello Greeting) (*Conn, error) {
	c := newConn(r, w, dir)
	if err := c.accept(hello); err != nil {
		if errors.Is(err, ErrMismatch) || errors.Is(err, ErrTooOld) {
			return nil, err
		}
		return nil, fmt.Errorf("handshake: %w", nixwire.Unexpected(err))
	}
	return c, nil
}

func (c *Conn) accept(hello Greeting) error {
	if magic, err := c.R.Uint64(); err != nil {
		return err
	} else if magic != ClientMagic {
		return ErrMismatch
	}
	_ = c.W.Uint64(ServerMagic) // the writer keeps its first error
	_ = c.W.Uint64(Latest.Number())
	if err := c.W.Flush(); err != nil {
		return err
	}
	theirs, err := c.R.Uint64()
	if err != nil {
		return err
	}
	if err := c.settle(nixwire.ParseVersion(theirs)); err != nil {
		return err
	}
	if c.Version.AtLeast(1, 38) {
		if _, err := c.readStrings(maxFeatures, "features"); err != nil {
			return err
		}
		_ = c.W.Uint64(0) // ours
		if err := c.W.Flush(); err != nil {
			return err
		}
	}
	if c.Version.AtLeast(1, 14) {
		if affinity, err := c.R.Bool(); err != nil {
			return err
		} else if affinity {
			if _, err := c.R.Uint64(); err != nil {
				return err
			}
		}
	}
	if c.Version.AtLeast(1, 11) {
		if _, err := c.R.Bool(); err != nil {
			return err
		}
	}
	if c.Version.AtLeast(1, 33) {
		_ = c.W.String(hello.Program)
	}
	if c.Version.AtLeast(1, 35) {
		_ = c.W.Uint64(uint64(hello.Trust))
	}
	return nil
}

// settle takes the version to speak with a side that speaks v. Nix takes any major version for its own.
func (c *Conn) settle(v nixwire.Version) error {
	if v.Less(Oldest) {
		return ErrTooOld
	}
	c.Version = Latest
	if v.Major == Latest.Major && v.Less(Latest) {
		c.Version = v
	}
	return nil
}

func (c *Conn) readStrings(limit uint64, what string) (all []string, err error) {
	n, err := c.R.Count(limit, what)
	if err != nil {
		return nil, nixwire.Unexpected(err)
	}
	for range n {
		s, err := c.ReadText(maxShort, what)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

func (c *Conn) writeStrings(all []string) error {
	err := c.W.Uint64(uint64(len(all)))
	for _, s := range all {
		err = c.W.String(s)
	}
	return err
}

// readNumbers reads integers.
func (c *Conn) readNumbers(to ...*uint64) (err error) {
	for _, n := range to {
		if *n, err = c.R.Uint64(); err != nil {
			return nixwire.Unexpected(err)
		}
	}
	return nil
}

func (c *Conn) readBools(to ...*bool) (err error) {
	for _, b := range to {
		if *b, err = c.R.Bool(); err != nil {
			return nixwire.Unexpected(err)
		}
	}
	return nil
}

// ReadUnkeyedPathInfo reads what is known about a path.
func (c *Conn) ReadUnkeyedPathInfo(p nix.StorePath) (info nix.PathInfo, err error) {
	return c.readUnkeyed(p, c.Version.AtLeast(1, 16), true)
}

// readUnkeyed reads a path's info, with what version 1.16 has added if so told. Signatures that are none are left out, or refused.
func (c *Conn) readUnkeyed(p nix.StorePath, full, leaveOut bool) (info nix.PathInfo, err error) {
	info.Path = p
	if info.Deriver, err = c.ReadOptionalPath(); err != nil {
		return info, err
	}
	if info.NarHash, err = c.ReadNarHash(); err != nil {
		return info, err
	}
	if info.References, err = c.ReadPathsUpTo(nixwire.MaxReferences, "references"); err != nil {
		return info, err
	}
	var time uint64
	if err := c.readNumbers(&time, &info.NarSize); err != nil {
		return info, err
	}
	info.RegistrationTime = int64(time)
	if !full {
		return info, nil
	}
	if err := c.readBools(&info.Ultimate); err != nil {
		return info, err
	}
	if info.Signatures, err = c.ReadSignatures(leaveOut); err != nil {
		return info, err
	}
	info.CA, err = c.ReadCA()
	return info, err
}

// WriteUnkeyedPathInfo writes what is known about a path.
func (c *Conn) WriteUnkeyedPathInfo(info nix.PathInfo) error {
	return c.writeUnkeyed(info, c.Version.AtLeast(1, 16))
}

func (c *Conn) writeUnkeyed(info nix.PathInfo, full bool) error {
	_ = c.WritePath(info.Deriver) // the writer keeps its first error
	_ = c.W.String(info.NarHash.Base16())
	_ = c.WritePaths(info.References)
	_ = c.W.Uint64(uint64(info.RegistrationTime))
	err := c.W.Uint64(info.NarSize)
	if full {
		_ = c.W.Bool(info.Ultimate)
		_ = c.WriteSignatures(info.Signatures)
		err = c.W.String(info.CA.String())
	}
	return err
}

// WritePathInfo writes a path and what is known about it.
func (c *Conn) WritePathInfo(info nix.PathInfo) error {
	_ = c.WritePath(info.Path)
	return c.WriteUnkeyedPathInfo(info)
}

// ReadPathInfo reads a path and what is known about it.
func (c *Conn) ReadPathInfo() (info nix.PathInfo, err error) {
	p, err := c.ReadPath()
	if err != nil {
		return info, err
	}
	return c.ReadUnkeyedPathInfo(p)
}
