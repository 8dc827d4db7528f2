//go:build unix

package nar

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/narfs/narfs/casefold"
)

// readAhead lists a tree and reads its small files ahead of who writes the NAR.
// One goroutine, the walker, goes through the directories in NAR order and cuts
// the nodes into batches. Readers load the batches, several at a time, so that a
// cold disk always has something to do. The writer takes them in NAR order.
//
// A batch is filled by the walker, then belongs to one reader until ready, then to
// the writer, who gives it back. Their number bounds memory and open directories.
type readAhead struct {
	o     DumpOptions
	order chan *batch // in NAR order, for the writer
	work  chan *batch // the same for the readers
	free  chan *batch
	quit  chan struct{}
	wait  sync.WaitGroup
}

const (
	batches      = 16
	batchNodes   = 32      // nodes in a batch at most
	batchFolders = 8       // of how many directories at most: each is an open file
	batchBytes   = 1 << 20 // contents of a batch; what does not fit is read by the writer
	readers      = 8
)

type batch struct {
	nodes   []diskNode
	folders int
	buf     []byte        // contents of the nodes, made when first needed
	ready   chan struct{} // receives once all nodes are loaded
}

func startReadAhead(path string, o DumpOptions) *readAhead {
	a := &readAhead{
		o: o,
		// Nothing but free ever blocks: all batches fit each channel.
		order: make(chan *batch, batches), work: make(chan *batch, batches), free: make(chan *batch, batches),
		quit: make(chan struct{}),
	}
	for range batches {
		a.free <- &batch{nodes: make([]diskNode, 0, batchNodes), ready: make(chan struct{}, 1)}
	}
	a.wait.Go(func() {
		w := walker{ahead: a, scratch: make([]byte, 64<<10)}
		w.walk(path)
		close(a.order)
		close(a.work)
	})
	for range readers {
		a.wait.Go(a.read)
	}
	return a
}

// read is a reader.
func (a *readAhead) read() {
	for b := range a.work {
		if b.buf == nil {
			b.buf = make([]byte, 0, batchBytes)
		}
		buf := b.buf[:0]
		for i := range b.nodes {
			if n := &b.nodes[i]; n.err == nil {
				buf = n.load(buf)
			}
		}
		b.ready <- struct{}{}
	}
}

// recycle takes back a batch that has been written.
func (a *readAhead) recycle(b *batch) {
	b.release()
	b.nodes, b.folders = b.nodes[:0], 0
	a.free <- b
}

// stop ends the goroutines and closes what they opened. The writer calls it,
// early or after the last batch.
func (a *readAhead) stop() {
	close(a.quit)
	a.wait.Wait()
	for b := range a.order {
		b.release()
	}
}

// release gives back the directories that the nodes lie in.
func (b *batch) release() {
	for i := range b.nodes {
		if n := &b.nodes[i]; n.dir != nil {
			n.dir.release()
		}
	}
	clear(b.nodes)
}

// walker fills batches.
type walker struct {
	ahead   *readAhead
	batch   *batch // being filled, or nil
	last    *folder
	scratch []byte
}

// walk sends the nodes of the tree at path. An error travels as a node.
func (w *walker) walk(path string) {
	root := diskNode{Header: Header{Depth: 1, Type: TypeDirectory}, dir: here(), disk: path}
	root.dir.refs.Store(1 << 30) // nothing to close
	f, err := root.dir.open(path)
	if err != nil {
		root.err = err
	}
	if w.add(root) && err == nil {
		w.folder(f, 2)
	}
	w.flush()
}

// folder sends the entries of f, which stand at depth, and gives f back. It
// returns false if the rest is not wanted any more.
func (w *walker) folder(f *folder, depth int) bool {
	defer f.release()
	list, err := w.list(f)
	if err != nil {
		w.add(diskNode{dir: hold(f), err: err})
		return false
	}
	for i := range list {
		e := &list[i]
		n := diskNode{Header: Header{Depth: depth, Name: e.name}, dir: hold(f), disk: e.disk}
		n.setKind(e.kind)
		if depth > MaxDepth {
			n.err = errDepth
		}
		var sub *folder
		if n.Type == TypeDirectory && n.err == nil {
			sub, n.err = f.open(e.disk)
		}
		failed := n.err != nil
		if !w.add(n) || failed {
			if sub != nil {
				sub.release()
			}
			return false
		}
		if sub != nil && !w.folder(sub, depth+1) {
			return false
		}
	}
	return true
}

// hold takes a reference for a node.
func hold(f *folder) *folder {
	f.refs.Add(1)
	return f
}

// list gives the entries of f in NAR order.
func (w *walker) list(f *folder) ([]dirent, error) {
	list, err := readDir(f, w.scratch)
	if err != nil {
		return nil, err
	}
	for i := range list {
		if e := &list[i]; e.kind == entryUnknown {
			st, err := f.stat(e.disk)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", e.disk, err)
			}
			e.kind = kindOfMode(uint32(st.Mode))
		}
	}
	if w.ahead.o.CaseHack {
		names := make([]string, len(list))
		for i := range list {
			names[i] = list[i].disk
		}
		names, err := casefold.Unhack(names)
		if err != nil {
			return nil, err
		}
		for i := range list {
			list[i].name = names[i]
		}
	}
	slices.SortFunc(list, func(a, b dirent) int { return strings.Compare(a.name, b.name) })
	return list, nil
}

// add appends a node to the batch, sending it when it is full.
func (w *walker) add(n diskNode) bool {
	if w.batch == nil {
		select {
		case w.batch = <-w.ahead.free:
		case <-w.ahead.quit:
			n.dir.release()
			return false
		}
		w.last = nil
	}
	b := w.batch
	if n.dir != w.last {
		w.last = n.dir
		b.folders++
	}
	b.nodes = append(b.nodes, n)
	if len(b.nodes) == batchNodes || b.folders == batchFolders {
		w.flush()
	}
	return true
}

// flush sends the batch.
func (w *walker) flush() {
	if w.batch != nil {
		w.ahead.order <- w.batch
		w.ahead.work <- w.batch
		w.batch = nil
	}
}
