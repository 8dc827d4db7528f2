package owner

import (
	"errors"
	"io"
	"os"
)

// relayed returns a request with pipes in place of those descriptors that an owner of another user does not take, or must not
// get: all of them, if it is neither root nor this user, who could use them for more than is wanted. End waits until what came
// out has been copied.
func relayed(req Request, all bool) (out Request, end func() error, err error) {
	var ends []func() error
	end = func() error {
		var errs []error
		for _, end := range ends {
			errs = append(errs, end())
		}
		return errors.Join(errs...)
	}
	out = req
	if all || !passable(req.Stdin) {
		r, w, err := os.Pipe()
		if err != nil {
			return req, nil, err
		}
		out.Stdin = r
		go func() { // it may wait for a terminal for ever
			_, _ = io.Copy(w, req.Stdin) // what is missing, the owner notices
			_ = w.Close()
		}()
		ends = append(ends, r.Close)
	}
	for _, f := range []**os.File{&out.Stdout, &out.Stderr} {
		if !all && passable(*f) {
			continue
		}
		w, drained, err := Drain(*f)
		if err != nil {
			return req, nil, errors.Join(err, end())
		}
		*f = w
		ends = append(ends, drained)
	}
	return out, end, nil
}

// passable reports whether an owner takes a file of another user.
func passable(f *os.File) bool {
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	ok := false
	err = raw.Control(func(fd uintptr) { ok = harmless(int(fd)) })
	return err == nil && ok
}

// Drain returns a file from which all goes to w. End closes it, waits for the copying, and returns its error.
func Drain(w io.Writer) (f *os.File, end func() error, err error) {
	r, f, err := os.Pipe()
	if err != nil {
		return nil, func() error { return nil }, err
	}
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(w, r)
		_ = r.Close() // so that the owner does not write in vain
		done <- err
	}()
	return f, func() error { _ = f.Close(); return <-done }, nil
}
