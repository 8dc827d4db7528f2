package owner

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/narfs/narfs/internal/wire"
)

// The wire's numbers; see the package comment.
const (
	magic     = "narfsown"
	version   = 1
	flagLasts = 1

	maxDir      = 4096
	maxArgs     = 65536
	maxArg      = 128 << 10
	maxArgSum   = 4 << 20
	maxEnv      = 64
	maxEnvVar   = 128 << 10
	maxEnvSum   = 1 << 20
	maxReason   = 4096
	descriptors = 3
)

// fits returns ErrTooLong for what an owner would decline each time.
func (req Request) fits() error {
	for _, part := range []struct {
		what             string
		list             []string
		count, each, all int
	}{
		{"working directory", []string{req.Dir}, 1, maxDir, maxDir},
		{"arguments", req.Args, maxArgs, maxArg, maxArgSum},
		{"environment", req.Env, maxEnv, maxEnvVar, maxEnvSum},
	} {
		all := 0
		for _, text := range part.list {
			all += len(text)
			if len(text) > part.each {
				return fmt.Errorf("%w: %d bytes in one of its %s, and there may be %d", ErrTooLong, len(text), part.what, part.each)
			}
		}
		if len(part.list) > part.count || all > part.all {
			return fmt.Errorf("%w: %d %s of %d bytes, and there may be %d of %d", ErrTooLong, len(part.list), part.what, all, part.count, part.all)
		}
	}
	return nil
}

// received is a request as the owner gets it.
type received struct {
	args, env []string
	dir       string
	lasts     bool
	fds       []int // three, unless there was an error
}

// receive reads a request. The descriptors are the caller's also after an error.
func receive(conn *net.UnixConn) (req received, err error) {
	if req.fds, err = receiveDescriptors(conn); err != nil {
		return req, err
	}
	r := wire.NewReader(conn)
	v, err := r.Uint64()
	if err != nil {
		return req, err
	}
	if v != version {
		return req, fmt.Errorf("version %d of the owner's socket is not known, only %d: end the owner and start it again with the same narfs", v, version)
	}
	flags, err := r.Uint64()
	if err != nil {
		return req, err
	}
	req.lasts = flags&flagLasts != 0
	if req.dir, err = r.String(maxDir, "working directory"); err != nil {
		return req, err
	}
	if !filepath.IsAbs(req.dir) {
		return req, fmt.Errorf("working directory %q is not absolute", req.dir)
	}
	if req.args, err = readList(r, "arguments", maxArgs, maxArg, maxArgSum); err != nil {
		return req, err
	}
	req.env, err = readList(r, "environment", maxEnv, maxEnvVar, maxEnvSum)
	return req, err
}

func readList(r *wire.Reader, what string, count uint64, each, all int) ([]string, error) {
	n, err := r.Count(count, what)
	if err != nil {
		return nil, err
	}
	list := []string{}
	for range n {
		s, err := r.String(min(each, all), what)
		if err != nil {
			return nil, err
		}
		all -= len(s)
		list = append(list, s)
	}
	return list, nil
}

// receiveDescriptors reads the magic bytes and the descriptors that come with them, which are the caller's also after an
// error.
func receiveDescriptors(conn *net.UnixConn) (fds []int, err error) {
	buf := make([]byte, len(magic))
	oob := make([]byte, unix.CmsgSpace(4*descriptors))
	n, oobn, flags, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, err
	}
	for i := range msgs {
		if got, err := unix.ParseUnixRights(&msgs[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	switch {
	case flags&unix.MSG_CTRUNC != 0 || len(fds) != descriptors:
		return fds, errors.New("not the three standard descriptors")
	case n != len(magic) || string(buf) != magic:
		return fds, errors.New("not a request to an owner")
	}
	return fds, nil
}
