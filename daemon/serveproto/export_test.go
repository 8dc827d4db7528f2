package serveproto

import (
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nixwire"
)

// What the tests against Nix's vectors look at.

func ReadBuildResult(c *Conn) (nixwire.BuildResult, error)        { return c.readBuildResult() }
func ReadPathInfo(c *Conn, p nix.StorePath) (nix.PathInfo, error) { return c.readPathInfo(p) }
func WriteUnkeyedPathInfo(c *Conn, info nix.PathInfo) error       { return c.writeUnkeyedPathInfo(info) }
