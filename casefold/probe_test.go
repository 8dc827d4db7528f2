package casefold_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/narfs/narfs/casefold"
)

func TestIsCaseInsensitive(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	got, err := casefold.IsCaseInsensitive(dir)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 0 {
		t.Errorf("IsCaseInsensitive left %v behind (error %v)", entries, err)
	}
	if _, err := casefold.LooksCaseInsensitive(dir); err == nil && runtime.GOOS == "linux" {
		t.Error("LooksCaseInsensitive knows what nothing tells")
	}
	write(t, filepath.Join(dir, "Name"), "")
	_, err = os.Stat(filepath.Join(dir, "nAME"))
	if want := err == nil; got != want {
		t.Errorf("IsCaseInsensitive(%s) = %v; want %v", dir, got, want)
	}
	if looks, err := casefold.LooksCaseInsensitive(dir); err != nil || looks != got {
		t.Errorf("LooksCaseInsensitive(%s) = %v, %v; want %v", dir, looks, err, got)
	}
	if got, err := casefold.IsCaseInsensitive(filepath.Join(dir, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("IsCaseInsensitive of an absent directory = %v, %v; want an error", got, err)
	}
}

// TestProbeExisting plays a directory in which no file can be created.
func TestProbeExisting(t *testing.T) {
	t.Parallel()
	cause := errors.New("read-only")
	dir := t.TempDir()
	write(t, filepath.Join(dir, "123"), "")
	if got, err := casefold.ProbeExisting(dir, cause); !errors.Is(err, cause) {
		t.Errorf("only 123: ProbeExisting = %v, %v; want error %v", got, err, cause)
	}
	if insensitive, err := casefold.IsCaseInsensitive(dir); err != nil || insensitive {
		t.Skip("the rest needs a file system that does not fold case")
	}
	write(t, filepath.Join(dir, "name"), "")
	write(t, filepath.Join(dir, "NAME"), "")
	if got, err := casefold.ProbeExisting(dir, cause); !errors.Is(err, cause) {
		t.Errorf("123, NAME, name: ProbeExisting = %v, %v; want error %v", got, err, cause)
	}
	if got, err := casefold.HasOtherCase(dir, "name"); err != nil || got {
		t.Errorf("two files: HasOtherCase = %v, %v; want false", got, err)
	}
	write(t, filepath.Join(dir, "Other"), "")
	if got, err := casefold.ProbeExisting(dir, cause); err != nil || got {
		t.Errorf("123, NAME, Other, name: ProbeExisting = %v, %v; want false", got, err)
	}
	// One file of two names is how a system that folds case looks to stat.
	if err := os.Link(filepath.Join(dir, "Other"), filepath.Join(dir, "oTHER")); err != nil {
		t.Skipf("no hard links here: %v", err)
	}
	if got, err := casefold.HasOtherCase(dir, "Other"); err != nil || !got {
		t.Errorf("one file of two names: HasOtherCase = %v, %v; want true", got, err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
