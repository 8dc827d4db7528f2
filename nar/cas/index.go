package cas

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"github.com/narfs/narfs/nar/chunk"
)

// Spaces of the index's keys. Those of records are part of the format.
const (
	spaceOwner  = 'u' // a record: the owner's keys
	spaceObject = 'o' // a record: NAR hash → object
	spaceHoles  = 'h' // a record: pack → frames that are gone

	spaceChunk   = 'c' // index only: chunk ID → location
	spaceExtents = 'e' // index only: NAR hash, part → a piece of the object's extents
	spaceState   = 's' // index only: the checkpoint, the index's version
)

// location says where a chunk stands.
type location struct {
	frame position
	size  uint32 // of the whole frame
	ord   uint16 // which chunk of the frame it is
	at    uint32 // of the chunk in the decoded frame
	n     uint32 // bytes of the chunk
}

const locationSize = 19

func (l location) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, l.frame.pack)
	b = binary.LittleEndian.AppendUint32(b, l.frame.off)
	b = append(b, byte(l.size), byte(l.size>>8), byte(l.size>>16))
	b = binary.LittleEndian.AppendUint16(b, l.ord)
	return append(b, byte(l.n), byte(l.n>>8), byte(l.n>>16), byte(l.at), byte(l.at>>8), byte(l.at>>16))
}

func parseLocation(b []byte) (l location, err error) {
	if len(b) != locationSize {
		return l, fmt.Errorf("%w: chunk location of %d bytes in the index", ErrCorrupt, len(b))
	}
	l.frame = position{binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])}
	l.size = uint32(b[8]) | uint32(b[9])<<8 | uint32(b[10])<<16
	l.ord = binary.LittleEndian.Uint16(b[11:])
	l.n = uint32(b[13]) | uint32(b[14])<<8 | uint32(b[15])<<16
	l.at = uint32(b[16]) | uint32(b[17])<<8 | uint32(b[18])<<16
	return l, nil
}

func objectKey(narHash [32]byte) []byte { return append([]byte{spaceObject}, narHash[:]...) }

func chunkKey(id chunk.ID) []byte { return append([]byte{spaceChunk}, id[:]...) }

// index is the Badger database.
type index struct {
	db    *badger.DB
	seen  snapshots
	dir   os.FileInfo // its folder
	last  uint64      // the highest number of a table when it was opened
	fresh bool        // it was made when it was opened
	merge atomic.Bool // much was replaced: merge the tables when it is closed
}

// openIndex opens or creates the index. Values stay in the tree (no value log), blocks
// are not compressed (hits cost 3 µs instead of 11), tables have Bloom filters (misses 0.9
// instead of 6 µs), a block's checksum is compared whenever it is read (else a flipped bit
// could name another chunk of the same length), and memory is small: the log is what makes commits durable, so that
// the index only syncs at checkpoints. Who opens it holds the store's lock.
func openIndex(dir string, log *slog.Logger) (x *index, err error) {
	defer func() { err = indexError(err) }()
	defer guard(&err)
	opts := indexOptions(dir, log)
	last, fresh, err := checkIndex(opts)
	if err != nil {
		return nil, err
	}
	db, err := badger.Open(opts)
	for range killedCreates {
		if err == nil {
			break
		}
		db, err = badger.Open(opts)
	}
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	x = &index{db: db, seen: snapshots{db: db}, dir: info, last: last, fresh: fresh}
	if err := x.checkVersion(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return x, nil
}

// indexVersion is that of the keys and values that only the index has.
const indexVersion = 3

var versionKey = []byte{spaceState, 'v'} //nolint:gochecknoglobals // a constant

// checkVersion refuses an index that another version wrote; the first thing in a new one is its version.
func (x *index) checkVersion() error {
	b, err := x.get(versionKey)
	if errors.Is(err, ErrNotFound) {
		empty := true
		err = x.scan(nil, func([]byte, []byte) error {
			empty = false
			return errStop
		})
		if empty && err == nil {
			return x.apply([]record{{versionKey, []byte{indexVersion}}})
		}
		if err != nil && !errors.Is(err, errStop) {
			return err
		}
	}
	if err == nil && len(b) == 1 && b[0] == indexVersion {
		return nil
	}
	if err == nil || errors.Is(err, errStop) {
		err = fmt.Errorf("it is of version %d, this program makes %d", b, indexVersion)
	}
	return err
}

func indexOptions(dir string, log *slog.Logger) badger.Options {
	return badger.DefaultOptions(dir).
		WithLogger(badgerLog{log}).
		WithMetricsEnabled(false).
		WithMemTableSize(16 << 20).
		WithNumMemtables(2).
		WithValueThreshold(1 << 20).
		WithValueLogFileSize(1 << 20).
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithBloomFalsePositive(0.01).
		WithDetectConflicts(false).
		WithNumVersionsToKeep(1).
		WithNumCompactors(2).
		WithCompactL0OnClose(false).
		WithChecksumVerificationMode(options.OnBlockRead).
		WithSyncWrites(false).
		WithBypassLockGuard(true)
}

// killedCreates is how many files a killed process can have created and not written to: a
// value log and a memtable's. Badger gives such a file its header, and fails for this once.
const killedCreates = 2

// guard turns a panic of Badger into an error: it cuts damaged blocks into pieces before it
// compares their checksums. Deferred by every method that reads tables.
func guard(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%w: %v", ErrIndex, r)
	}
}

