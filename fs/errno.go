package fs

import (
	"context"
	"errors"
	"io"
	iofs "io/fs"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// errnos says which errno the caller of the file system gets for an error of the Source, first match first.
// Whatever is not in it is an input/output error: damage never looks like absence.
func errnos() []errnoRow {
	return []errnoRow{
		// The kernel asked for a node of a store path that is gone.
		{iofs.ErrNotExist, fuse.Status(syscall.ESTALE)},
		{iofs.ErrPermission, fuse.EACCES},
		// The store is closing below the mount.
		{iofs.ErrClosed, fuse.ENODEV},
		{context.Canceled, fuse.EINTR},
		{context.DeadlineExceeded, fuse.Status(syscall.ETIMEDOUT)},
		{io.ErrUnexpectedEOF, fuse.EIO},
		// Trouble of the machine that the caller may understand better as it is.
		{syscall.ENOMEM, fuse.Status(syscall.ENOMEM)},
		{syscall.EMFILE, fuse.Status(syscall.EMFILE)},
		{syscall.ENFILE, fuse.Status(syscall.ENFILE)},
		{syscall.EAGAIN, fuse.EAGAIN},
	}
}

type errnoRow struct {
	err    error
	status fuse.Status
}

// status translates an error of the Source. It is never ENOSYS, which would switch a request type off for the
// whole mount, and never OK for an error.
func status(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	for _, row := range errnos() {
		if errors.Is(err, row.err) {
			return row.status
		}
	}
	return fuse.EIO
}
