// Package casefold knows which names of a directory collide on a file system
// that folds case, and the spelling that Nix gives to those that do.
package casefold
