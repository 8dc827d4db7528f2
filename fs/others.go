package fs

import (
	"slices"
	"sync/atomic"
)

const (
	// recentFrames is how many frames others remembers. A reader is seldom further ahead of the pusher.
	recentFrames = 64
	// enoughUnknown files of a frame that the kernel does not know make it not worth trying the rest.
	enoughUnknown = 2
	// Credit is what files that the kernel knew have earned, hitCredit each, and those that it did not know have cost,
	// one each. Without any, only one frame in patientFrames is tried: somebody reads here and there what was never
	// listed.
	hitCredit     = 2
	maxCredit     = 64
	patientFrames = 16
)

// others decides which frames are pushed beyond the file that was read. But for hopeless it is for one goroutine.
type others struct {
	recent  [recentFrames][]uint64 // nodes of the last frames
	next    int                    // in recent
	debt    atomic.Int32           // maxCredit less the credit: the zero value is full of hope
	skipped atomic.Uint32
}

// hopeless says, to any goroutine, that others of a frame are not worth decoding.
func (o *others) hopeless() bool {
	return o.debt.Load() >= maxCredit && o.skipped.Add(1)%patientFrames != 0
}

// worthwhile says whether to push what came with a node.
func (o *others) worthwhile(node uint64) bool {
	for _, nodes := range o.recent {
		if slices.Contains(nodes, node) {
			return false // read before it was pushed
		}
	}
	return true
}

func (o *others) done(nodes []uint64, known, unknown int) {
	o.recent[o.next] = nodes
	o.next = (o.next + 1) % recentFrames
	o.debt.Store(int32(min(max(0, int(o.debt.Load())-hitCredit*known+unknown), maxCredit)))
}

// pushOthers pushes the other files in the frame of a job.
func (p *pusher) pushOthers(j *pushJob) {
	frames, ok := j.o.obj.(FrameObject)
	if !ok || !p.others.worthwhile(j.node) {
		return
	}
	slot, index, _ := splitNode(j.node)
	nodes := []uint64{j.node}
	known, unknown := 0, 0
	// Whoever reads a file that makes this fail will hear of it.
	_ = frames.Frame(index, j.start, func(c Piece) bool {
		node := nodeID(slot, c.Node)
		nodes = append(nodes, node)
		if !j.again && j.o.given.has(c.Node) {
			return true
		}
		all := pushJob{size: j.o.view.tree.Size(c.Node), data: c.Data, start: c.Off}
		_, right := all.rest()
		if p.store(node, right) {
			j.o.given.add(c.Node)
			known++
		} else {
			unknown++
		}
		return known > 0 || unknown < enoughUnknown
	})
	p.others.done(nodes, known, unknown)
}

// givenSet holds the files of an object of which the kernel was given something: they need not be pushed. A small file that
// is asked for though it is here was dropped from the page cache. It is for concurrent use; a nil one holds nothing.
type givenSet []atomic.Uint32

func newGivenSet(nodes int) givenSet { return make(givenSet, (nodes+31)/32) }

func (g givenSet) has(node uint32) bool {
	return g != nil && g[node/32].Load()&(1<<(node%32)) != 0
}

// add adds a node and reports whether it was there.
func (g givenSet) add(node uint32) bool {
	if g == nil {
		return false
	}
	bit := uint32(1) << (node % 32)
	return g[node/32].Or(bit)&bit != 0
}
