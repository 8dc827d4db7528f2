// Package wire is the encoding that the Nix Archive format and both of Nix's protocols are made of. It knows numbers and strings,
// and nothing of what they mean.
//
//	integer   8 bytes, little endian; also booleans (0 false, anything else true) and enumerations
//	string    its length in bytes as an integer, the bytes, and zero bytes up to a multiple of 8
//	list      the number of elements as an integer, then the elements; a set is a list in sorted order, a map one of keys
//	          and values in turn
//
// The string "hello", for example:
//
//	05 00 00 00 00 00 00 00  68 65 6c 6c 6f 00 00 00
//
// A length comes from a peer who may lie. So every read of one names a limit, and what exceeds it is a LimitError before
// any memory is taken for it.
//
// Source: nix's libutil/serialise (2.8 to 2.36) and its golden files for the common protocol.
package wire
