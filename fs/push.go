package fs

import (
	"log/slog"
	"runtime/debug"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
)

const (
	// pushQueue bounds the frames that wait to be pushed, and with that their memory: 32 × 128 KiB.
	pushQueue = 32
	pageSize  = 4096
)

// pushJob is a run of a file's bytes of which the kernel has a part.
type pushJob struct {
	node     uint64
	size     int64 // of the file
	data     []byte
	start    int64 // offset of data in the file
	from, to int64 // the part of data that the kernel has
	release  func()
	o        *object // of the file, if the others in its frame are to be pushed too
	again    bool    // the kernel had been given the file before
}

// pusher puts what one READ left of a decoded frame into the page cache, one frame after the other on its own
// goroutine. Pushing is a courtesy: when too much waits, it is left out.
type pusher struct {
	conn   kernel
	counts *counts
	log    *slog.Logger
	done   chan struct{}

	mu      sync.Mutex
	closed  bool                 // guarded by mu
	waiting map[pushKey]struct{} // guarded by mu: what is in jobs, lest many readers of one frame push it often
	jobs    chan pushJob         // sent to with mu held

	others others // of run alone
}

type pushKey struct {
	node  uint64
	start int64
}

func newPusher(conn kernel, c *counts, log *slog.Logger) *pusher {
	p := &pusher{
		conn: conn, counts: c, log: log, done: make(chan struct{}),
		waiting: map[pushKey]struct{}{}, jobs: make(chan pushJob, pushQueue),
	}
	go p.run()
	return p
}

// offer takes a job over. It never blocks; false means that the caller keeps the job.
func (p *pusher) offer(j pushJob) bool {
	left, right := j.rest()
	if len(left.data)+len(right.data) == 0 && j.o == nil {
		return false
	}
	key := pushKey{j.node, j.start}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, dup := p.waiting[key]; dup || p.closed {
		return false
	}
	select {
	case p.jobs <- j:
		p.waiting[key] = struct{}{}
		return true
	default:
		p.counts.dropped.Add(1)
		return false
	}
}

// close drops what waits, and waits for what is under way.
func (p *pusher) close() {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.jobs)
	}
	p.mu.Unlock()
	<-p.done
}

func (p *pusher) run() {
	defer close(p.done)
	for j := range p.jobs {
		p.mu.Lock()
		delete(p.waiting, pushKey{j.node, j.start})
		closed := p.closed
		p.mu.Unlock()
		p.push(j, closed)
	}
}

func (p *pusher) push(j pushJob, drop bool) {
	defer contain(p.log, "push to the page cache")
	defer j.release()
	if drop {
		return
	}
	left, right := j.rest()
	// What comes after is wanted sooner. If the kernel has forgotten the file, so be it.
	if p.store(j.node, right) && p.store(j.node, left) && j.o != nil {
		p.pushOthers(&j)
	}
}

// store gives some bytes of a file to the kernel, and says whether it wanted them.
func (p *pusher) store(node uint64, r run) bool {
	if len(r.data) == 0 {
		return true
	}
	if st := p.conn.InodeNotifyStoreCache(node, r.off, r.data); st != fuse.OK {
		return false
	}
	p.counts.pushed.Add(int64(len(r.data)))
	return true
}

// run is some bytes at an offset of a file.
type run struct {
	off  int64
	data []byte
}

// rest returns what the kernel has not got of the frame: whole pages only, except that the last page of the file
// is whole at its end. The kernel has its part as whole pages.
func (j *pushJob) rest() (left, right run) {
	first := roundUp(j.start) - j.start // in data
	last := int64(len(j.data))
	if end := j.start + last; end < j.size {
		last = end/pageSize*pageSize - j.start
	}
	leftEnd := (j.start+j.from)/pageSize*pageSize - j.start
	rightStart := roundUp(j.start+j.to) - j.start
	if first < leftEnd {
		left = run{j.start + first, j.data[first:leftEnd]}
	}
	if rightStart < last {
		right = run{j.start + rightStart, j.data[rightStart:last]}
	}
	return left, right
}

func roundUp(n int64) int64 { return (n + pageSize - 1) / pageSize * pageSize }

// contain is deferred by goroutines of a mount: a panic in one is logged and ends that piece of work only.
func contain(log *slog.Logger, doing string) {
	if r := recover(); r != nil {
		log.Error("panic contained", "doing", doing, "panic", r, "stack", string(debug.Stack()))
	}
}
