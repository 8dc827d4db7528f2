package cas_test

import (
	"errors"
	"os"
	"strconv"
	"syscall"
	"testing"

	"github.com/narfs/narfs/nar/cas"
)

// A store that was closed can be opened again also while somebody has copies of its descriptors, as a child that this process
// is just starting has until its exec.
func TestOpenWhileForking(t *testing.T) {
	dir := t.TempDir()
	s, err := cas.Open(dir, small())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cas.Open(dir, small()); !errors.Is(err, cas.ErrLocked) {
		t.Errorf("Open of an open store = %v; want ErrLocked", err)
	}
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		if fd, err = syscall.Dup(fd); err == nil { // the one for reading this list is closed by now
			defer syscall.Close(fd) //nolint:errcheck // only a copy
		}
	}
	closeStore(t, s)
	again, err := cas.Open(dir, small())
	if err != nil {
		t.Fatal(err)
	}
	closeStore(t, again)
}
