// Package store is a Nix store: the valid paths of one state directory, with their contents in nar/cas and what is known
// about them in daemon/db.
//
// # Terms
//
//   - valid: a path that the store has, whole. There is nothing between valid and absent.
//   - pin: somebody's word that a path must not be deleted, valid or not (Nix's temporary root).
//   - handle: an open [Object]. It stays readable until it is closed, also when its path is deleted and the space swept.
//   - slot: a number for one registration of a path, never given to another; see package db.
//
// # Laws
//
//   - A path becomes valid, and ceases to be, under its lock; its object, its records and the event for [Watcher]s go
//     together. What happens to one path is told in the order in which it happened.
//   - References of a valid path are valid.
//   - Everything about one path, or about several that become valid together, is one commit of the content store, so that a
//     crash leaves all of it or nothing.
//
// # Order of locks
//
// Path locks (in the order of base names), then Store.removal, then Store.slots, then the others, which are held for
// moments and never two at a time. No path lock is asked for while removal is held. Removal is held for reading while
// paths become valid and for writing while they are deleted: so what a commit relies on (that references are valid, that
// nobody refers to what is deleted, which paths share an object) does not change under it.
//
// # The state directory
//
//	owner.lock   who has the state directory open (package lock)
//	store/       the content store (package cas), whose key-value space has the records (package db)
//	tmp/         files on their way into the store; emptied by who opens the state directory
package store
