package cas

import (
	"container/list"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// frame is a decoded frame in memory. Whoever got one from the cache releases it; its
// buffer is used again after the last release.
type frame struct {
	kind frameKind
	data []byte
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
	log   *packLog
	limit int64
	dec   *zstd.Decoder
	bufs  sync.Pool // of *[]byte, for stored payloads

	mu      sync.Mutex
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

func (c *frameCache) close() { c.dec.Close() }

// get returns the frame at a position; size is that of the whole frame on disk.
func (c *frameCache) get(at position, size uint32) (*frame, error) {
	for {
		c.mu.Lock()
		e := c.entries[at]
		if e == nil {
			e = &cacheEntry{at: at, done: make(chan struct{})}
			c.entries[at] = e
			c.mu.Unlock()
			return c.fill(e, size)
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

func (c *frameCache) fill(e *cacheEntry, size uint32) (*frame, error) {
	f, err := c.load(e.at, size)
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
		old := c.lru.Remove(c.lru.Back()).(*cacheEntry) //nolint:forcetypeassert // the list holds nothing else
		delete(c.entries, old.at)
		c.bytes -= int64(cap(old.frame.data))
		c.unref(old.frame)
	}
	return f, nil
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
	return make([]byte, 0, (n+8191)&^8191)
}

// load reads and decodes a frame.
func (c *frameCache) load(at position, size uint32) (*frame, error) {
	p, err := c.log.get(at.pack)
	if err != nil {
		return nil, err
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
		return nil, fmt.Errorf("%v: %w: cut off", at, errBadFrame)
	} else if err != nil {
		return nil, fmt.Errorf("%v: %w", at, err)
	}
	f, err := c.decode(b)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", at, err)
	}
	return f, nil
}

// decode checks and decodes a whole frame.
func (c *frameCache) decode(b []byte) (*frame, error) {
	h, err := parseHeader(b, c.log.marker)
	if err != nil {
		return nil, err
	}
	if h.size() != int64(len(b)) {
		return nil, fmt.Errorf("%w: %d bytes, not %d", errBadFrame, h.size(), len(b))
	}
	if err := checkHeader(b, h); err != nil {
		return nil, err
	}
	lengths := b[frameHeaderSize : frameHeaderSize+h.lengths()]
	payload := b[frameHeaderSize+h.lengths():]
	if checksum(payload) != h.payCRC {
		return nil, fmt.Errorf("%w: checksum", errBadFrame)
	}
	f := &frame{kind: h.kind, data: c.buffer(int(h.raw))}
	if h.codec == codecStored {
		f.data = append(f.data, payload...)
	} else if f.data, err = c.dec.DecodeAll(payload, f.data); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadFrame, err)
	}
	if len(f.data) != int(h.raw) {
		return nil, fmt.Errorf("%w: %d bytes decoded, not %d", errBadFrame, len(f.data), h.raw)
	}
	if h.kind != kindMeta {
		f.ends, err = chunkEnds(make([]uint32, 0, h.count), lengths, h.raw)
	}
	return f, err
}
