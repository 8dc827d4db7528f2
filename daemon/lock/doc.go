// Package lock holds the two kinds of locks of a store: those of single store paths, which live in the owner's memory
// with their holder and age, and that of a state directory, which says which process owns it.
//
// # Path locks
//
// A path's lock is held while the path becomes valid or ceases to be. It says nothing about other paths, and readers need
// none. Whoever needs several takes them by LockAll, in the order of their base names; nobody asks for one while he
// holds another that was taken otherwise.
//
// # The owner's lock
//
// The file owner.lock in the state directory is locked by flock(2) as long as its owner lives, and holds a line that says
// who that is:
//
//	<process id> <what it does>
//
// The file stays behind when the owner leaves; without the lock it means nothing.
package lock
