package env

import (
	"os"
	"path/filepath"
	"testing"
)

// OpenTo lets all users into folders and those that they are in.
func OpenTo(tb testing.TB, dirs ...string) {
	tb.Helper()
	for _, dir := range dirs {
		for ; ; dir = filepath.Dir(dir) {
			info, err := os.Stat(dir)
			if err != nil {
				tb.Fatal(err)
			}
			if info.Mode()&os.ModeSticky != 0 || dir == "/" { // the folder for temporary files
				break
			}
			if err := os.Chmod(dir, 0o755); err != nil {
				tb.Fatal(err)
			}
		}
	}
}
