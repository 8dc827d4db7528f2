package acl

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// PeerOf returns who is at the other end of a connection: the process that connected, or that listens, and its effective user
// and group at that time.
func PeerOf(conn *net.UnixConn) (p Peer, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return p, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err == nil {
		err = credErr
	}
	if err != nil {
		return p, os.NewSyscallError("getsockopt", err)
	}
	return Peer{PID: int(cred.Pid), UID: cred.Uid, GID: cred.Gid, HasGID: true}, nil
}
