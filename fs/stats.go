package fs

import "sync/atomic"

// op is a kind of request.
type op int

const (
	opLookup op = iota
	opForget
	opGetAttr
	opReadlink
	opOpen
	opRead
	opOpenDir
	opReadDir
	opReadDirPlus
	opStatFs
	opAccess
	opFlush
	opRelease
	opXAttr
	opOther
	opCount
)

// opNames are the words of the FUSE protocol; OTHER is everything else, all of which is refused.
func opNames() [opCount]string {
	return [opCount]string{
		"LOOKUP", "FORGET", "GETATTR", "READLINK", "OPEN", "READ", "OPENDIR", "READDIR", "READDIRPLUS",
		"STATFS", "ACCESS", "FLUSH", "RELEASE", "XATTR", "OTHER",
	}
}

// Stats is what a mount has done so far and what it holds.
type Stats struct {
	// Requests counts what the kernel asked, by the protocol's names. One FORGET is one node, however batched.
	Requests map[string]int64 `json:"requests"`
	// InFlight is how many requests are being worked on. If it stays above zero, the Source hangs.
	InFlight int64 `json:"inFlight"`

	ReadBytes int64 `json:"readBytes"` // answered to READ
	// PushedBytes went into the page cache unasked; PushesDropped did not because too many were waiting.
	PushedBytes   int64 `json:"pushedBytes"`
	PushesDropped int64 `json:"pushesDropped"`

	KernelRefs   int64 `json:"kernelRefs"`   // lookups that the kernel holds
	KernelPaths  int   `json:"kernelPaths"`  // store paths that it knows nodes of
	LoadedTrees  int   `json:"loadedTrees"`  // trees in memory
	LoadedBytes  int64 `json:"loadedBytes"`  // what they take
	PendingNotes int   `json:"pendingNotes"` // paths that the kernel is yet to be told of
}

// counts is the live part of Stats.
type counts struct {
	started, finished          [opCount]atomic.Int64
	readBytes, pushed, dropped atomic.Int64
}

// begin and end enclose the work on a request.
func (c *counts) begin(o op) { c.started[o].Add(1) }

func (c *counts) end(o op) { c.finished[o].Add(1) }

func (c *counts) fill(s *Stats) {
	s.Requests = map[string]int64{}
	for o, name := range opNames() {
		finished := c.finished[o].Load() // before started: never negative
		started := c.started[o].Load()
		s.InFlight += started - finished
		if started > 0 {
			s.Requests[name] = started
		}
	}
	s.ReadBytes, s.PushedBytes, s.PushesDropped = c.readBytes.Load(), c.pushed.Load(), c.dropped.Load()
}
