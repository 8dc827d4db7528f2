package serveproto

import (
	"errors"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nixwire"
)

// Command reads the next command. An end of the stream before it is io.EOF.
func (c *Conn) Command() (Command, error) {
	v, err := c.R.Uint64()
	return Command(v), err
}

// QueryValidPathsRequest is what QueryValidPaths asks.
type QueryValidPathsRequest struct {
	Lock       bool // keep the paths, valid or not, until the end of the connection
	Substitute bool // get those that are missing from elsewhere, first
	Paths      []nix.StorePath
}

// ReadQueryValidPaths reads the request.
func (c *Conn) ReadQueryValidPaths() (req QueryValidPathsRequest, err error) {
	if req.Lock, err = c.R.Bool(); err != nil {
		return req, nixwire.Unexpected(err)
	}
	if req.Substitute, err = c.R.Bool(); err != nil {
		return req, nixwire.Unexpected(err)
	}
	req.Paths, err = c.ReadPaths()
	return req, err
}

// ReadQueryClosure reads the request. With outputs, the outputs of derivations were once meant, too.
func (c *Conn) ReadQueryClosure() (outputs bool, paths []nix.StorePath, err error) {
	if outputs, err = c.R.Bool(); err != nil {
		return false, nil, nixwire.Unexpected(err)
	}
	paths, err = c.ReadPaths()
	return outputs, paths, err
}

// ReadExportPaths reads the request.
func (c *Conn) ReadExportPaths() ([]nix.StorePath, error) {
	if _, err := c.R.Uint64(); err != nil { // once: whether to sign
		return nil, nixwire.Unexpected(err)
	}
	return c.ReadPaths()
}

// ReadAddToStoreNar reads the request but for the NAR, which follows.
func (c *Conn) ReadAddToStoreNar() (info nix.PathInfo, err error) {
	if info.Path, err = c.ReadPath(); err != nil {
		return info, err
	}
	if info.Deriver, err = c.ReadOptionalPath(); err != nil {
		return info, err
	}
	if info.NarHash, err = c.ReadNarHash(); err != nil {
		return info, err
	}
	if info.References, err = c.ReadPathsUpTo(nixwire.MaxReferences, "references"); err != nil {
		return info, err
	}
	time, err := c.R.Uint64()
	if err != nil {
		return info, nixwire.Unexpected(err)
	}
	info.RegistrationTime = int64(time)
	if info.NarSize, err = c.R.Uint64(); err != nil {
		return info, nixwire.Unexpected(err)
	}
	if info.NarSize == 0 {
		return info, errors.New("the NAR size is 0")
	}
	if info.Ultimate, err = c.R.Bool(); err != nil {
		return info, nixwire.Unexpected(err)
	}
	if info.Signatures, err = c.ReadSignatures(false); err != nil {
		return info, err
	}
	info.CA, err = c.ReadCA()
	return info, err
}

// WriteOK answers ImportPaths and AddToStoreNar.
func (c *Conn) WriteOK() error { return c.W.Uint64(1) }
