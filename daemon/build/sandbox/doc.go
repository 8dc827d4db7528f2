// Package sandbox runs one builder and nothing else: a process, with all that it starts, which sees certain files and
// is gone when [Run] returns. It knows no store and no derivations, only paths, arguments and an environment.
//
// # On Linux
//
// The builder is process 1 of a process namespace, in a user namespace that knows no other user than the one it runs
// as; both work for root and, where the system lets them make such namespaces, for everybody. Run executes its own
// program again, under a name by which this package knows it as it is initialised, and that does so once more:
//
//	narfs                process that calls Run
//	└─ keeper            process 1 of an outer process namespace; only waits
//	   └─ builder        process 1 of the inner one, in new mount, IPC, UTS and network namespaces: mounts what it is to
//	                     see, gives up all capabilities, executes the builder
//
// The user namespace begins with the keeper, or, where that can have a process namespace without (root's can), with the builder: who
// begins one is a copy of the process that starts it, with all its memory until it executes something else, and the keeper has less.
//
// Linux 5.12 or newer is needed.
//
// A sandboxed builder's root is a read-only file system in memory, which holds:
//
//	StoreDir     an overlay on Outputs, with the inputs bound read-only into it; writable
//	/build       the build folder (Spec.BuildDirInside); writable
//	/tmp         Spec.TmpDir, or a file system in memory; writable
//	/proc        of its own processes; what only an id protects there is read-only if the builder is root outside
//	/dev         full null random tty urandom zero, with Spec.KVM kvm; fd stdin stdout stderr shm pts ptmx
//	/etc         passwd group hosts; with Spec.Network nsswitch.conf, and the host's hosts resolv.conf services
//	and Spec.Binds.
//
// Inputs are seen through mounts, at places in the lower part of that overlay, a file system in memory; a symbolic link can have none, so
// it is made again there. Where the kernel refuses the overlay, as it does if Outputs is on another one, all that is made in Outputs
// itself, and Run takes it away when the builder is done.
//
// A builder that is not sandboxed sees the host's files, with an overlay on StoreDir whose lower part is the whole of
// StoreMount. Where the kernel refuses an overlay it sees its inputs there alone. If the host has no StoreDir, the
// lowest existing folder above it is shown once more, with StoreDir made in it; what others create right there
// afterwards is not seen. Not being sandboxed, it is only as confined as its user, and should not run as root.
//
// Every builder has: standard input /dev/null, standard output and error one pseudoterminal in raw mode, no other
// descriptors, a session of its own without a terminal, no capabilities and no way to new ones, addresses that are not
// random, no core dumps, umask 022, and a filter of system calls: no file becomes set-user-id or set-group-id, nor has
// extended attributes.
//
// # Who may reach what
//
// StoreMount, Outputs, BuildDir and the sources of Binds are opened by the process that calls Run: as root, the folders
// above them may be closed to the builder's user. Below them the builder is Spec.UID and Spec.GID to the host. A FUSE
// mount without allow_other is readable only to the very ids that mounted it, so these must be they.
//
// # What can be left
//
// The kernel kills the keeper when the thread that started it ends, and with a namespace's first process all others, so
// nothing runs on after a SIGKILL of the daemon. A builder can ask the kernel to let it outlive its parent; the keeper,
// which it can neither see nor reach, is there because it does not. A control group (Spec.Cgroup) adds to that only that it knows what time
// all of them took; after a SIGKILL of the daemon it stays, empty, until the next one is made.
// Mounts are in the builder's namespace and end with it. What such an end leaves in files: the contents of
// Outputs, without an overlay with empty files and folders under the names of inputs; Outputs + ".work", which holds an empty folder that
// nobody may read; BuildDir and TmpDir.
package sandbox
