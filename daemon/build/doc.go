// Package build builds derivations.
//
// # Course of a build
//
// A goal is a derivation that somebody wants outputs of. There is one for each derivation, however many sessions want it: all hear its
// log and get its result, and it ends, with its builder, when the last of them has gone. A goal
//
//  1. looks whether what is wanted is there;
//  2. has its input derivations realised, each by a goal of its own;
//  3. resolves itself, if inputs have paths that only building them has shown: it becomes a derivation that names these, and waits for
//     the goal of that;
//  4. waits for a slot: on another machine of the setting builders that can build it, or here if none is free there, of max-jobs;
//  5. runs the builder in a sandbox (package sandbox), which sees its inputs in a mount of the store, and makes its outputs in a
//     scratch folder in the place of the store directory;
//  6. takes the outputs over: each is read as a NAR, never through a link, and searched for the hash parts of all that it may refer
//     to; read again for its content address, if it gets one; and imported like any path, which compares the first hash. What a
//     builder that was not killed could still change later is not the store's.
//
// # Other machines
//
// A [Session] is a conversation with the store of a machine, by which its builds are counted. In the place of steps 5 and 6 that gets
// the inputs that it does not have, builds, and gives the outputs, whose hashes and content addresses the import compares; what they
// refer to must be inputs or outputs. A machine that cannot be reached, or goes away, is not tried again for the request, and another
// place is looked for: in the middle of a build, once.
//
// Not built elsewhere: checks, what prefers to be built here (preferLocalBuild) and can be, and what came as a derivation with paths for
// inputs, from who has others build himself.
//
// # Scratch
//
//	STATE/builds/NAME-RANDOM/   mode 0700, one for each build, gone when it ends
//	    build/                  the build directory: /build in the sandbox
//	    out/                    what the builder makes in the store directory
//	STATE/builds-kept/          build directories of failed builds, with keep-failed, for a week
//
// What a killed process has left there the next one removes.
//
// # Users
//
// Root's builders run as users of their own: see [Users]. A user is locked as long as the build takes, by a file that all stores of the
// machine share, and owns both folders and all that the builder makes; an output of somebody else is refused.
package build
