package acl

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// PeerOf returns who is at the other end of a connection: the process that connected, or that listens, its effective user at
// that time, and the first of its groups.
func PeerOf(conn *net.UnixConn) (p Peer, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return p, err
	}
	var cred *unix.Xucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		if cred, credErr = unix.GetsockoptXucred(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERCRED); credErr == nil {
			p.PID, _ = unix.GetsockoptInt(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERPID)
		}
	})
	if err == nil {
		err = credErr
	}
	if err != nil {
		return p, os.NewSyscallError("getsockopt", err)
	}
	p.UID = cred.Uid
	// The first group of a process is its effective one.
	if p.HasGID = cred.Ngroups > 0; p.HasGID {
		p.GID = cred.Groups[0]
	}
	return p, nil
}
