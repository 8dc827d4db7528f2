package env

import (
	"errors"
	"os"
	"os/exec"
)

// Fuse is the need to be able to mount.
func Fuse() Need {
	return Need{"/dev/fuse", func() error {
		file, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
		if err != nil {
			return err
		}
		if err := file.Close(); err != nil {
			return err
		}
		if _, err := exec.LookPath("fusermount3"); err != nil && os.Getuid() != 0 {
			return errors.New("fusermount3 is not in PATH, and the user is not root")
		}
		return nil
	}}
}
