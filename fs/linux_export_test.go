//go:build linux

package fs

// ParseMountinfo is parseMountinfo.
var ParseMountinfo = parseMountinfo
