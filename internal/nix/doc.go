// Package nix is Nix's vocabulary: the values that stores, protocols and caches exchange, and their spellings. It does no
// I/O. Values are immutable and may be shared between goroutines, apart from PathInfo and NarInfo, which are plain structs.
//
// # Hash
//
// An algorithm (md5, sha1, sha256, sha512) and a digest. One digest has four spellings:
//
//	base16   68656c6c6f…            hexadecimal, lower case
//	nix32    0123456789abcdfghijklmnpqrsvwxyz as digits (no e o u t): the digest as a little-endian number, in base 32,
//	         most significant digit first; 20 bytes are 32 digits, 32 bytes are 52
//	base64   aGVsbG8…               with padding
//	SRI      sha256-aGVsbG8…        base64 behind the algorithm's name and a dash
//
// The first three are told apart by their lengths and may stand behind the algorithm's name and a colon.
//
// # Store path
//
//	/nix/store / g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q - foo-1.0
//	store dir    hash part: 20 bytes as nix32       name
//
// Hash part and name together, without the directory, are the base name; it is what a StorePath holds. The hash part is
// the SHA-256, its 32 bytes folded to 20 by exclusive or, of
//
//	<type>:<algo>:<base16 of the inner hash>:<store dir>:<name>
//
// where type and inner hash say where the path comes from. For content-addressed paths, see MakePathFromCA:
//
//	text:<references>          a text file, with the SHA-256 of its bytes
//	source:<references>:self   a tree, with the SHA-256 of its NAR; ":self" if it refers to itself
//	output:out                 any other method or algorithm, which cannot have references, with the SHA-256 of
//	                           fixed:out:<r: or git: or nothing><algo>:<base16>:
//
// References are full store paths in order, each behind a colon.
//
// # Content address
//
//	text:sha256:<nix32>          contents of a file without executable bit, with references
//	fixed:<algo>:<nix32>         contents of a file
//	fixed:r:<algo>:<nix32>       the NAR
//	fixed:git:<algo>:<nix32>     the git tree or blob
//
// # Path info and signature
//
// What a store knows about a valid path. A signature, <key name>:<base64 of 64 bytes of Ed25519>, is over the fingerprint
//
//	1;<full path>;<NAR hash as sha256:nix32>;<NAR size>;<references as full paths, in order, with commas between>
//
// so it says nothing about deriver, times and content address. A path whose content address leads to its own name needs none.
//
// # Realisation
//
// Where an output of a derivation is, which matters if its path does not follow from the derivation. A JSON object; see
// Realisation. Outputs are named by
//
//	sha256:<base16 of the derivation's hash modulo>!<name of the output>
//
// # Narinfo
//
// A path info as binary caches serve it, a text of lines "Key: value"; see NarInfo.
//
// Sources: nix's libstore and libutil of 2.8.0 and of 2.36, and what real Nix 2.8 answered; they agree except where said.
package nix
