package main

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// dieWithParent ends a program also when bench is killed.
func dieWithParent(cmd *exec.Cmd) { cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL }

// enlarge makes a pipe as large as ssh and its kind profit from.
func enlarge(pipe *os.File) { _, _ = unix.FcntlInt(pipe.Fd(), unix.F_SETPIPE_SZ, 1<<20) }

// flush writes the file system of a folder to its disk, so that what is measured does not pay for what was before.
func flush(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return unix.Syncfs(int(f.Fd()))
}

// evict takes a file, or the files of a folder, out of the page cache. Nothing may have them open. It is an error if more
// than a little stays, as pages that are in use do.
func evict(path string) error {
	var size, left int64
	err := eachFile(path, func(f *os.File) error {
		if err := f.Sync(); err != nil {
			return err
		}
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			return fmt.Errorf("taking %s out of the page cache: %w", f.Name(), err)
		}
		info, err := f.Stat()
		if err == nil {
			size, left = size+info.Size(), left+max(0, cached(f))
		}
		return err
	})
	const tolerable = 100 // one part in so many
	if err == nil && left > size/tolerable+1<<20 {
		err = fmt.Errorf("%d of %d MB of %s stay in the page cache", left>>20, size>>20, path)
	}
	return err
}

// preload reads a file, or the files of a folder, into the page cache.
func preload(path string) error {
	buf := make([]byte, 1<<20)
	return eachFile(path, func(f *os.File) error {
		if info, err := f.Stat(); err == nil && cached(f) >= info.Size() {
			return nil
		}
		_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, buf)
		return err
	})
}

// cached returns how much of a file the page cache holds, in bytes, and -1 where the kernel does not tell.
func cached(f *os.File) int64 {
	var stat unix.Cachestat_t
	if err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{}, &stat, 0); err != nil {
		return -1
	}
	return int64(stat.Cache) * int64(os.Getpagesize())
}

func eachFile(path string, fn func(*os.File) error) error {
	return filepath.WalkDir(path, func(name string, entry iofs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		return errors.Join(fn(f), f.Close())
	})
}

// dropCaches drops what the kernel has cached, of everybody.
func dropCaches() error {
	unix.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3\n"), 0)
}

// freeSpace returns how much more a user may write into a folder, in bytes.
func freeSpace(dir string) (int64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(stat.Bavail) * stat.Bsize, nil
}

// supported is an error on systems that bench cannot measure on.
func supported() error { return nil }
