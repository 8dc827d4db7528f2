// Package nixdb reads the database of a store of the real Nix, to take over what it knows. It knows no store of narfs, and it
// never writes to the store that it reads: it opens nothing there but for reading, takes no locks, and leaves no file.
//
// # Where a store is
//
//	ROOT/nix/store, ROOT/nix/var/nix    a store with a root: / is the system's, DIR what Nix calls --store DIR
//	BASE/store, BASE/var/nix            the same store by another name: /nix
//
// The first folder has the objects, the second, the state directory, everything else:
//
//	db/schema       a decimal number, the version of the database: 10 since Nix 2.0
//	db/db.sqlite    the database; db.sqlite-wal and db.sqlite-shm beside it while it is in use, db.sqlite-journal where Nix is
//	                told to use no WAL
//
// # What is in it
//
//	ValidPaths(id, path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca)
//	    path and deriver in full; hash of the NAR as sha256:<base16>; seconds since 1970; deriver, narSize, ultimate, sigs and
//	    ca may be null; sigs with spaces between them
//	Refs(referrer, reference)
//	    ids of ValidPaths, also of a path that refers to itself
//
//	Realisations(id, drvPath, outputName, outputPath, signatures)
//	    an experiment, so that it may be missing; drvPath is none but the derivation's hash modulo as sha256:<base16>, outputPath the
//	    id of ValidPaths, signatures with spaces between them, or null. Of Nix 2.4 to 2.34
//	RealisationsRefs(referrer, realisationReference)
//	    ids of Realisations: what was built with what. Nix 2.34 has the table, and leaves it empty
//	BuildTraceV3(id, drvPath, outputName, outputPath, signatures)
//	    the same experiment in Nix 2.35 and newer: drvPath is the name of the derivation. These are only counted
//
// # Why a copy
//
// SQLite has two ways to open a database that must not be changed, and neither will do. One that opens it read-only (mode=ro)
// writes all the same where the journal is a WAL: it makes db.sqlite-shm, and marks in it how far it reads, which a read-only
// file system does not allow. One that takes it for immutable (immutable=1) reads past the WAL, so that it misses what Nix has
// registered lately, and past all locks, so that it reads nonsense when Nix changes the database meanwhile. So Open copies the
// database, and what stands beside it, to a private folder, and opens the copy there, as SQLite would after a crash; see snapshot
// for why that is whole although nothing is locked. The copy is as of one moment.
//
// Sources: schema.sql, ca-specific-schema.sql and local-store.cc of Nix 2.8.0, 2.26, 2.34 and 2.36; https://sqlite.org/fileformat2.html on WAL and journals.
package nixdb
