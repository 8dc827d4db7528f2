// Package mount holds the tests of a mounted store that go through the kernel:
// whole trees compared with their sources, programs that run, compile and copy
// from the mount, both views, readers during changes.
package mount
