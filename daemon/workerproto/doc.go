// Package workerproto is the protocol that Nix's commands speak with nix-daemon, both sides: its bytes and types. It knows no
// store; what the operations mean to one is package session's.
//
// # Course of a connection
//
//	client: magic, version; server: magic, version
//	from 1.38   client: features; server: features      none are spoken here
//	            client: CPU affinity (from 1.14), reserve space (from 1.11): obsolete
//	            server: its own version as text (from 1.33), whether it trusts the client (from 1.35), then messages
//	then, again and again
//	            client: an operation's number, its arguments
//	            server: messages, of which the last is Last, and the result; or Error, and no result
//
// Some arguments are streams: framed ones from 1.23 on. They are read to their end before the answer begins, whatever went
// wrong, for the client writes them to their end.
//
// An error in the arguments ends the connection, because nobody knows where the next operation would begin; one while working
// does not.
//
// # Versions
//
// Those from 1.10 on are spoken, which Nix 1.8 and later speak, up to 1.38 (Nix 2.24 to 2.36). Of older ones, operations that no
// client from 1.18 on sends are unknown.
//
// Source: nix's libstore/worker-protocol and daemon.cc (2.8 to 2.36).
package workerproto
