// Package interop holds the tests against the real Nix: Debian's, and the newer
// ones that scripts/peers installs. What narfs writes Nix must read, and the
// reverse; what both compute must be equal.
package interop