// get returns the value of a key, or ErrNotFound.
func (x *index) get(key []byte) (value []byte, err error) {
	defer guard(&err)
	err = x.seen.view(func(txn *badger.Txn) error {
		item, err := txn.Get(key)
		if err != nil {
			return err
		}
		value, err = item.ValueCopy(nil)
		return err
	})
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, ErrNotFound
	}
	return value, err
}

// scanMany calls fn with every key of some prefixes.
func (x *index) scanMany(prefixes [][]byte, fn func(i int, key []byte) error) (err error) {
	defer guard(&err)
	return x.seen.view(func(txn *badger.Txn) error {
		opts := badger.DefaultIteratorOptions
		opts.PrefetchValues = false
		it := txn.NewIterator(opts)
		defer it.Close()
		for i, prefix := range prefixes {
			for it.Seek(prefix); it.ValidForPrefix(prefix); it.Next() {
				if err := fn(i, it.Item().Key()); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// getMany returns the values of keys, nil for those that are not there.
func (x *index) getMany(keys [][]byte) (values [][]byte, err error) {
	defer guard(&err)
	values = make([][]byte, len(keys))
	err = x.seen.view(func(txn *badger.Txn) error {
		for i, key := range keys {
			item, err := txn.Get(key)
			if errors.Is(err, badger.ErrKeyNotFound) {
				continue
			}
			if err == nil {
				values[i], err = item.ValueCopy([]byte{})
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return values, err
}

// present reports which keys are there.
func (x *index) present(keys [][]byte) (there []bool, err error) {
	defer guard(&err)
	there = make([]bool, len(keys))
	err = x.seen.view(func(txn *badger.Txn) error {
		for i, key := range keys {
			_, err := txn.Get(key)
			if err != nil && !errors.Is(err, badger.ErrKeyNotFound) {
				return err
			}
			there[i] = err == nil
		}
		return nil
	})
	return there, err
}

// scan calls fn with every key of a prefix, in order, from one snapshot.
func (x *index) scan(prefix []byte, fn func(key, value []byte) error) (err error) {
	defer guard(&err)
	return x.seen.view(func(txn *badger.Txn) error {
		o := badger.DefaultIteratorOptions
		o.Prefix = prefix
		o.PrefetchValues = false // they stand beside the keys; it would start a goroutine for each
		it := txn.NewIterator(o)
		defer it.Close()
		for it.Seek(prefix); it.ValidForPrefix(prefix); it.Next() {
			item := it.Item()
			err := item.Value(func(v []byte) error { return fn(item.Key(), v) })
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// lookup asks for the locations of many chunks in one snapshot; absent ones have size 0.
func (x *index) lookup(ids []chunk.ID, found []location) (err error) {
	defer guard(&err)
	return x.seen.view(func(txn *badger.Txn) error {
		var key [1 + len(chunk.ID{})]byte
		key[0] = spaceChunk
		for i, id := range ids {
			copy(key[1:], id[:])
			item, err := txn.Get(key[:])
			if errors.Is(err, badger.ErrKeyNotFound) {
				found[i] = location{}
				continue
			}
			if err != nil {
				return err
			}
			err = item.Value(func(v []byte) (err error) {
				found[i], err = parseLocation(v)
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// putChunks enters locations. The entries need not be atomic: the log's replay makes the
// same again.
func (x *index) putChunks(m map[chunk.ID]location) error {
	defer x.seen.changed()
	wb := x.db.NewWriteBatch()
	defer wb.Cancel()
	for id, loc := range m {
		if err := wb.Set(chunkKey(id), loc.append(make([]byte, 0, locationSize))); err != nil {
			return err
		}
	}
	return wb.Flush()
}

// apply makes the changes of one commit; objects that go take their extents along. They become visible at once unless they are more
// than a Badger transaction holds (some 10,000), in which case they become visible in order.
func (x *index) apply(recs []record) error {
	for len(recs) > 0 {
		txn := x.db.NewTransaction(true)
		n := 0
		for ; n < len(recs); n++ {
			r := recs[n]
			var err error
			if r.value == nil {
				err = txn.Delete(r.key)
			} else {
				err = txn.Set(r.key, r.value)
			}
			if errors.Is(err, badger.ErrTxnTooBig) && n > 0 {
				break
			}
			if err != nil {
				txn.Discard()
				return err
			}
		}
		err := txn.Commit()
		x.seen.changed()
		if err != nil {
			return err
		}
		var gone [][32]byte
		for _, r := range recs[:n] {
			if r.value == nil && r.key[0] == spaceObject && len(r.key) == 1+len(chunk.ID{}) {
				gone = append(gone, [32]byte(r.key[1:]))
			}
		}
		if err := x.dropExtents(gone...); err != nil {
			return err
		}
		recs = recs[n:]
	}
	return nil
}

// togetherMost is how many keys enterTogether takes.
const togetherMost = 2048

// enterTogether enters chunks and what commits change in one transaction, unless that is much, or takes objects away: then it
// does nothing and reports false. Each transaction passes through several of Badger's goroutines.
func (x *index) enterTogether(chunks map[chunk.ID]location, group []*commit) (done bool, err error) {
	keys := len(chunks)
	for _, c := range group {
		keys += len(c.recs) + len(c.extents)
		for _, r := range c.recs {
			if r.value == nil && r.key[0] == spaceObject {
				return false, nil
			}
		}
		for _, e := range c.extents {
			if len(e.encoded) > extentsPart {
				return false, nil
			}
		}
	}
	if keys == 0 {
		return true, nil
	}
	if keys > togetherMost {
		return false, nil
	}
	txn := x.db.NewTransaction(true)
	defer txn.Discard()
	for id, loc := range chunks {
		if err := txn.Set(chunkKey(id), loc.append(make([]byte, 0, locationSize))); err != nil {
			return false, tooBig(err)
		}
	}
	for _, c := range group {
		for _, r := range c.recs {
			if r.value == nil {
				err = txn.Delete(r.key)
			} else {
				err = txn.Set(r.key, r.value)
			}
			if err != nil {
				return false, tooBig(err)
			}
		}
		for _, e := range c.extents {
			if _, err := txn.Get(objectKey(e.narHash)); errors.Is(err, badger.ErrKeyNotFound) {
				continue // deleted meanwhile
			}
			// Of an object that was there before there may be more parts.
			if _, err := txn.Get(extentsKey(e.narHash, 1)); !errors.Is(err, badger.ErrKeyNotFound) {
				return false, err
			}
			key := extentsKey(e.narHash, 0)
			if len(e.encoded) == 0 {
				err = txn.Delete(key)
			} else {
				err = txn.Set(key, e.encoded)
			}
			if err != nil {
				return false, tooBig(err)
			}
		}
	}
	defer x.seen.changed()
	return true, txn.Commit()
}

// tooBig returns nil for the error of a transaction that holds no more.
func tooBig(err error) error {
	if errors.Is(err, badger.ErrTxnTooBig) {
		return nil
	}
	return err
}

// extentsPart is how much of an object's extents stands under one key.
const extentsPart = 256 << 10

func extentsKey(narHash [32]byte, part int) []byte {
	return append(append([]byte{spaceExtents}, narHash[:]...), byte(part))
}

// extents returns the extents of an object, nil if there are none, or no good ones.
func (x *index) extents(narHash [32]byte, content int64) (*extents, error) {
	b, err := x.get(extentsKey(narHash, 0))
	size, k := binary.Uvarint(b)
	for part := 1; err == nil && k > 0 && uint64(len(b)-k) < size; part++ {
		var more []byte
		more, err = x.get(extentsKey(narHash, part))
		b = append(b, more...)
	}
	if errors.Is(err, ErrNotFound) || err == nil && (k <= 0 || uint64(len(b)-k) != size) {
		return nil, nil //nolint:nilnil // says what it means, see above
	}
	if err != nil {
		return nil, err
	}
	e, err := parseExtents(b[k:], content)
	if err != nil {
		return nil, nil //nolint:nilnil,nilerr // they can be made again
	}
	return e, nil
}

// putExtents sets the extents of an object, encoded; nil takes them away.
func (x *index) putExtents(narHash [32]byte, b []byte) error {
	if err := x.dropExtents(narHash); err != nil {
		return err
	}
	for part := 0; len(b) > 0; part++ {
		n := min(len(b), extentsPart)
		if err := x.apply([]record{{extentsKey(narHash, part), b[:n]}}); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// dropExtents deletes the extents of objects.
func (x *index) dropExtents(objects ...[32]byte) error {
	if len(objects) == 0 {
		return nil
	}
	var keys []record
	err := x.seen.view(func(txn *badger.Txn) error {
		for _, h := range objects {
			for part := 0; ; part++ { // they are numbered without gaps
				key := extentsKey(h, part)
				if _, err := txn.Get(key); errors.Is(err, badger.ErrKeyNotFound) {
					break
				} else if err != nil {
					return err
				}
				keys = append(keys, record{key: key})
			}
		}
		return nil
	})
	if err != nil || len(keys) == 0 {
		return err
	}
	return x.apply(keys)
}

var checkpointKey = []byte{spaceState, 'c'} //nolint:gochecknoglobals // a constant

// checkpoint makes the index durable and notes that it knows all of the log before at, and the
// highest number of a table: tables come and go, but their numbers rise.
func (x *index) checkpoint(at position) error {
	if x.gone() {
		return errIndexGone
	}
	if err := x.db.Sync(); err != nil {
		return err
	}
	if err := x.syncMemtables(); err != nil {
		return err
	}
	last := uint64(0)
	for _, t := range x.db.Tables() {
		last = max(last, t.ID)
	}
	return x.apply([]record{{checkpointKey, binary.LittleEndian.AppendUint64(at.encode(), last)}})
}

// syncMemtables makes the logs of all memtables durable. Badger's Sync does that for the
// one that is written to, not for those that wait to become tables.
func (x *index) syncMemtables() error {
	names, err := filepath.Glob(filepath.Join(x.db.Opts().Dir, "*.mem"))
	if err != nil {
		return err
	}
	for _, name := range names {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if errors.Is(err, os.ErrNotExist) {
			continue // a table now, and durable
		}
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (x *index) lastCheckpoint() (at position, err error) {
	b, err := x.get(checkpointKey)
	if errors.Is(err, ErrNotFound) {
		return position{1, packHeaderSize}, nil
	}
	if err == nil && len(b) != 16 {
		err = fmt.Errorf("%w: checkpoint of %d bytes", ErrIndex, len(b))
	}
	if err != nil {
		return at, err
	}
	if last := binary.LittleEndian.Uint64(b[8:]); x.last < last {
		return at, fmt.Errorf("%w: it has lost table %d", ErrIndex, last)
	}
	return parsePosition(b), nil
}

// badgerLog passes Badger's warnings and errors on.
type badgerLog struct{ log *slog.Logger }

func (l badgerLog) Errorf(format string, args ...any) {
	l.log.Error("index", "badger", fmt.Sprintf(format, args...))
}

func (l badgerLog) Warningf(format string, args ...any) {
	l.log.Warn("index", "badger", fmt.Sprintf(format, args...))
}
func (badgerLog) Infof(string, ...any)  {}
func (badgerLog) Debugf(string, ...any) {}

// pending knows the chunks that stand in the log and not yet in the index. Chunks stay
// one generation longer than they must, so that a look-up in the index that was answered
// "absent" can be asked again here.
type pending struct {
	mu       sync.RWMutex
	cur, old map[chunk.ID]location
}

// add enters the chunks of a frame for the import that has the pins. A chunk that is there
// already, since another import stored it at the same time, stays where it is: whoever found
// it there relies on that frame alone. This import then relies on it too.
func (p *pending) add(ids []chunk.ID, at position, size uint32, lens []uint32, pins *pins) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cur == nil {
		p.cur = map[chunk.ID]location{}
	}
	off := uint32(0)
	for i, id := range ids {
		loc, ok := p.cur[id]
		if !ok {
			loc, ok = p.old[id]
		}
		if ok {
			pins.add(loc.frame)
		} else {
			p.cur[id] = location{frame: at, size: size, ord: uint16(i), at: off, n: lens[i]}
		}
		off += lens[i]
	}
}

func (p *pending) get(id chunk.ID) (location, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if loc, ok := p.cur[id]; ok {
		return loc, true
	}
	loc, ok := p.old[id]
	return loc, ok
}

// turn begins a new generation and returns the chunks that the index must learn now. The caller turns
// again only after it has.
func (p *pending) turn() map[chunk.ID]location {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.cur) > 0 {
		p.old, p.cur = p.cur, nil
		return p.old
	}
	return nil
}

// forget drops the generation that the index knows already.
func (p *pending) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.old = nil
}

func (p *pending) len() int {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return len(p.cur)
}
