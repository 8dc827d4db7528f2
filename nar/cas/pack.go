package cas

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
)

// position is a place in the log: a pack and an offset in it. Positions are in the order
// of the log.
type position struct{ pack, off uint32 }

func (p position) before(q position) bool {
	return p.pack < q.pack || p.pack == q.pack && p.off < q.off
}

func (p position) String() string { return fmt.Sprintf("%s+%d", packName(p.pack), p.off) }

// logStart is where the first frame stands.
var logStart = position{1, packHeaderSize} //nolint:gochecknoglobals // a constant

func packName(id uint32) string { return fmt.Sprintf("%08d.pack", id) }

func parsePackName(name string) (id uint32, ok bool) {
	if _, err := fmt.Sscanf(name, "%d.pack", &id); err != nil || packName(id) != name || id == 0 {
		return 0, false
	}
	return id, true
}

// pack is an open pack. Readers hold a reference while they read: a pack that is dropped
// is closed when the last one is done.
type pack struct {
	id   uint32
	file File
	size int64        // when the log was opened
	refs atomic.Int64 // one is the packLog's
}

func (p *pack) release() {
	if p.refs.Add(-1) == 0 {
		_ = p.file.Close() // what was written is synced: nothing is lost with the error
	}
}

// packLog is the packs of a store: one that grows, the others sealed.
//
// Lock order: syncing before mu before the callback of append.
type packLog struct {
	files    Files
	marker   marker
	packSize int64

	// mu guards the end of the log and the set of packs. Writes to the growing pack and
	// the sync when it is sealed happen under it; reads only look up their pack.
	mu     sync.Mutex
	packs  map[uint32]*pack
	cur    *pack // nil until the first append after opening
	end    position
	next   uint32 // number of the next pack
	failed error  // after a failed sync nobody knows what the disk holds: no more writes

	durable position // everything before it was synced

	syncing sync.Mutex // one sync at a time; later callers find their bytes done
}

// errPackHeader says that the bytes at the beginning of a pack are not its header.
var errPackHeader = errors.New("not a pack, or its header is broken")

// errPackGone says that a pack is no longer there: the reader's location is out of date.
var errPackGone = errors.New("pack is gone")

// openLog opens all packs. What is broken is told in damaged: packs that are of another store, or
// of none, are left out; those of this store whose header is broken get it anew.
func openLog(files Files, m marker, packSize int64) (l *packLog, damaged []error, err error) {
	names, err := files.List()
	if err != nil {
		return nil, nil, err
	}
	l = &packLog{files: files, marker: m, packSize: packSize, packs: map[uint32]*pack{}, next: 1}
	for _, name := range names {
		id, ok := parsePackName(name)
		if !ok {
			continue
		}
		l.next = max(l.next, id+1)
		f, size, err := files.Open(name)
		if err != nil {
			l.close()
			return nil, nil, err
		}
		p := &pack{id: id, file: f, size: size}
		p.refs.Store(1)
		got, err := readPackHeader(f, id)
		if err == nil && got != m {
			err = errors.New("this is a pack of another store")
		}
		switch {
		case err == nil:
			l.packs[id] = p
		case errors.Is(err, ErrFormat):
			l.close()
			return nil, nil, errors.Join(fmt.Errorf("%s: %w", name, err), f.Close())
		case size > packHeaderSize:
			if errors.Is(err, errPackHeader) && l.ours(p) {
				err = errors.Join(err, p.writeHeader(m))
				l.packs[id] = p
			} else {
				_ = f.Close() // only read
			}
			damaged = append(damaged, fmt.Errorf("%s: %w", name, err))
		default: // frames come after the header's sync
			_ = f.Close() // only read
			if err := files.Remove(name); err != nil {
				l.close()
				return nil, nil, err
			}
		}
	}
	return l, damaged, nil
}

func (p *pack) writeHeader(m marker) error {
	_, err := p.file.WriteAt(appendPackHeader(nil, p.id, m), 0)
	if err == nil {
		err = p.file.Sync()
	}
	return err
}

// ours reports whether a pack whose header is broken has a frame of this store.
func (l *packLog) ours(p *pack) bool {
	_, err := l.scan(p, packHeaderSize, stepOver, func(frameHeader, int64, []byte) error { return errStop })
	return errors.Is(err, errStop)
}

func readPackHeader(f File, id uint32) (marker, error) {
	b := make([]byte, packHeaderSize)
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return marker{}, err
	}
	return parsePackHeader(b, id)
}

func newMarker() (m marker) {
	rand.Read(m[:])
	return m
}

// get returns a pack with a reference, which the caller releases.
func (l *packLog) get(id uint32) (*pack, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.packs[id]
	if p == nil {
		return nil, fmt.Errorf("%s: %w", packName(id), errPackGone)
	}
	p.refs.Add(1)
	return p, nil
}

