package nixdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"syscall"
	"time"
)

// Attempts to copy a database that changes, and the longest pause between two.
const (
	attempts = 12
	maxPause = 2 * time.Second
)

// errChanging says that a database could not be copied because it was being changed all the time.
var errChanging = errors.New("it is changed all the time: try again when Nix is less busy")

func isNotDir(err error) bool { return errors.Is(err, syscall.ENOTDIR) }

// snapshot copies a database that others may be writing to, so that the copy is as of one moment.
func snapshot(ctx context.Context, src, dst string) error {
	for i, pause := 0, time.Millisecond; i < attempts; i, pause = i+1, min(2*pause, maxPause) {
		if i > 0 {
			if err := wait(ctx, pause); err != nil {
				return err
			}
		}
		if whole, err := copyOnce(src, dst); err != nil || whole {
			return err
		}
	}
	return errChanging
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// The files beside a database.
const (
	walSuffix     = "-wal"
	journalSuffix = "-journal"
	// walHeader is the length of what a WAL begins with: among others its number and salts, which are new ones whenever it is
	// begun again, and stand there before anything behind them is written over.
	walHeader = 32
)

// copyOnce copies a database and reports whether the copy is whole. The database is copied first.
//
// With a WAL, it is, if the WAL is the same one from before until after all copying: SQLite changes the database only by moving into
// it what stands in the WAL, and only adds to the WAL. So whatever part of such a move the copy of the database has, the copy of the WAL
// has all of it, and wins. Its end may be half a transaction, which SQLite ignores.
//
// Without a WAL, the database is whole whenever there is neither a WAL nor a journal that says how to undo what has been
// begun; with a journal, it is together with that. The copy is from such a moment, after the first reading and before the second, if
// both read the same.
func copyOnce(src, dst string) (whole bool, err error) {
	before, err := readWALHeader(src)
	if err != nil {
		return false, err
	}
	for _, suffix := range []string{"", walSuffix, journalSuffix} {
		if err := copyFile(src+suffix, dst+suffix, suffix == ""); err != nil {
			return false, err
		}
	}
	after, err := readWALHeader(src)
	switch {
	case err != nil:
		return false, err
	case !before.same(after):
		return false, nil
	case after != nil:
		copied, err := readWALHeader(dst)
		return copied != nil && bytes.Equal(copied.bytes, after.bytes), err
	}
	for _, suffix := range []string{journalSuffix, ""} {
		if same, err := sameContent(src+suffix, dst+suffix); err != nil || !same {
			return false, err
		}
	}
	return true, nil
}

// wal identifies a WAL with something in it.
type wal struct {
	info  os.FileInfo
	bytes []byte
}

func (w *wal) same(other *wal) bool {
	if w == nil || other == nil {
		return w == other
	}
	return os.SameFile(w.info, other.info) && bytes.Equal(w.bytes, other.bytes)
}

// readWALHeader returns nil if a database has no WAL, or an empty one.
func readWALHeader(database string) (*wal, error) {
	f, err := os.Open(database + walSuffix)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, nil //nolint:nilnil // as said
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	w := &wal{bytes: make([]byte, walHeader)}
	if w.info, err = f.Stat(); err != nil {
		return nil, err
	}
	if _, err := f.ReadAt(w.bytes, 0); errors.Is(err, io.EOF) {
		return nil, nil //nolint:nilnil // as said
	} else if err != nil {
		return nil, err
	}
	return w, nil
}

// copyFile copies a file, over what was copied before. One that may be missing, and is, is missing in the copy, too.
func copyFile(src, dst string, needed bool) error {
	if err := os.Remove(dst); err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return err
	}
	in, err := os.Open(src)
	if errors.Is(err, iofs.ErrNotExist) && !needed {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // only read
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// sameContent compares two files; none is the same as an empty one.
func sameContent(a, b string) (bool, error) {
	readers := make([]io.Reader, 0, 2)
	for _, name := range []string{a, b} {
		f, err := os.Open(name)
		if errors.Is(err, iofs.ErrNotExist) {
			readers = append(readers, bytes.NewReader(nil))
			continue
		}
		if err != nil {
			return false, err
		}
		defer f.Close() //nolint:errcheck // only read
		readers = append(readers, f)
	}
	const piece = 256 << 10
	bufs := [2][]byte{make([]byte, piece), make([]byte, piece)}
	for {
		var n [2]int
		ended := false
		for i, r := range readers {
			var err error
			n[i], err = io.ReadFull(r, bufs[i])
			switch {
			case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
				ended = true
			case err != nil:
				return false, err
			}
		}
		if !bytes.Equal(bufs[0][:n[0]], bufs[1][:n[1]]) {
			return false, nil
		}
		if ended {
			return true, nil
		}
	}
}

// about says which database an error is about.
func (p Place) about(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("Nix database %s: %w", p.database(), err) //nolint:staticcheck // a name
}
