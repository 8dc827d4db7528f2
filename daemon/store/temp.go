package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

func (s *Store) tempDir() string { return filepath.Join(s.dir, "tmp") }

// TempDir returns a folder, which exists now, for files that nobody needs any more when the process ends. What is left in it, goes when
// the store is opened the next time.
func (s *Store) TempDir() (string, error) {
	dir := s.tempDir()
	return dir, os.MkdirAll(dir, 0o700)
}

// clearTemp removes what a crashed owner left.
func (s *Store) clearTemp() error { return os.RemoveAll(s.tempDir()) }

// spoolMemory is how much of a spooled stream is kept in memory.
const spoolMemory = 1 << 20

// spooled is a stream that was read to its end, because its length has to be known first.
type spooled struct {
	io.Reader

	size int64
	file *os.File // nil if all of it is in memory
}

// spool reads r to its end, into memory or a file without a name.
func (s *Store) spool(r io.Reader) (*spooled, error) {
	head, err := io.ReadAll(io.LimitReader(r, spoolMemory))
	if err != nil {
		return nil, err
	}
	sp := &spooled{Reader: bytes.NewReader(head), size: int64(len(head))}
	if len(head) < spoolMemory {
		return sp, nil
	}
	if _, err := s.TempDir(); err != nil {
		return nil, err
	}
	if sp.file, err = os.CreateTemp(s.tempDir(), "add-"); err != nil {
		return nil, err
	}
	err = os.Remove(sp.file.Name())
	if err == nil {
		var n int64
		n, err = io.Copy(sp.file, r)
		sp.size += n
	}
	if err == nil {
		_, err = sp.file.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, fmt.Errorf("keep %d bytes in %s: %w", sp.size, s.tempDir(), errors.Join(err, sp.file.Close()))
	}
	sp.Reader = io.MultiReader(sp.Reader, sp.file)
	return sp, nil
}

// Close frees the file.
func (sp *spooled) Close() error {
	if sp.file == nil {
		return nil
	}
	return sp.file.Close()
}