// ids returns the numbers of all packs in ascending order.
func (l *packLog) ids() []uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids := make([]uint32, 0, len(l.packs))
	for id := range l.packs {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// append writes buf, whole frames, behind the end of the log and calls done, under the
// log's lock, with the position of its first byte. On an error nothing was appended.
func (l *packLog) append(buf []byte, done func(position)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed != nil {
		return fmt.Errorf("store takes no more writes: %w", l.failed)
	}
	if l.cur == nil || int64(l.end.off)+int64(len(buf)) > l.packSize && l.end.off > packHeaderSize {
		if err := l.roll(); err != nil {
			return err
		}
	}
	if err := l.write(buf, l.end.off); err != nil {
		return err
	}
	at := l.end
	l.end.off += uint32(len(buf))
	done(at)
	return nil
}

// write writes to the growing pack; on an error it takes back what stands behind off.
func (l *packLog) write(buf []byte, off uint32) error {
	_, err := l.cur.file.WriteAt(buf, int64(off))
	if err == nil {
		return nil
	}
	if terr := l.cur.file.Truncate(int64(off)); terr != nil {
		l.failed = fmt.Errorf("taking back a failed write: %w", terr)
	}
	return fmt.Errorf("writing %s: %w", packName(l.cur.id), err)
}

// roll seals the growing pack and begins a new one. mu is held.
func (l *packLog) roll() error {
	if l.cur != nil {
		if err := l.cur.file.Sync(); err != nil {
			l.failed = err
			return fmt.Errorf("syncing %s: %w", packName(l.cur.id), err)
		}
	}
	name := packName(l.next)
	f, err := l.files.Create(name)
	if err != nil {
		return err
	}
	id := l.next
	l.next++ // never used twice, whatever happens
	p := &pack{id: id, file: f}
	p.refs.Store(1)
	if err := p.writeHeader(l.marker); err != nil {
		err = fmt.Errorf("writing %s: %w", name, err)
		if rerr := errors.Join(f.Close(), l.files.Remove(name)); rerr != nil {
			err = errors.Join(err, rerr)
			l.failed = err // with a pack behind it, a torn end would be damage
		}
		return err
	}
	l.packs[id] = p
	l.cur, l.end = p, position{id, packHeaderSize}
	l.durable = l.end
	return nil
}

// sync makes everything durable that stands before upto in the log.
func (l *packLog) sync(upto position) error {
	l.syncing.Lock()
	defer l.syncing.Unlock()
	l.mu.Lock()
	cur, end, done, failed := l.cur, l.end, l.durable, l.failed
	l.mu.Unlock()
	if failed != nil {
		return fmt.Errorf("store takes no more writes: %w", failed)
	}
	if cur == nil || !done.before(upto) {
		return nil
	}
	if err := cur.file.Sync(); err != nil {
		l.fail(err)
		return fmt.Errorf("syncing %s: %w", packName(cur.id), err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.durable = later(l.durable, end)
	return nil
}

// fail ends all writing: the index does not know what the log holds.
func (l *packLog) fail(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed == nil {
		l.failed = cause
	}
}

// tail returns the end of the log: where the next frame will stand at the earliest.
func (l *packLog) tail() position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end
}

// front returns the end of the log and the pack that grows there, 0 if none does.
func (l *packLog) front() (end position, growing uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cur != nil {
		growing = l.cur.id
	}
	return l.end, growing
}

// seal ends a pack, if it still grows, and begins the next one.
func (l *packLog) seal(id uint32) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cur == nil || l.cur.id != id {
		return nil
	}
	return l.roll()
}

// durableTo returns the position before which everything was synced.
func (l *packLog) durableTo() position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durable
}

// resumption says how a log goes on.
type resumption struct {
	from    position // what stands before is on the disk
	written bool     // something that counts stands behind
	damaged bool     // something is broken before the end
}

// resume makes the log go on at the given end, in its last pack, cutting off what stands
// behind it. It writes nothing if that is nothing.
func (l *packLog) resume(end position, how resumption) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end, l.durable = end, later(how.from, logStart)
	if end != logStart {
		l.next = max(l.next, end.pack+1)
	}
	p := l.packs[end.pack]
	if p == nil {
		l.durable = end
		return nil
	}
	l.cur = p
	if how.written || how.damaged {
		// Frames that a killed process wrote are there, and not yet on the disk.
		if err := p.file.Sync(); err != nil {
			return fmt.Errorf("syncing %s: %w", packName(p.id), err)
		}
		l.durable = end
	}
	if p.size <= int64(end.off) {
		return nil
	}
	if how.damaged {
		// What tells damage from a torn end may stand in what is cut off.
		if err := l.mark(); err != nil {
			return err
		}
	}
	if err := p.file.Truncate(int64(l.end.off)); err != nil {
		return fmt.Errorf("cutting the unfinished end off %s: %w", packName(p.id), err)
	}
	return nil
}

