//go:build unix && !linux

package nar

import (
	iofs "io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// readDir lists a directory in any order.
func readDir(f *folder, _ []byte) ([]dirent, error) {
	fd, err := retry(func() (int, error) { return unix.Openat(f.fd, ".", openDirFlags, 0) })
	if err != nil {
		return nil, err
	}
	d := os.NewFile(uintptr(fd), f.path("."))
	defer func() { _ = d.Close() }() // it was only read
	entries, err := d.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	list := make([]dirent, len(entries))
	for i, e := range entries {
		list[i] = dirent{name: e.Name(), disk: e.Name(), kind: kindOf(e.Type())}
	}
	return list, nil
}

func kindOf(mode iofs.FileMode) entryKind {
	switch mode.Type() {
	case iofs.ModeDir:
		return entryDir
	case 0:
		return entryFile
	case iofs.ModeSymlink:
		return entryLink
	default:
		return entryUnknown // asked for again
	}
}
