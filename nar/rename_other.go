//go:build unix && !linux && !darwin

package nar

// renameNew renames an entry of a directory without replacing another one.
func renameNew(dir int, from, to string) error { return renameIfFree(dir, from, to) }