// mark writes at the end that the log was durable so far, and makes that durable. mu is held.
func (l *packLog) mark() error {
	b := appendMark(nil, l.marker, l.end)
	_, err := l.cur.file.WriteAt(b, int64(l.end.off))
	if err == nil {
		err = l.cur.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("marking the end of %s: %w", packName(l.cur.id), err)
	}
	l.end.off += uint32(len(b))
	l.durable = l.end
	return nil
}

// drop takes a sealed pack away. Readers that hold it finish first.
func (l *packLog) drop(id uint32) error {
	l.mu.Lock()
	p := l.packs[id]
	sealed := p != nil && p != l.cur
	l.mu.Unlock()
	if !sealed {
		return fmt.Errorf("%s: not a sealed pack", packName(id))
	}
	if err := l.files.Remove(packName(id)); err != nil {
		return err // it is still there, and says so to the next sweep
	}
	l.mu.Lock()
	delete(l.packs, id)
	l.mu.Unlock()
	p.release()
	return nil
}

func (l *packLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, p := range l.packs {
		delete(l.packs, id)
		p.release()
	}
	l.cur = nil
	if l.failed == nil {
		l.failed = errors.New("store is closed")
	}
}

// scan calls fn with each frame of a pack from an offset on: its header, its offset and
// its chunks' lengths as they stand, checked but for the payload. It returns where it
// stopped: at the end of the file, at an error of fn or gap, or at the first thing that is no
// frame, with an error that wraps errBadFrame. With gap not nil it tells gap what is no frame,
// and goes on at the next one.
func (l *packLog) scan(p *pack, from int64, gap func(from, to int64) error, fn func(h frameHeader, off int64, lengths []byte) error) (int64, error) {
	r := &windowReader{r: p.file}
	for off := max(from, packHeaderSize); ; {
		b, err := r.at(off, frameHeaderSize)
		if errors.Is(err, io.EOF) && len(b) == 0 {
			return off, nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return off, err
		}
		h, lengths, err := r.frame(b, off, l.marker)
		if errors.Is(err, errBadFrame) && gap != nil {
			next, ferr := r.find(off+1, l.marker)
			if ferr != nil {
				return off, ferr
			}
			if err := gap(off, next); err != nil {
				return off, err
			}
			off = next
			continue
		}
		if err != nil {
			return off, err
		}
		if err := fn(h, off, lengths); err != nil {
			return off, err
		}
		off += h.size()
	}
}

// stepOver is a gap for who only wants the frames that are whole.
func stepOver(int64, int64) error { return nil }

// windowReader reads a file in order, a large piece at a time, so that stepping over
// frames costs few system calls.
type windowReader struct {
	r    io.ReaderAt
	buf  []byte
	base int64
}

const windowSize = 256 << 10

// at returns n bytes at off, fewer with io.EOF at the file's end. They are valid until the next call.
func (w *windowReader) at(off int64, n int) ([]byte, error) {
	if off < w.base || off+int64(n) > w.base+int64(len(w.buf)) {
		if cap(w.buf) < max(windowSize, n) {
			w.buf = make([]byte, max(windowSize, n))
		}
		m, err := w.r.ReadAt(w.buf[:cap(w.buf)], off)
		w.buf, w.base = w.buf[:m], off
		if m < n {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.EOF
			}
			return w.buf, err
		}
	}
	i := off - w.base
	return w.buf[i : i+int64(n)], nil
}

// frame parses the frame whose first bytes are b.
func (w *windowReader) frame(b []byte, off int64, m marker) (frameHeader, []byte, error) {
	h, err := parseHeader(b, m)
	if err != nil {
		return h, nil, err
	}
	b, err = w.at(off, frameHeaderSize+h.lengths())
	if errors.Is(err, io.EOF) {
		return h, nil, fmt.Errorf("%w: cut off", errBadFrame)
	}
	if err != nil {
		return h, nil, err
	}
	return h, b[frameHeaderSize:], checkHeader(b, h)
}

// begins reports whether a whole header stands at off.
func (w *windowReader) begins(off int64, m marker) bool {
	b, err := w.at(off, frameHeaderSize)
	if err == nil {
		_, _, err = w.frame(b, off, m)
	}
	return err == nil
}

// find returns the offset of the next whole header at or after off, or of the file's end.
func (w *windowReader) find(off int64, m marker) (int64, error) {
	for {
		b, err := w.at(off, windowSize)
		if err != nil && !errors.Is(err, io.EOF) {
			return off, err
		}
		for i := 0; i+frameHeaderSize <= len(b); i++ {
			if marker(b[i:i+8]) != m {
				continue
			}
			at := off + int64(i)
			if w.begins(at, m) {
				return at, nil
			}
			b, _ = w.at(off, windowSize) // begins may have moved the window
		}
		if len(b) < windowSize {
			return off + int64(len(b)), nil
		}
		off += windowSize - frameHeaderSize
	}
}
