package cas

import (
	"bytes"
	"container/list"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// frame is a decoded frame in memory. Whoever got one from the cache releases it; its
// buffer is used again after the last release.
type frame struct {
	kind frameKind
	raw  uint32   // bytes of the whole frame
	data []byte   // the beginning of it, in most cases all
	ends []uint32 // of the chunks

	cache *frameCache
	refs  int // guarded by cache.mu
}

// chunk returns the bytes of chunk i.
func (f *frame) chunk(i int) []byte { return f.data[f.start(i):f.ends[i]] }

func (f *frame) start(i int) uint32 {
	if i == 0 {
		return 0
	}
	return f.ends[i-1]
}

func (f *frame) release() { f.cache.release(f) }

// frameCache keeps decoded frames, the most recently used ones up to a number of bytes.
// Concurrent calls for one frame decode it once.
type frameCache struct {
	log    *packLog
	dec    *zstd.Decoder
	starts sync.Pool // of *zstd.Decoder, for the beginnings of frames
	bufs   sync.Pool // of *[]byte, for stored payloads

	mu      sync.Mutex // guards the rest
	limit   int64
	bytes   int64
	entries map[position]*cacheEntry
	lru     list.List // of *cacheEntry; front is the most recent
	free    [][]byte  // buffers of frames that were evicted
}

type cacheEntry struct {
	at    position
	frame *frame        // nil while loading
	err   error         // of the load
	done  chan struct{} // closed when loaded
	elem  *list.Element
}

const maxFreeBuffers = 16

func newFrameCache(l *packLog, limit int64) (*frameCache, error) {
	// Memory for a decoded frame is bounded by the frame's header before decoding begins.
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(maxMetaRaw))
	if err != nil {
		return nil, err
	}
	c := &frameCache{log: l, limit: limit, dec: dec, entries: map[position]*cacheEntry{}}
	c.lru.Init()
	return c, nil
}

// setLimit sets what the cache may hold, which applies when the next frame comes.
func (c *frameCache) setLimit(limit int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = limit
}

func (c *frameCache) close() { c.dec.Close() }

// allOfIt is more than any frame has.
const allOfIt = math.MaxUint32

// get returns the frame at a position; size is that of the whole frame on disk.
func (c *frameCache) get(at position, size uint32) (*frame, error) {
	return c.getStart(at, size, allOfIt)
}

// getStart returns the frame at a position of which the first need bytes, or all, are decoded.
func (c *frameCache) getStart(at position, size, need uint32) (*frame, error) {
	for {
		c.mu.Lock()
		e := c.entries[at]
		if e != nil && e.frame != nil && uint32(len(e.frame.data)) < min(need, e.frame.raw) {
			c.evict(e)
			e, need = nil, allOfIt // it is asked for again and again
		}
		if e == nil {
			e = &cacheEntry{at: at, done: make(chan struct{})}
			c.entries[at] = e
			c.mu.Unlock()
			return c.fill(e, size, need)
		}
		if e.frame != nil {
			e.frame.refs++
			c.lru.MoveToFront(e.elem)
			c.mu.Unlock()
			return e.frame, nil
		}
		c.mu.Unlock()
		<-e.done
		if e.err != nil {
			return nil, e.err
		}
	}
}

// read copies n bytes at from of a decoded frame to dst, which may be longer; what stands behind them there is lost. A whole
// frame that is not here is decoded to dst and not kept: who wants all of it will hardly ask again.
func (c *frameCache) read(dst []byte, n int, at position, size, from uint32) error {
	c.mu.Lock()
	_, here := c.entries[at]
	c.mu.Unlock()
	if from == 0 && !here {
		if whole, err := c.readWhole(dst, n, at, size); whole || err != nil {
			return err
		}
	}
	f, err := c.get(at, size)
	if err != nil {
		return err
	}
	defer f.release()
	if uint64(from)+uint64(n) > uint64(len(f.data)) {
		return fmt.Errorf("%w: %v: %d bytes at %d of %d", ErrCorrupt, at, n, from, len(f.data))
	}
	copy(dst[:n], f.data[from:])
	return nil
}

// readWhole decodes a frame of n bytes to dst, and does nothing if the frame is not that large. Room behind them lets the
// decoder copy faster.
func (c *frameCache) readWhole(dst []byte, n int, at position, size uint32) (whole bool, err error) {
	err = c.stored(at, size, func(h frameHeader, _, payload []byte) error {
		if int(h.raw) != n {
			return nil
		}
		whole = true
		_, err := c.unpack(dst[:0:len(dst)], h, payload)
		return err
	})
	return whole, err
}

func (c *frameCache) fill(e *cacheEntry, size, need uint32) (*frame, error) {
	f, err := c.load(e.at, size, need)
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(e.done)
	if err != nil {
		e.err = err
		delete(c.entries, e.at)
		return nil, err
	}
	f.cache, f.refs = c, 2 // the cache's and the caller's
	e.frame = f
	e.elem = c.lru.PushFront(e)
	c.bytes += int64(cap(f.data))
	for c.bytes > c.limit && c.lru.Len() > 1 {
		c.evict(c.lru.Back().Value.(*cacheEntry)) //nolint:forcetypeassert // the list holds nothing else
	}
	return f, nil
}

