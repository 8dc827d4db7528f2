package env

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
)

// ReadAll reads everything in a mount again and again, until stop is set, and counts the files. What vanishes between the listing
// and the opening is counted too, and nobody's fault; what is open is readable to its end, or there is an error.
func ReadAll(dir string, stop *atomic.Bool, files, vanished *atomic.Int64) error {
	for !stop.Load() {
		err := filepath.WalkDir(dir, func(name string, d iofs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && !stop.Load() {
				if err = readFile(name); err == nil {
					files.Add(1)
				}
			}
			if errors.Is(err, iofs.ErrNotExist) {
				vanished.Add(1)
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func readFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return err
	}
	n, err := f.WriteTo(discard{})
	if err == nil && n != info.Size() {
		err = fmt.Errorf("%s: %d bytes of %d", name, n, info.Size())
	}
	return err
}

// discard is io.Discard without its short cuts, so that what is discarded has been read.
type discard struct{}

var _ io.Writer = discard{}

// Write implements io.Writer.
func (discard) Write(p []byte) (int, error) { return len(p), nil }
