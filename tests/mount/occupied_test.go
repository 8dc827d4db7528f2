package mount_test

import (
	"os"
	"syscall"
)

// occupied returns the bytes of disk space that a file has.
func occupied(name string) (int64, error) {
	info, err := os.Stat(name)
	if err != nil {
		return 0, err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512, nil
	}
	return info.Size(), nil
}
