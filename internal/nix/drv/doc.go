// Package drv knows Nix's derivations: what to build from what, and how that leads to the names of what comes out. It does no
// I/O. Derivations are plain structs; those that others may read must not change.
//
// # Derivation file
//
// A derivation is stored as a text (see package nix: text:sha256) under its name and ".drv", with its inputs as references:
//
//	Derive([OUTPUT,…],[INPUTDRV,…],["input source",…],"platform","builder",["argument",…],[VARIABLE,…])
//	OUTPUT    ("name","path","algo","hash")      by name
//	INPUTDRV  ("path of a .drv",["output",…])    by path, its outputs by name, at least one
//	VARIABLE  ("name","value")                   by name
//
// without spaces or line breaks. Paths are full store paths; input sources are in order. In builder, arguments and variables, the
// bytes " \ newline, return and tab are written as \" \\ \n \r \t. All other strings stand as they are, so that they can contain
// neither " nor \ (Nix writes those, too, and cannot read the file again). What Nix writes is the only spelling that Parse
// accepts; the second format of recent versions, DrvWithVersion, is for dynamic derivations, which it refuses.
//
// # Outputs
//
// What path, algo and hash say together. A derivation's outputs are all of one kind; of fixed outputs it has one, called out.
//
//	path   ""         ""           InputAddressed   the path follows from the derivation
//	path   METHODalgo base 16      Fixed            the contents are known, and the path follows from them
//	""     METHODalgo ""           Floating         the path will follow from the contents
//	""     ""         ""           Deferred         as InputAddressed, once inputs are built that are Floating or Impure
//	""     METHODalgo "impure"     Impure           as Floating, and built again each time
//
// METHOD is "" for a file, "r:" for a NAR, "text:" or "git:".
//
// An output's store path has the derivation's name, and, unless the output is called out, a dash and the output's name behind it.
//
// # Hash modulo
//
// The path of an input-addressed output must not depend on how the fixed outputs that it is made from are downloaded, and cannot
// depend on itself. So it is made from a hash modulo both; see [Modulo].
//
//	fixed output     SHA-256 of "fixed:out:METHODalgo:<base 16>:<path>"
//	impure           SHA-256 of "impure"
//	any other        SHA-256 of the derivation file, with the base 16 of its hash modulo instead of the path of each input
//	                 derivation. If several have the same hash, their outputs are merged. Input derivations are in the order of
//	                 these hashes.
//
// Where the derivation is asked for its own outputs' sake, the paths of its outputs, and the variables that are called as they
// are, are empty in the file. The path of the output is then that of type output:<name of the output> and this hash.
//
// Sources: nix's libstore of 2.8.0 and of 2.36. Where they differ stands where it matters.
package drv
