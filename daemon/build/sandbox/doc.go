// Package sandbox runs one builder, with all that it starts, apart from everything else. It knows no store and no derivation: only
// paths, arguments and an environment.
//
// # How
//
// This program runs itself once more, under another name, in user, mount, process, IPC, host name and, without network, network
// namespaces of its own, where it sets up what the builder is to see and becomes the builder: the first process of its process
// namespace, so that all others die with it. It is killed when the thread that started it ends, and so with this process.
//
// A sandboxed builder sees a root folder in memory with its inputs, each bound read-only from a mount of the store; its outputs and
// its build directory, which are folders of the host; what else the [Spec] lists; a minimal /dev, /etc and /proc; and is user 1000
// of group 100. One that is not sandboxed sees the host, with an overlay in the place of the store directory: below it the mount
// of the store, above it the folder for its outputs.
//
// In both it has no capabilities and cannot get any, and a filter of system calls refuses setuid and setgid bits (EPERM) and extended
// attributes (ENOTSUP), which no store keeps.
//
// # What may be left
//
// Outputs, the build directory, and Outputs + ".work" are folders of the caller's, who removes them. Nothing else outlives a process
// that is killed: namespaces, and the mounts in them, go with the builder.
package sandbox
