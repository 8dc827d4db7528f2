// Package owner hands command lines to the process that owns a state directory.
//
// Only one process at a time can have a store open: its owner. A process that finds the store in use gives the owner
// its command line, its place in the file system and its three standard descriptors. The owner does the work as if it
// had been started so, on those descriptors, and answers with the exit code; of the data, nothing passes through the
// client. The owner listens on the socket [Socket] in the state directory, which only its own user may use: the file
// has mode 0600, and either side looks at the other's credentials. Root may hand over to nobody else: a less privileged
// process must not get at his terminal.
//
// # The wire
//
// A stream socket; integers, strings and lists are those of package wire. The client sends one request:
//
//	magic      8 bytes "narfsown", and with them, as SCM_RIGHTS, exactly three descriptors: its standard input, output
//	           and error output
//	version    integer 1
//	flags      integer: 1 = the command lasts until somebody ends it
//	dir        string, at most 4,096 bytes: the client's working directory
//	args       list of at most 65,536 strings of at most 128 KiB each, 4 MiB together: its arguments, without the
//	           program's name
//	env        list of at most 64 strings NAME=value of at most 128 KiB each, 1 MiB together: the variables that matter
//
// and the owner answers
//
//	begun      integer 1, or 0 and a string, the reason why it does not
//	code       integer: the exit code, when the command has ended
//
// The client sends nothing more. When its side of the connection ends, half or whole, so does the command's context:
// a client that is interrupted closes for writing and waits for the exit code; one that is killed just vanishes.
// An owner whose answer ends before "begun" has done nothing, and the client may try again.
//
// # Descriptors
//
// A descriptor that comes from elsewhere may be stuck: a terminal at which nobody types, a pipe that nobody reads. The
// owner cannot make it non-blocking, for that would change it for everybody who has it. A [Stream] therefore waits
// (poll) for the descriptor and for the end of the command at once, so that a client that goes leaves no goroutine
// behind. Owners should ignore SIGTTIN and SIGTTOU, lest a terminal stops them.
package owner
