// Package nar reads and writes the Nix Archive format (NAR), and turns disk
// trees into NARs and back.
//
// A NAR is the canonical serialisation of one file system object: a regular
// file (its bytes and whether its owner may execute it), a symlink (its target)
// or a directory (named entries, sorted by bytes). There is exactly one NAR for
// a given tree, so its hash names the tree. Owners, times and extended
// attributes are not part of it.
//
// # Terms
//
// A node is one object of the tree, an entry is a node with its name in a
// directory. The root has no name and stands at depth 1, its entries at depth 2.
// NAR order is pre-order: a directory, then its entries in byte order, each with
// everything below it. Contents are the bytes of a regular file.
//
// # The format
//
// Every token is a string: its length as a little-endian 64-bit number, its
// bytes, and zero bytes up to a multiple of eight (package wire).
//
//	nar       = "nix-archive-1" node .
//	node      = "(" "type" object ")" .
//	object    = "regular" ["executable" ""] "contents" BYTES
//	          | "symlink" "target" TARGET
//	          | "directory" { entry } .
//	entry     = "entry" "(" "name" NAME "node" node ")" .
//
// Reader and Writer hold to the rules of the newest Nix, which are stricter than
// those of Nix 2.8: the order of the fields is fixed, names are 1 to 255 bytes
// without '/' and NUL and neither "." nor "..", entries ascend strictly by
// bytes, targets are 1 to 4095 bytes without NUL, nodes nest 64 levels deep at
// most, padding is zero. What follows the last ")" belongs to the caller.
//
// # Trees
//
// A [Tree] is the shape of a NAR without the contents: 16 bytes and the name per
// node, in breadth-first order with the entries of a directory side by side, so
// that a lookup is a binary search and a node is named by its index.
//
// A Tree is stored ([Tree.AppendBinary], [ParseTree]) by columns, since like
// compresses best beside like. Numbers are unsigned varints (package
// encoding/binary) in their shortest form; nodes are in breadth-first order.
//
//	offset  bytes
//	0       2     "T" and the version, 1
//	2       …     n, the number of nodes (at least 1)
//	        …     length of the names column
//	        …     length of the targets column
//	        n     kind of each node: 0 directory, 1 regular file,
//	              2 executable regular file, 3 symlink
//	        n-1   length of the name of each node but the root (1 to 255)
//	        …     one number for each node: entries of a directory,
//	              size of a file, length of a target
//	        …     names, one after the other, without separators
//	        …     targets of the symlinks, likewise
//
// Nothing follows. First entries and parents follow from the numbers of entries,
// offsets from the lengths. One Tree has one encoding.
//
// # Disk
//
// [Dump] and [Restore] turn trees on disk into NARs and back by Nix's rules, and
// with Nix's case hack if asked to (package casefold). They reach every file
// relative to the open directory it lies in and follow no symlink, so that a tree
// that others change meanwhile cannot lead them out of it.
package nar