// evict takes a loaded frame out. mu is held.
func (c *frameCache) evict(e *cacheEntry) {
	c.lru.Remove(e.elem)
	delete(c.entries, e.at)
	c.bytes -= int64(cap(e.frame.data))
	c.unref(e.frame)
}

func (c *frameCache) release(f *frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unref(f)
}

func (c *frameCache) unref(f *frame) {
	if f.refs--; f.refs == 0 && len(c.free) < maxFreeBuffers {
		c.free = append(c.free, f.data[:0])
		f.data = nil
	}
}

// buffer returns an empty buffer, one of an evicted frame if that is large enough.
func (c *frameCache) buffer(n int) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.free) > 0 {
		b := c.free[len(c.free)-1]
		c.free = c.free[:len(c.free)-1]
		if cap(b) >= n {
			return b
		}
	}
	const slack = 64 // lets the decoder copy faster
	return make([]byte, 0, (n+slack+8191)&^8191)
}

// load reads and decodes a frame, at least its first need bytes.
func (c *frameCache) load(at position, size, need uint32) (f *frame, err error) {
	err = c.stored(at, size, func(h frameHeader, lengths, payload []byte) (err error) {
		f, err = c.decode(h, lengths, payload, need)
		return err
	})
	return f, err
}

// stored calls fn with a frame as it stands, checked; what it gets is valid until it returns.
func (c *frameCache) stored(at position, size uint32, fn func(h frameHeader, lengths, payload []byte) error) error {
	p, err := c.log.get(at.pack)
	if err != nil {
		return err
	}
	defer p.release()
	tmp, _ := c.bufs.Get().(*[]byte)
	if tmp == nil {
		tmp = new([]byte)
	}
	defer c.bufs.Put(tmp)
	if cap(*tmp) < int(size) {
		*tmp = make([]byte, (size+8191)&^8191)
	}
	b := (*tmp)[:size]
	if _, err := p.file.ReadAt(b, int64(at.off)); errors.Is(err, io.EOF) {
		return fmt.Errorf("%v: %w: cut off", at, errBadFrame)
	} else if err != nil {
		return fmt.Errorf("%v: %w", at, err)
	}
	h, lengths, payload, err := splitFrame(b, c.log.marker)
	if err == nil {
		err = fn(h, lengths, payload)
	}
	if err != nil {
		return fmt.Errorf("%v: %w", at, err)
	}
	return nil
}

// splitFrame takes a whole frame apart and compares its checksums.
func splitFrame(b []byte, m marker) (h frameHeader, lengths, payload []byte, err error) {
	if h, err = parseHeader(b, m); err != nil {
		return h, nil, nil, err
	}
	if h.size() != int64(len(b)) {
		return h, nil, nil, fmt.Errorf("%w: %d bytes, not %d", errBadFrame, h.size(), len(b))
	}
	if err := checkHeader(b, h); err != nil {
		return h, nil, nil, err
	}
	lengths = b[frameHeaderSize : frameHeaderSize+h.lengths()]
	payload = b[frameHeaderSize+h.lengths():]
	if checksum(payload) != h.payCRC {
		err = fmt.Errorf("%w: checksum", errBadFrame)
	}
	return h, lengths, payload, err
}

// decode decodes a frame, at least its first need bytes.
func (c *frameCache) decode(h frameHeader, lengths, payload []byte, need uint32) (f *frame, err error) {
	f = &frame{kind: h.kind, raw: h.raw}
	need = (need + compressBlock - 1) / compressBlock * compressBlock
	if need > 0 && need < h.raw && h.codec == codecZstd {
		f.data, err = c.unpackStart(c.buffer(int(need))[:need], payload)
	} else {
		f.data, err = c.unpack(c.buffer(int(h.raw)), h, payload)
	}
	if err != nil {
		return nil, err
	}
	if h.kind != kindMeta {
		f.ends, err = chunkEnds(make([]uint32, 0, h.count), lengths, h.raw)
	}
	return f, err
}

// unpackStart fills dst with the beginning of what a payload decodes to. Compressed data come in blocks, of which those
// behind the beginning are not looked at.
func (c *frameCache) unpackStart(dst, payload []byte) ([]byte, error) {
	dec, _ := c.starts.Get().(*zstd.Decoder)
	if dec == nil {
		var err error
		dec, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxMemory(maxMetaRaw), zstd.WithDecodeBuffersBelow(0))
		if err != nil {
			return nil, err
		}
	}
	defer c.starts.Put(dec)
	err := dec.Reset(bytes.NewReader(payload))
	if err == nil {
		_, err = io.ReadFull(dec, dst)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBadFrame, err)
	}
	return dst, nil
}

// unpack decodes a payload to dst, which is empty and has the room.
func (c *frameCache) unpack(dst []byte, h frameHeader, payload []byte) (_ []byte, err error) {
	if h.codec == codecStored {
		dst = append(dst, payload...)
	} else if dst, err = c.dec.DecodeAll(payload, dst); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadFrame, err)
	}
	if len(dst) != int(h.raw) {
		return nil, fmt.Errorf("%w: %d bytes decoded, not %d", errBadFrame, len(dst), h.raw)
	}
	return dst, nil
}
