package cas

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// File is what a pack needs of its file. The methods mean what they mean on [os.File].
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Sync makes what was written durable, and the file's length.
	Sync() error
	Truncate(size int64) error
	// PunchHole gives the space of n bytes at off back; they read as zeros. An error that
	// is errors.ErrUnsupported means that this file system cannot.
	PunchHole(off, n int64) error
}

// Files is the folder of the packs: the seam at which tests make writes fail. A nil
// Options.Files means the real folder.
type Files interface {
	// Create makes a new file, which must not exist, and makes its name durable.
	Create(name string) (File, error)
	// Open opens an existing file for reading and writing.
	Open(name string) (File, int64, error)
	// Remove removes a file, durably: a pack that came back could undo deletions. It can be tried again.
	Remove(name string) error
	// List returns the names of all files.
	List() ([]string, error)
	// Free returns the bytes that may still be written by an ordinary user.
	Free() (int64, error)
}

// dirFiles are the files of one folder.
type dirFiles struct{ dir string }

var _ Files = dirFiles{}

type osFile struct{ *os.File }

func (f osFile) Sync() error { return syncData(f.File) }

func (f osFile) PunchHole(off, n int64) error { return punchHole(f.File, off, n) }

func (d dirFiles) Create(name string) (File, error) {
	f, err := os.OpenFile(filepath.Join(d.dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syncDir(d.dir); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return osFile{f}, nil
}

func (d dirFiles) Open(name string) (File, int64, error) {
	f, err := os.OpenFile(filepath.Join(d.dir, name), os.O_RDWR, 0)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return osFile{f}, st.Size(), nil
}

func (d dirFiles) Remove(name string) error {
	if err := os.Remove(filepath.Join(d.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return syncDir(d.dir)
}

func (d dirFiles) List() (names []string, err error) {
	ents, err := os.ReadDir(d.dir)
	for _, e := range ents {
		names = append(names, e.Name())
	}
	return names, err
}

func (d dirFiles) Free() (int64, error) { return freeSpace(d.dir) }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
