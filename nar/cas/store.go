package cas

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/klauspost/compress/zstd"

	"github.com/narfs/narfs/nar/chunk"
)

// Errors that callers test for.
var (
	// ErrNotFound says that there is no such key or object.
	ErrNotFound = errors.New("not found")
	// ErrFormat says that the store is of a version that this program does not know.
	ErrFormat = errors.New("unknown store format")
	// ErrCorrupt says that stored data is not what was written.
	ErrCorrupt = errors.New("corrupt")
	// ErrLocked says that another process has the store open.
	ErrLocked = errors.New("the store is open in another process")
	// ErrIndex says that the index is unusable; Open and RebuildIndex make it again.
	ErrIndex = errors.New("the index is unusable")
)

// Compression says how new chunks are stored.
type Compression uint8

// Ways to store new chunks. The first two are light: a sweep with Compress set compresses
// again, as CompressBest does, what was stored so.
const (
	CompressFast Compression = iota // zstd, about level 1
	CompressNone                    // as they are
	CompressBest                    // zstd, about level 11: ten times the work of CompressFast, 12 % smaller
)

// Options of a Store. The zero value is good.
type Options struct {
	// Chunks and FrameSize shape a new store; an existing one keeps its own. Zero means
	// 4/16/64 KiB and 128 KiB.
	Chunks    chunk.Params
	FrameSize int
	// CacheBytes bounds the decoded frames kept in memory; 0 means 12 MiB, enough to read in order.
	CacheBytes int64
	// PackSize is about where a pack is sealed; 0 means 256 MiB, at most 2 GiB.
	PackSize int64
	// Workers is how many goroutines hash and compress; 0 means one per processor.
	Workers int
	// Reserve is how much free space writes leave to the index, which cannot bear a full
	// disk; 0 means 96 MiB, negative means none.
	Reserve int64
	// Logger hears of repairs and damage; nil discards.
	Logger *slog.Logger
	// Replay hears of the bytes of the packs that Open has read and of all it must read, which are
	// many when the index is made again and few after a crash; it may be nil.
	Replay func(done, total int64)
	// Files replaces the packs' folder, for tests.
	Files Files
	// BootID names the present run of the system: what was written before has reached the disk if the name is another one,
	// or is lost. Nil means the system's own name; tests let it go down.
	BootID func() string
}

