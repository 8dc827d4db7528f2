// Narfs is a Nix store in one program: it keeps every store path as
// deduplicated chunks and shows them as a file system.
//
// One file holds one command. A command parses its flags, calls one package of
// narfs and prints; what the packages share is put together here and nowhere
// else, for this is the only place where fs and daemon meet.
//
// # Processes
//
// A command works on a process: standard files, working directory, environment.
// Usually that is this operating-system process. But only one at a time can
// have a store open, as its keeper; the others hand their command lines over to
// it (package daemon/owner), and it does them with a process made of what they
// sent. So commands take nothing from package os that belongs to the user: not
// the standard files, the working directory or the environment, and they write
// no files of the user's while they hold the store, but for links that are
// roots, which its owner has to find anyway. A command does all of its
// work inside of process.withStore, or nothing: it may be somebody else who
// does it.
//
// A keeper stays until nobody has anything done by it. One that serves a mount
// also tidies up the store when there is nothing else to do.
//
// Exit codes: 0 done, 1 failed, 2 the command line was wrong, 130 interrupted,
// 100 to 111 those of narfs build.
package main
