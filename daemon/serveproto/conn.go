package serveproto

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
	ClientMagic = 0x390c9deb
	ServerMagic = 0x5452eecb
)

// Version is a version of the protocol.
type Version = nixwire.Version

// Latest is the version that this package speaks, which all of Nix 2.4 to 2.34 do.
var Latest = Version{Major: 2, Minor: 7} //nolint:gochecknoglobals // a constant

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

// Conn is one side of a connection whose handshake is over.
type Conn struct {
	nixwire.Conn

	Version Version // the lesser of both sides'
}

// ErrMismatch says that the other side does not speak the protocol.
var ErrMismatch = errors.New("protocol mismatch")

// Accept is the server's half of the handshake. It writes nothing to who does not begin as a client does: that is ErrMismatch.
func Accept(r io.Reader, w io.Writer, dir nix.StoreDir) (*Conn, error) {
	c := &Conn{Conn: nixwire.Conn{R: wire.NewReader(r), W: wire.NewWriter(w), Dir: dir}}
	magic, err := c.R.Uint64()
	if err != nil {
		return nil, fmt.Errorf("handshake: %w", nixwire.Unexpected(err))
	}
	if magic != ClientMagic {
		return nil, ErrMismatch
	}
	_ = c.W.Uint64(ServerMagic) // the writer keeps its first error
	_ = c.W.Uint64(Latest.Number())
	if err := c.W.Flush(); err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	v, err := c.R.Uint64()
	if err != nil {
		return nil, fmt.Errorf("handshake: %w", nixwire.Unexpected(err))
	}
	c.Version = lesser(v)
	return c, nil
}

// lesser returns the version to speak with a side that speaks v. The server of Nix 2.8 takes any major version for its own.
func lesser(v uint64) Version {
	return Version{Major: 2, Minor: uint8(min(v&0xff, uint64(Latest.Minor)))}
}

// readPathInfo reads what QueryPathInfos answers about a path.
func (c *Conn) readPathInfo(p nix.StorePath) (info nix.PathInfo, err error) {
	info.Path = p
	if info.Deriver, err = c.ReadOptionalPath(); err != nil {
		return info, err
	}
	if info.References, err = c.ReadPathsUpTo(nixwire.MaxReferences, "references"); err != nil {
		return info, err
	}
	if _, err = c.R.Uint64(); err != nil { // what there would be to download
		return info, nixwire.Unexpected(err)
	}
	if info.NarSize, err = c.R.Uint64(); err != nil {
		return info, nixwire.Unexpected(err)
	}
	if !c.Version.AtLeast(2, 4) {
		return info, nil
	}
	if info.NarHash, err = c.ReadNarHash(); err != nil {
		return info, err
	}
	if info.CA, err = c.ReadCA(); err != nil {
		return info, err
	}
	info.Signatures, err = c.ReadSignatures(true)
	return info, err
}

// WritePathInfo writes one path of the answer to QueryPathInfos.
func (c *Conn) WritePathInfo(info nix.PathInfo) error {
	_ = c.WritePath(info.Path) // the writer keeps its first error
	return c.writeUnkeyedPathInfo(info)
}

func (c *Conn) writeUnkeyedPathInfo(info nix.PathInfo) error {
	_ = c.WritePath(info.Deriver)
	_ = c.WritePaths(info.References)
	_ = c.W.Uint64(info.NarSize) // to be downloaded; nobody looks at it
	err := c.W.Uint64(info.NarSize)
	if c.Version.AtLeast(2, 4) {
		_ = c.W.String(info.NarHash.String())
		_ = c.W.String(info.CA.String())
		err = c.WriteSignatures(info.Signatures)
	}
	return err
}

// WritePathInfosEnd ends the answer to QueryPathInfos.
func (c *Conn) WritePathInfosEnd() error { return c.W.String("") }
