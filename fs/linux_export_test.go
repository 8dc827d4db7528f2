//go:build linux

package fs

// Names of unexported things.
var (
	ParseMountinfo = parseMountinfo
	Apart          = apart
)
