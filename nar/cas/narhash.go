package cas

import (
	"crypto/sha256"
	"hash"
)

// narHash hashes the NAR's bytes, in another goroutine once they are many.
type narHash struct {
	info   Info
	tap    func([]byte)
	sum    hash.Hash
	block  []byte
	blocks chan []byte
	free   chan []byte
	done   chan struct{}
}

func newNarHash(tap func([]byte)) *narHash {
	return &narHash{tap: tap, sum: sha256.New(), block: make([]byte, 0, 8<<10)}
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
	if cap(n.block) < hashBlock {
		n.block = append(make([]byte, 0, hashBlock), n.block...)
		return
	}
	if n.blocks == nil {
		n.blocks, n.free, n.done = make(chan []byte, 2), make(chan []byte, 4), make(chan struct{})
		for range 3 {
			n.free <- make([]byte, 0, hashBlock)
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
	}
	n.update(n.block)
	n.sum.Sum(n.info.NarHash[:0])
}
