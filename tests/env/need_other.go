//go:build !linux

package env

import (
	"errors"
	"os"
)

// Fuse is the need to be able to mount.
func Fuse() Need {
	return Need{"macFUSE", func() error {
		_, err := os.Stat("/Library/Filesystems/macfuse.fs")
		return err
	}}
}

// Builds is the need to be able to build.
func Builds() Need {
	return Need{"Linux", func() error { return errors.New("builds are tested there alone") }}
}
