// Package nixwire is what both of Nix's protocols have in common: store paths, their infos' parts, derivations and the statuses of
// builds, as package wire's numbers and strings. What differs between the protocols, and between their versions, is theirs.
//
// # Limits
//
// A peer may lie about lengths, and may mean what he says. So each string and list has a limit, and for what is kept of a request
// in memory [Conn.Budget] is asked as it comes in: not for what is only announced, nor when it has been taken already.
//
// Source: nix's libstore/common-protocol (2.8 to 2.36).
package nixwire
