// Package closure makes closures to test and to measure with: store objects whose references stand in their contents,
// the same ones in every run. It computes everything about them by itself, so that narfs and Nix can both be held
// against it.
//
// An object is input-addressed, with a path that says nothing about its contents, or content-addressed as text or as a
// NAR. All have the store directory /nix/store.
package closure
