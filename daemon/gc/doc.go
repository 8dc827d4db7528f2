// Package gc is the garbage collector of a store: it finds out what is needed, plans what to delete, and deletes it while
// others go on using the store.
//
// # Roots
//
// What is needed is what a root names, and all that it refers to. Roots are
//
//   - links and files below STATE/gcroots and STATE/profiles, in Nix's layout: a symbolic link into the store; a link to such a
//     link, which is how gcroots/auto/… names links in users' folders (an indirect root), and is removed when that link is gone;
//     a regular file that is called like a store path. Folders are searched, links to folders are not followed;
//   - what sessions hold (package store's pins, Nix's temporary roots);
//   - what running processes mention: their programs, working and root folders, open files, mapped files and environments.
//     Any folder before the base name of a valid path will do, since a store may be seen in many places. Of processes that
//     cannot be looked into (other users', without root) nothing is known; whoever reads a file through a mount keeps
//     it readable all the same, because the mount keeps what is open.
//
// With keep-derivations what is needed keeps its deriver, with keep-outputs a needed derivation keeps the valid paths that name it
// as their deriver.
//
// Source: nix's libstore/gc.cc of 2.8. It ignores roots that cannot be read; here they end the collection, unless told otherwise.
//
// # Order
//
// The collection begins (from now on pins stay, see package store), then roots are looked for, then all valid paths are read in one
// snapshot, and what no root leads to is dead. A path that becomes valid later is not in the snapshot and stays; if it refers to
// a dead one, it keeps that alive, for each path is asked about once more right before it is deleted. At the end the space is given
// back. All of it can end at any point, and begin again.
//
// # Memory
//
// The graph of all valid paths is held: about 200 bytes a path and 4 a reference, 250 MB for a million paths.
package gc
