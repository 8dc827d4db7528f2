package session

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/dsnet/compress/bzip2"

	"github.com/narfs/narfs/internal/nix"
)

// logFile returns where Nix looks for a derivation's log: DIR/drvs/XX/REST.bz2, XX being the first two characters of its base name.
func logFile(dir string, p nix.StorePath) string {
	base := p.BaseName()
	return filepath.Join(dir, "drvs", base[:2], base[2:]+".bz2")
}

// writeLog keeps a derivation's log where `nix log` finds it, in place of one that is there.
func writeLog(dir string, p nix.StorePath, log io.Reader) (err error) {
	name := logFile(dir, p)
	defer func() {
		if err != nil {
			err = fmt.Errorf("log of %s: %w", p, err)
		}
	}()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".narfs-new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	w, err := bzip2.NewWriter(f, nil)
	if err == nil {
		_, err = io.Copy(w, log)
		err = errors.Join(err, w.Close())
	}
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
