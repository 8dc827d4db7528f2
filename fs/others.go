package fs

import "slices"

const (
	// recentFrames is how many frames others remembers. A reader is seldom further ahead of the pusher.
	recentFrames = 64
	// enoughUnknown files of a frame that the kernel does not know make it not worth trying the rest.
	enoughUnknown = 4
	// After fruitless frames in a row, only one in patientFrames is tried: somebody reads here and there what he
	// never listed.
	fruitless     = 16
	patientFrames = 16
)

// others decides which frames are pushed beyond the file that was read. It is for one goroutine.
type others struct {
	recent  [recentFrames][]uint64 // nodes of the last frames
	next    int                    // in recent
	inVain  int                    // frames in a row of which the kernel knew no other file
	skipped int
}

// worthwhile says whether to push what came with a node.
func (o *others) worthwhile(node uint64) bool {
	for _, nodes := range o.recent {
		if slices.Contains(nodes, node) {
			return false // read before it was pushed
		}
	}
	if o.inVain < fruitless {
		return true
	}
	o.skipped++
	return o.skipped%patientFrames == 0
}

func (o *others) done(nodes []uint64, known int) {
	o.recent[o.next] = nodes
	o.next = (o.next + 1) % recentFrames
	if known > 0 {
		o.inVain = 0
	} else {
		o.inVain++
	}
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
		all := pushJob{size: j.o.view.tree.Size(c.Node), data: c.Data, start: c.Off}
		_, right := all.rest()
		if p.store(node, right) {
			known++
		} else {
			unknown++
		}
		return known > 0 || unknown < enoughUnknown
	})
	p.others.done(nodes, known)
}
