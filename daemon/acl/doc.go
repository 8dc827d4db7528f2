// Package acl decides who may do what with a store: it reads the settings in Nix's syntax, finds out who is at the other end of
// a socket, and says what that user may do and why.
//
// # Settings
//
// A file of settings is text, a line each:
//
//	name = value       a "#" begins a comment that goes to the end of the line
//	extra-name = more  appends to a list, of this file or those before it
//	include FILE       the settings of another file, relative to this one's folder, are taken here
//	!include FILE      the same, and the file may be missing
//
// What comes later wins. Lists are words with white space between, and the = is a word of its own. The files are
// $NIX_CONF_DIR/nix.conf, else /etc/nix/nix.conf, then $NARFS_CONF, else /etc/narfs/narfs.conf; then comes the text of
// $NIX_CONFIG, then what the command line says. Source: nix's libutil/config.cc of 2.8; narfs.conf is our own.
//
// Settings that only Nix knows are left alone, with a warning where the name is nearly one of ours or nobody but narfs reads.
// A missing file is an empty one. One that cannot be read is an error, where Nix goes on without it: it may be the one that
// takes somebody's trust away. There may be 256 files of 1 MiB each and of 4 MiB together, which include each other at most
// 16 deep.
//
// # Users
//
// A client is the user and the group that the kernel tells of the process that opened the connection. An entry of
// allowed-users or trusted-users means a client if it is
//
//   - "*";
//   - the user's name, or the decimal number of a user who has none;
//   - "@" and the name of the user's primary group, or its decimal number if it has no name, or the name of a group
//     that lists the user as its member. Supplementary groups that the process has beside that do not count.
//
// Names are compared exactly. A client whose primary group is build-users-group is refused: builders must not get at
// the store that they are built for. Source: nix's nix-daemon.cc, and what the daemon of 2.8 answered.
//
// The user who runs the daemon is trusted in any case: the store is its files. Users and groups are looked up in
// /etc/passwd and /etc/group, and nowhere else: this program has no C library that knows other places. On macOS the system
// is asked, and the members of a group are also those of the groups in it.
//
// # Permissions
//
// Refused, untrusted and trusted are the levels; [Access.May] has the table of what each may do. What untrusted users add
// must be content-addressed or signed, which the store sees to.
package acl
