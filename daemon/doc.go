// Package daemon puts together what the owner of a store is: the sockets, who may come in by them, the sessions, and the
// order in which all of it ends.
//
// # The sockets
//
//	STATE/owner.sock    0600: command lines of the owner's own user and root (package owner)
//	STATE/daemon.sock   0666, of owners that last: command lines of other users, and Nix's protocols
//	others              as daemon.sock, wherever the user or the service manager wants them
//
// At the doors that are open to all a client is known by the credentials of its process, which the kernel tells, and
// package acl says what it may do. Who may do nothing finds the connection closed without a byte. The first eight bytes of the
// others say what they speak: a command line with its descriptors, or the serve protocol.
//
// # The end
//
// When an owner is to end it takes nobody in any more, gives those who are there some time, then ends their
// sessions, and closes the store last.
package daemon
