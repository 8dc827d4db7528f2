package nar

import (
	"encoding/binary"
	"strings"

	"golang.org/x/sys/unix"
)

// readDir lists a directory in any order. scratch is memory for it.
//
// It reads the kernel's records itself: package os would take one more system
// call and several allocations for an entry.
func readDir(f *folder, scratch []byte) ([]dirent, error) {
	var (
		list  []dirent
		names strings.Builder // one allocation for all
		ends  []int
	)
	for {
		n, err := retry(func() (int, error) { return unix.Getdents(f.fd, scratch) })
		if err != nil {
			return nil, err
		}
		if n <= 0 {
			break
		}
		for b := scratch[:n]; len(b) > 0; {
			// struct linux_dirent64: inode, offset, length, type, name with a NUL.
			const lengthAt, typeAt, nameAt = 16, 18, 19
			length := binary.NativeEndian.Uint16(b[lengthAt:])
			name, kind := b[nameAt:length], b[typeAt]
			b = b[length:]
			for i, c := range name {
				if c == 0 {
					name = name[:i]
					break
				}
			}
			if s := string(name); s == "." || s == ".." { // no allocation: only compared
				continue
			}
			names.Write(name)
			ends = append(ends, names.Len())
			list = append(list, dirent{kind: kindOf(kind)})
		}
	}
	all, start := names.String(), 0
	for i, end := range ends {
		list[i].disk = all[start:end]
		list[i].name = list[i].disk
		start = end
	}
	return list, nil
}

func kindOf(t uint8) entryKind {
	switch t {
	case unix.DT_DIR:
		return entryDir
	case unix.DT_REG:
		return entryFile
	case unix.DT_LNK:
		return entryLink
	case unix.DT_UNKNOWN: // some file systems do not tell
		return entryUnknown
	default:
		return entryOther
	}
}
