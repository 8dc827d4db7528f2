// Package db keeps what a store knows about its valid paths, as records of a key-value space that belongs to somebody
// else: it reads through [Reader], and writes into a batch ([Writer]) that its caller commits, together with the objects
// that the records speak of. So a path with all its records becomes visible, durable and invisible in one step.
//
// # Terms
//
//   - slot: a number that stands for one registration of a path. It is given to no other one, ever; a path that becomes
//     valid again has a new one.
//   - top: what a mount shows of a path's top node, so that listing a store reads no trees.
//   - referrers of a path: the valid paths that have it among their references.
//
// # Invariants
//
//   - A path is valid if and only if it has an info record. That record is written last and taken away first, for whoever
//     sees a batch half made.
//   - References of a valid path are valid. (The caller sees to it, and to no path being deleted before its referrers.)
//   - All other records follow from the info records, apart from the number of slots that were given away.
//
// # Format 1
//
// Integers are unsigned varints (package encoding/binary) unless said otherwise; a string is its length as varint and its
// bytes; NAME is a path's base name. The first byte of a key is its kind.
//
//	m FIELD               a string value: "format" is "1", "store-dir" the directory that paths name
//	n                     4 bytes, big endian: slots from here on were never given away
//	p NAME                the info record
//	q NAME 0 PART         its further parts; PART has 2 bytes, big endian, from 1
//	s SLOT                4 bytes, big endian → the slot record
//	r NAME 0 NAME         the second path refers to the first; no value. Not for a reference to itself
//	d NAME 0 NAME         the second path was built by the first, a derivation; no value
//	v NAME 0 NAME         the second path is a derivation that will make the first; no value
//	x ID                  a realisation: its path is valid
//	y NAME 0 ID           the path is that of the realisation; no value
//	o HASH NAME           the path's NAR has this SHA-256, 32 bytes; no value
//
// An info record, whose parts are put together before it is read:
//
//	version   1 byte, 1
//	parts     how many further ones there are
//	slot      4 bytes, big endian
//	hash      32 bytes, SHA-256 of the NAR
//	size      of the NAR
//	time      of registration, in seconds since 1970, as signed varint
//	flags     1 byte: 1 ultimate, 2 outputs follow
//	deriver   string, its base name or empty
//	ca        string, as Nix writes it, or empty
//	sigs      their number, and each as string
//	refs      their number, and each as string: base names in order
//	outputs   as refs, of a derivation that says them
//	crc       4 bytes, little endian: CRC-32C of the key and all the bytes before
//
// a realisation:
//
//	version   1 byte, 1
//	path      string, its base name
//	json      string, as Nix has it
//	crc       as above
//
// and a slot record:
//
//	version   1 byte, 1
//	name      string
//	type      1 byte: 1 directory, 2 regular file, 3 symlink; + 16 if executable
//	size      bytes of a file or link, entries of a directory
//	subdirs   entries that are directories
//	crc       as above
package db
