// Package serveproto is Nix's serve protocol, which nix-store --serve speaks on its standard input and output with the clients
// that come by ssh: bytes and types, for both sides. It knows no store.
//
// # The wire
//
// Integers, strings and lists are those of package wire; store paths are written in full, an absent one as "". The client
// sends its magic number 0x390c9deb and its version, major<<8|minor; the server answers its own, 0x5452eecb and its version, after
// the client's magic number and before the client's version. The lesser version counts. Then come commands, an integer each:
//
//	1 QueryValidPaths  lock, substitute, paths           → those that are valid
//	2 QueryPathInfos   paths                             → for each valid one its path and info, then ""
//	3 DumpStorePath    path                              → its NAR
//	4 ImportPaths      export stream                     → 1
//	5 ExportPaths      0, paths                          → export stream
//	6 BuildPaths       path!outputs…, build options      → 0, or a status and a message
//	7 QueryClosure     include outputs, paths            → paths
//	8 BuildDerivation  path, derivation, build options   → build result
//	9 AddToStoreNar    path, info, NAR                   → 1; since 2.5
//
// info of 2 is deriver, references, download size, NAR size, and since 2.4 NAR hash ("sha256:" and nix32), content address,
// signatures; that of 9 deriver, NAR hash (base 16), references, registration time, NAR size, ultimate, signatures, content address.
//
// There are no frames for errors: a server that fails says why on its error output and exits with 1.
//
// Sources: nix's libstore/serve-protocol of 2.36 and nix-store of 2.8, and what the latter answered.
package serveproto
