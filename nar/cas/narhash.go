package cas

import (
	"crypto/sha256"
	"hash"
	"sync"
)

// narHash hashes the NAR's bytes, in another goroutine once they are many.
type narHash struct {
	info   Info
	tap    func([]byte)
	sum    hash.Hash
	pool   *sync.Pool // of *[]byte, blocks
	block  []byte
	blocks chan []byte
	free   chan []byte
	done   chan struct{}
}

func newNarHash(tap func([]byte), pool *sync.Pool) *narHash {
	n := &narHash{tap: tap, sum: sha256.New(), pool: pool}
	n.block = n.newBlock()
	return n
}

func (n *narHash) newBlock() []byte {
	if b, _ := n.pool.Get().(*[]byte); b != nil {
		return (*b)[:0]
	}
	return make([]byte, 0, hashBlock)
}

func (n *narHash) write(p []byte) {
	n.info.NarSize += int64(len(p))
	for len(p) > 0 {
		if len(n.block) == cap(n.block) {
			n.turn()
		}
		k := min(len(p), cap(n.block)-len(n.block))
		n.block = append(n.block, p[:k]...)
		p = p[k:]
	}
}

// turn hands the full block on.
func (n *narHash) turn() {
	if n.blocks == nil {
		n.blocks, n.free, n.done = make(chan []byte, 2), make(chan []byte, 4), make(chan struct{})
		for range 3 {
			n.free <- n.newBlock()
		}
		go n.loop()
	}
	n.blocks <- n.block
	n.block = (<-n.free)[:0]
}

func (n *narHash) loop() {
	defer close(n.done)
	for b := range n.blocks {
		n.update(b)
		n.free <- b
	}
}

func (n *narHash) update(b []byte) {
	n.sum.Write(b)
	if n.tap != nil {
		n.tap(b)
	}
}

// finish waits for the goroutine and sets the hash.
func (n *narHash) finish() {
	if n.blocks != nil {
		close(n.blocks)
		<-n.done
		for range 3 {
			b := <-n.free
			n.pool.Put(&b)
		}
	}
	n.update(n.block)
	n.pool.Put(&n.block)
	n.sum.Sum(n.info.NarHash[:0])
}
