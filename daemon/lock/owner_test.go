package lock_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/narfs/narfs/daemon/lock"
)

func TestOwn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	owner, err := lock.Own(dir, "mount /mnt\nevil")
	if err != nil {
		t.Fatal(err)
	}
	_, err = lock.Own(dir, "second")
	var owned *lock.OwnedError
	if !errors.As(err, &owned) {
		t.Fatalf("second Own = %v; want *OwnedError", err)
	}
	want := fmt.Sprintf("state directory %s is in use by process %d (mount /mnt evil)", dir, os.Getpid())
	if got := err.Error(); got != want {
		t.Errorf("second Own = %q; want %q", got, want)
	}
	if err := owner.Release(); err != nil {
		t.Fatal(err)
	}
	// What a crashed owner left means nothing.
	if err := os.WriteFile(filepath.Join(dir, lock.OwnerFile), []byte("1 init\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	owner, err = lock.Own(dir, "third")
	if err != nil {
		t.Fatal(err)
	}
	// A line that somebody spoiled is no reason to fail differently.
	if err := os.WriteFile(filepath.Join(dir, lock.OwnerFile), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := lock.Own(dir, "fourth"); !errors.As(err, &owned) || owned.PID != 0 || owned.What != "" {
		t.Errorf("Own with a spoiled line = %v; want *OwnedError without names", err)
	}
	if err := owner.Release(); err != nil {
		t.Fatal(err)
	}
	if _, err := lock.Own(filepath.Join(dir, "absent"), ""); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Own(absent) = %v; want ErrNotExist", err)
	}
}
