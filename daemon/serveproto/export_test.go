package serveproto

import "github.com/narfs/narfs/internal/nix"

// What the tests against Nix's vectors look at.

func ReadBuildResult(c *Conn) (BuildResult, error)                { return c.readBuildResult() }
func ReadPathInfo(c *Conn, p nix.StorePath) (nix.PathInfo, error) { return c.readPathInfo(p) }
func WriteUnkeyedPathInfo(c *Conn, info nix.PathInfo) error       { return c.writeUnkeyedPathInfo(info) }
func ReadOptionalPath(c *Conn) (nix.StorePath, error)             { return c.readOptionalPath() }
func WritePath(c *Conn, p nix.StorePath) error                    { return c.writePath(p) }
