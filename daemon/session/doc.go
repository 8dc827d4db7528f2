// Package session serves clients of a store: one at a time each, many beside each other.
//
// # Terms
//
// A session is one client's stay, from its coming until its end: a connection that speaks one of Nix's protocols, or a
// command line of narfs that a client has handed over. Sessions of a [Manager] are numbered, can be listed with what they
// do, and killed.
//
// # What a session holds
//
// Whatever a session asked about and was told is valid, and whatever it uploads, is pinned until the session ends: it
// cannot be collected between "which of these do you have" and "here are the others". Nix does that only for clients who ask
// for it (lock=1), which none of its releases does; here it is so for all sessions. A pinned path keeps all that it refers to,
// for nothing is deleted that a valid path refers to. When a session ends, however it ends, its pins and locks go, its
// half-received paths leave no trace, and its context has ended.
//
// # Hang-ups
//
// A client is gone when nobody can read any more what it is sent: [WatchHangup] notices at once, also while nothing is
// being sent. That a client says nothing more (a half-close) is no hang-up: it may be waiting for its answer.
//
// # Errors
//
// The serve protocol has no frames for errors. After one, whatever it is, nothing more is written, the session ends, and
// what went wrong is the client's to read on its error output: the caller of [Manager.Serve] writes it there. The worker protocol
// has frames for errors, and goes on after one unless it came with the arguments.
//
// # Memory
//
// What clients ask for in lists, and the pins that come of it, count against one [Budget] for all sessions. A request that
// would pass it fails with a [MemoryError]. Contents stream through, whatever their size.
package session
