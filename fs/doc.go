// Package fs shows a store as a read-only file system through FUSE.
//
// The store is a [Source]; [New] mounts it. The root directory has all valid store paths, below them is what their
// NARs hold, with Nix's canonical metadata: modes 0444 and 0555, all times 1. A mount may show the exact names or
// case-hacked ones, may find names regardless of case, and several mounts may show one Source differently; the NARs
// know nothing of that.
//
// # Node ids
//
// Every node has one number for its node id in the FUSE protocol, its inode number and its file handle:
//
//	 63            32 31             0
//	+----------------+----------------+
//	|      slot      |   index + 1    |     1 is the root, which has no slot
//	+----------------+----------------+
//
// slot is the store path's (see [Source]), index the node's number in its nar.Tree. Nothing is kept per node: a
// request carries all it takes to answer it, a FORGET only changes a counter, a server that takes over a mount
// needs nothing from its predecessor, and inode numbers stay the same from one mount to the next. The generation is
// 1 always. Files and directories are never opened as far as we are concerned; positions in directories follow from
// slots and indexes too.
//
// # The cache law
//
// Below a store path nothing ever changes, and slots are not used twice, so the kernel may keep entries, absences,
// attributes, links, listings and pages for ever. The root is the only directory that changes: [Mount.Added] and
// [Mount.Removed] make the kernel forget what it remembers about one name, and the listing. They are called after
// the Source answers differently; inside, the order of the two notifies makes the law hold (see notifier).
// Whatever is not certain to reach the kernel this way (other spellings of a name in the root, when case is folded)
// may be kept for one second only.
//
// # The counter law
//
// The kernel asks for node ids that it got from us, until it gives them back. Every answer to LOOKUP and every entry
// of an answer to READDIRPLUS, except "." and "..", is one reference to a node; FORGET gives back some. We count
// them per store path. If [Mount.Refs] is 0 the kernel cannot ask for anything of that store path. Since opens and
// closes never reach us (the kernel is told to keep them to itself), there is no other way to know. A file that is open,
// mapped or somebody's working directory has a reference; so has what merely lies in the kernel's caches, until it wants
// the memory. The counts are exact while mounted, and all 0 after.
//
// A request that begins anew at a store path, by its name or by a file handle, counts first, then asks the Source
// whether the path is (still) there, and takes the count back if not. Whoever gives a removed path up goes the other
// way: the Source stops opening it, then [Mount.Drop] looks at the count. So one of the two sees the other, and the
// kernel never has a reference to what the Source has given up. The Source must open a path from before it is valid until
// then, without a gap; it must not decide by Refs when the path is removed.
//
// # Data
//
// A READ of less than 64 KiB is answered with the memory of the decoded frame itself, and the rest of the frame then
// goes into the page cache by NOTIFY_STORE, so that random reads decode each frame once. With a [FrameObject] that
// includes the frame's other files, as far as the kernel knows them: who has listed a directory and reads its small
// files asks for one or two of each frame. No file is pushed twice unless it is asked for again, and when the kernel has
// known none for a while, a small file's frame is decoded no further than the file. Bigger READs are sequential; the
// [Object] decodes into the answer. An error is never a short answer: the kernel would take that for the end of the file.
//
// # When a mount hangs
//
// A process that waits for a FUSE server cannot be killed. First see who waits: the process in state D whose
// /proc/PID/stack ends in request_wait_answer. Then the server: Stats().InFlight above 0 means that it is working on
// the request; SIGQUIT prints where. The usual causes, in this order: a method of the Source waits for a lock whose
// holder waits for [Mount.Sync] or [Mount.Unmount]; the server process, or one that it waits for, uses its own mount
// (starting a program that lies there is using it);
// the Source's disk hangs. To get out: as root,
//
//	mount -t fusectl none /sys/fs/fuse/connections
//	echo 1 >/sys/fs/fuse/connections/N/abort      # N: the minor number of the mount's device, see mountinfo
//
// makes every waiting call fail, and the server unmounts and ends. Killing the server does the same but leaves a
// dead mount, on which everything that the kernel has cached still works and the rest says "Transport endpoint
// is not connected": narfs umount --force DIR. The next mount in that place clears it away by itself.
// Options.Debug logs every request and answer.
package fs
