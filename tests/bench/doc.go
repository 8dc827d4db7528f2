// Bench measures narfs against what it has to compete with: Nix 2.8, ext4, squashfs and casync, all on the same data,
// side by side, in one run. scripts/bench builds and starts it.
//
// A series is a piece of work, such as find-warm. A system is who does it: narfs, nix, ext4, squashfs, casync, raw. A
// sample is one measurement of a series on a system. A row of the table compares the samples of two systems, or those
// of narfs with a number, and holds them against an aim.
//
// Systems take turns (A B A B), because the machine may have other work; ratios are those of the medians, and beside
// them stand the ratios of CPU time, which other work disturbs less. CPU time is user and system time with children
// and, for a mount, with the process that serves it; what kernel threads do for ext4 and squashfs is not in it.
//
// What is measured in a tree has a temperature:
//
//	warm     the work was done twice before, in the same mount
//	cold     a fresh mount; its device (the image, the packs and the index of narfs) is in the page cache
//	dropped  a fresh mount; its device is on disk only
//
// A device leaves the page cache by fadvise(2), which disturbs nobody else; with -drop-caches the whole machine's
// caches are dropped besides.
//
// Everything that is measured lies in a folder of this run and goes at its end, never before: ext4 creates files ten
// times slower for a while after a big tree was deleted. What many runs need (packages, their trees, images made of
// them) lies in the cache folder. Mounts are made in a mount namespace of the run (scripts/bench sees to that), so that
// the kernel takes them away even if the run is killed.
package main