func (o Options) withDefaults(dir string) Options {
	if o.Chunks == (chunk.Params{}) {
		o.Chunks = chunk.Params{Min: 4 << 10, Avg: 16 << 10, Max: 64 << 10}
	}
	if o.FrameSize == 0 {
		o.FrameSize = 128 << 10
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 12 << 20
	}
	if o.PackSize == 0 {
		o.PackSize = 256 << 20
	}
	o.PackSize = min(o.PackSize, 2<<30)
	if o.Workers == 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Reserve == 0 {
		o.Reserve = 96 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Files == nil {
		o.Files = dirFiles{filepath.Join(dir, "packs")}
	}
	if o.BootID == nil {
		o.BootID = bootID
	}
	return o
}

// Store is an open content store. Its methods may be called concurrently. One process at
// a time may have a store open.
type Store struct {
	dir    string
	lock   *os.File // the folder, locked
	opts   Options
	cutter *chunk.Cutter
	fast   *zstd.Encoder
	best   sync.Pool // of *zstd.Encoder

	log     *packLog
	index   *index
	cache   *frameCache
	pending pending
	changes changedKeys
	damage  []error // found while opening

	batches, raws, packed, framed, hashed sync.Pool // buffers of imports: *batch, and *[]byte

	// sweeping guards the step in which a sweep decides that a chunk is dead: importers
	// look chunks up and pin what they found under its read half.
	sweeping sync.RWMutex
	marks    *marks             // of the running sweep, or nil
	imports  map[*pins]struct{} // running imports and what is staged
	importMu sync.Mutex         // guards imports
	oneSweep sync.Mutex         // one sweep at a time
	moved    atomic.Int64       // how often a sweep took chunks from their places
	// placing guards the step in which a chunk that the index has gets another place: importers
	// look up and pin under its read half, too. It is taken after sweeping.
	placing sync.RWMutex

	checked   position    // of the last checkpoint; this and the next one are the committer's while it runs
	unsynced  bool        // the file unsynced is there
	lazy      atomic.Bool // lazy commits may not be durable yet
	commits   chan *commit
	committer sync.WaitGroup
	closing   chan struct{}
	closeOnce sync.Once
	closeErr  error
}

// Open opens the store in dir and creates it if dir is empty or absent. After a crash it
// replays the end of the log. An index that is unusable is made again, as RebuildIndex does,
// and the logger is told. Among the errors are ErrLocked and ErrFormat.
func Open(dir string, opts Options) (*Store, error) {
	s, err := open(dir, opts, false)
	if !errors.Is(err, ErrIndex) {
		return s, err
	}
	opts.withDefaults(dir).Logger.Warn("the index is unusable and is made again from the packs", "store", dir, "error", err)
	return RebuildIndex(dir, opts)
}

// RebuildIndex opens the store in dir with an index made from the packs alone. It reads
// all of them; Options.Replay hears how far it is. The old index is removed first;
// interrupted, the next Open replays the packs all the same.
func RebuildIndex(dir string, opts Options) (*Store, error) {
	if _, err := os.Stat(filepath.Join(dir, "format")); err != nil {
		return nil, fmt.Errorf("rebuild: %w", err)
	}
	return open(dir, opts, true)
}

// open opens the store. With all set, the index is removed first and all packs are read.
func open(dir string, opts Options, all bool) (s *Store, err error) {
	opts = opts.withDefaults(dir)
	s = &Store{
		dir: dir, opts: opts, imports: map[*pins]struct{}{},
		commits: make(chan *commit), closing: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("content store %s: %w", dir, errors.Join(err, s.release()))
			s = nil
		}
	}()
	if err := os.MkdirAll(filepath.Join(dir, "packs"), 0o700); err != nil {
		return s, err
	}
	if s.lock, err = lockDir(dir); err != nil {
		return s, err
	}
	m, err := s.readFormat()
	if err != nil {
		return s, err
	}
	if err := s.checkUnsynced(); err != nil && (!all || !errors.Is(err, ErrIndex)) {
		return s, err
	}
	if all {
		if err := os.RemoveAll(filepath.Join(dir, "index")); err != nil {
			return s, err
		}
	}
	if s.cutter, err = chunk.NewCutter(s.opts.Chunks); err != nil {
		return s, err
	}
	if s.fast, err = newEncoder(zstd.SpeedFastest, opts.Workers); err != nil {
		return s, err
	}
	if s.index, err = openIndex(filepath.Join(dir, "index"), opts.Logger); err != nil {
		return s, err
	}
	if s.log, s.damage, err = openLog(opts.Files, m, opts.PackSize); err != nil {
		return s, err
	}
	if s.cache, err = newFrameCache(s.log, opts.CacheBytes); err != nil {
		return s, err
	}
	if s.index.fresh && !all && len(s.log.packs) > 0 {
		opts.Logger.Warn("the index is missing and is made again from the packs", "store", dir)
	}
	if err = s.replay(all); err != nil {
		return s, err
	}
	if s.unsynced {
		// Replay has synced what it found behind the last checkpoint.
		if err = s.unmarkUnsynced(); err != nil {
			return s, err
		}
	}
	for _, d := range s.damage {
		opts.Logger.Error("damage found", "store", dir, "error", d)
	}
	s.committer.Go(s.commitLoop)
	if !all && !s.index.fresh {
		return s, nil
	}
	s.index.merge.Store(true)
	if err = s.renewExtents(context.Background()); err != nil {
		close(s.closing)
		s.committer.Wait()
	}
	return s, err
}

