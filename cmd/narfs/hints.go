package main

import (
	"context"
	"errors"
	"syscall"

	"github.com/narfs/narfs/daemon/lock"
	"github.com/narfs/narfs/daemon/owner"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/fs"
	"github.com/narfs/narfs/nar/cas"
)

// hintedError is an error that knows what may help.
type hintedError struct {
	err  error
	hint string
}

func (e *hintedError) Error() string { return e.err.Error() }
func (e *hintedError) Unwrap() error { return e.err }

// hint adds what may help to an error.
func hint(err error, text string) error { return &hintedError{err, text} }

// hintFor returns what may help against an error, "" for nothing.
func hintFor(err error) string {
	if hinted, ok := errors.AsType[*hintedError](err); ok {
		return hinted.hint
	}
	for _, row := range hintTable() {
		if row.is(err) {
			return row.hint
		}
	}
	return ""
}

type hintRow struct {
	is   func(error) bool
	hint string
}

func hintTable() []hintRow {
	is := func(target error) func(error) bool { return func(err error) bool { return errors.Is(err, target) } }
	return []hintRow{
		{isA[*owner.ForeignError], "run the command as the user whose process that is"},
		{is(owner.ErrTooLong), "do it in several parts: … | xargs narfs …"},
		{is(owner.ErrVanished), "try again; what had not been finished has left no trace"},
		{is(owner.ErrStopped), "try again"},
		{isA[*lock.OwnedError], "wait until that process has ended, or end it"},
		{is(cas.ErrFormat), "the store was made by another version of narfs: use that one, or another state directory"},
		{is(cas.ErrIndex), "narfs repair --rebuild-index makes the index again, from the packs"},
		{is(cas.ErrCorrupt), "narfs verify tells what is damaged, narfs repair mends what it can"},
		{isReferred, "narfs delete --referrers deletes these paths, too"},
		{isA[*store.MismatchError], "the input is damaged or not what it says it is; get it again"},
		{is(store.ErrNotValid), "narfs ls lists the valid paths"},
		{is(fs.ErrMounted), "narfs umount --force DIR takes it away, if it is a mount of narfs that nobody needs"},
		{is(syscall.EBUSY), "narfs umount --force DIR takes it away all the same"},
		{is(fs.ErrBusy), "narfs umount --force DIR takes it away all the same"},
		{is(fs.ErrNotMounted), "narfs doctor lists what narfs has mounted"},
		{is(syscall.ENOSPC), "narfs delete and narfs compact give space back"},
		{is(context.DeadlineExceeded), "try again, or see what narfs doctor says"},
	}
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

func isReferred(err error) bool {
	var inUse *store.InUseError
	return errors.As(err, &inUse) && inUse.Referrers
}
