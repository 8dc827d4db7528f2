//go:build !linux

package env

import "os"

// Fuse is the need to be able to mount.
func Fuse() Need {
	return Need{"macFUSE", func() error {
		_, err := os.Stat("/Library/Filesystems/macfuse.fs")
		return err
	}}
}