// newEncoder makes an encoder for frames, which are independent of each other and have
// their own checksum.
func newEncoder(level zstd.EncoderLevel, workers int) (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(workers),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(maxFrameRaw), zstd.WithLowerEncoderMem(true))
}

// SetCacheBytes replaces Options.CacheBytes.
func (s *Store) SetCacheBytes(n int64) { s.cache.setLimit(n) }

// Damage returns what was found broken while opening.
func (s *Store) Damage() []error { return s.damage }

// Close ends running commits, writes a checkpoint if anything was changed, and closes the store.
// The store must not be used any more; imports that run must have ended.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		close(s.closing)
		s.committer.Wait()
		s.closeErr = s.finish()
		if err := s.release(); err != nil {
			s.closeErr = errors.Join(s.closeErr, err)
		}
	})
	return s.closeErr
}

func (s *Store) release() (err error) {
	if s.cache != nil {
		s.cache.close()
	}
	if s.log != nil {
		s.log.close()
	}
	if s.index != nil {
		err = s.index.close()
	}
	if s.fast != nil {
		err = errors.Join(err, s.fast.Close())
	}
	if s.lock != nil {
		err = errors.Join(err, unlockDir(s.lock))
	}
	return err
}

const formatLine = "narfs content store 1"

// readFormat reads the format file, or writes it for a new store, and returns the marker.
func (s *Store) readFormat() (m marker, err error) {
	name := filepath.Join(s.dir, "format")
	text, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return s.writeFormat(name)
	}
	if err != nil {
		return m, err
	}
	in := bufio.NewScanner(bytes.NewReader(text))
	if !in.Scan() || in.Text() != formatLine {
		return m, fmt.Errorf("%w: %s says %q, this program reads %q", ErrFormat, name, in.Text(), formatLine)
	}
	p := &s.opts.Chunks
	if in.Scan() {
		if _, err := fmt.Sscanf(in.Text(), "chunks %d %d %d frames %d marker %x", &p.Min, &p.Avg, &p.Max, &s.opts.FrameSize, (*bytesValue)(&m)); err == nil {
			return m, nil
		}
	}
	return m, fmt.Errorf("%w: %s: second line %q", ErrFormat, name, in.Text())
}

// bytesValue reads a marker in hexadecimal.
type bytesValue marker

// Scan implements fmt.Scanner.
func (v *bytesValue) Scan(state fmt.ScanState, _ rune) error {
	var b []byte
	if _, err := fmt.Fscanf(state, "%x", &b); err != nil {
		return err
	}
	if len(b) != len(v) {
		return errors.New("marker of a wrong length")
	}
	copy(v[:], b)
	return nil
}

func (s *Store) writeFormat(name string) (m marker, err error) {
	names, err := s.opts.Files.List()
	if err != nil {
		return m, err
	}
	if len(names) > 0 {
		return m, fmt.Errorf("%w: there are packs but no file %s", ErrFormat, name)
	}
	m = newMarker()
	p := s.opts.Chunks
	text := fmt.Sprintf("%s\nchunks %d %d %d frames %d marker %x\n", formatLine, p.Min, p.Avg, p.Max, s.opts.FrameSize, m[:])
	tmp := name + ".new"
	if err := writeSynced(tmp, text); err != nil {
		return m, err
	}
	if err := os.Rename(tmp, name); err != nil {
		return m, err
	}
	return m, syncDir(s.dir)
}

func writeSynced(name, text string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// room refuses to write when the disk is nearly full.
func (s *Store) room() error {
	if s.opts.Reserve < 0 {
		return nil
	}
	free, err := s.opts.Files.Free()
	if err != nil {
		return err
	}
	if free < s.opts.Reserve {
		return fmt.Errorf("%d MiB are free and the store keeps %d MiB for its index: %w", free>>20, s.opts.Reserve>>20, syscall.ENOSPC)
	}
	return nil
}
