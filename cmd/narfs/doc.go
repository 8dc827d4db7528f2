// Narfs is a Nix store in one program: it keeps every store path as
// deduplicated chunks and shows them as a file system.
//
// One file holds one command. A command parses its flags, calls one package of
// narfs and prints; what the packages share is put together here and nowhere
// else, for this is the only place where fs and daemon meet.
//
// Exit codes: 0 done, 1 failed, 2 the command line was wrong.
package main
