package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/narfs/narfs/daemon/db"
	"github.com/narfs/narfs/daemon/lock"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/nar"
	"github.com/narfs/narfs/nar/cas"
)

// Options of a Store. The zero value is good.
type Options struct {
	// StoreDir is the directory that paths name. A store keeps the one that it was created with; "" means that one, or
	// nix.DefaultStoreDir for a new store. Another one than the store has is an error.
	StoreDir nix.StoreDir
	// What says what the process does, for others who find the state directory in use.
	What string
	// Content is for the content store; its Logger is set from Logger if nil.
	Content cas.Options
	// RebuildIndex makes the content store's index again from its packs, which takes a while. Damaged chunks are not in
	// it then, so that importing the paths concerned again brings them back.
	RebuildIndex bool
	// Limits of the entries of one NAR; zero means nar's defaults.
	Limits nar.Limits
	// Logger hears of repairs and damage; nil discards.
	Logger *slog.Logger
	// Now is the clock for registration times; nil means time.Now.
	Now func() time.Time
}

// Store is an open store. Its methods may be called concurrently. One process at a time may have a state directory open.
type Store struct {
	dir      string
	storeDir nix.StoreDir
	opts     Options
	log      *slog.Logger
	owner    *lock.Owner
	content  *cas.Store
	db       *db.DB
	locks    lock.Table

	removal    sync.RWMutex  // see the package comment
	collecting chan struct{} // has an element while a collection runs
	slots      slots
	pins       pins
	handles    handles
	watches    watches
	totals     totals
	modulos    memo
	realising  sync.Mutex // held while a realisation is recorded; comes before removal

	closeOnce sync.Once
	closeErr  error
}

// Open opens the store in a state directory, and creates both if they are not there. Among its errors are
// *lock.OwnedError and those of cas.Open.
func Open(dir string, opts Options) (s *Store, err error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Content.Logger == nil {
		opts.Content.Logger = opts.Logger
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s = &Store{dir: dir, opts: opts, log: opts.Logger, collecting: make(chan struct{}, 1)}
	defer func() {
		if err != nil {
			err = fmt.Errorf("open store: %w", errors.Join(err, s.release()))
			s = nil
		}
	}()
	if s.owner, err = lock.Own(dir, opts.What); err != nil {
		return s, err
	}
	if err := s.clearTemp(); err != nil {
		return s, err
	}
	if err := s.openContent(filepath.Join(dir, "store")); err != nil {
		return s, err
	}
	s.db = db.New(s.content, cas.ErrNotFound)
	if err := s.readFormat(); err != nil {
		return s, err
	}
	next, err := s.db.Slots()
	if err != nil {
		return s, err
	}
	s.slots.init(next)
	s.handles.init()
	s.totals.init()
	return s, nil
}

// patience is how often, in steps of patienceStep, a content store is tried that seems to be in use.
const (
	patience     = 40
	patienceStep = 50 * time.Millisecond
)

func (s *Store) openContent(dir string) (err error) {
	tick := time.NewTicker(patienceStep)
	defer tick.Stop()
	for range patience {
		if s.opts.RebuildIndex {
			s.content, err = cas.RebuildIndex(dir, s.opts.Content)
		} else {
			s.content, err = cas.Open(dir, s.opts.Content)
		}
		if !errors.Is(err, cas.ErrLocked) {
			return err
		}
		// We are the owner of the state directory, so this is only a child that the last owner was just starting when he was
		// killed: it has copies of his descriptors until its exec.
		<-tick.C
	}
	return err
}

// Close closes the store, which must not be in use any more. It may be called more than once.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.watches.close()
		s.totals.close()
		if err := s.release(); err != nil {
			s.closeErr = fmt.Errorf("close store: %w", err)
		}
	})
	return s.closeErr
}

func (s *Store) release() (err error) {
	if s.content != nil {
		err = s.content.Close()
	}
	if s.owner != nil {
		err = errors.Join(err, s.owner.Release())
	}
	return err
}

// Fields of the store itself in its database.
const (
	fieldFormat   = "format"
	fieldStoreDir = "store-dir"
	formatVersion = "1"
)

// readFormat checks what the store says of itself, or writes it for a new one.
func (s *Store) readFormat() error {
	version, err := s.db.Meta(fieldFormat)
	if errors.Is(err, db.ErrNotFound) {
		return s.writeFormat()
	}
	if err != nil {
		return err
	}
	if version != formatVersion {
		return fmt.Errorf("%w: %s has format %q of records, this program knows %q", cas.ErrFormat, s.dir, version, formatVersion)
	}
	recorded, err := s.db.Meta(fieldStoreDir)
	if err != nil {
		return err
	}
	if s.storeDir, err = nix.ParseStoreDir(recorded); err != nil {
		return err
	}
	if s.opts.StoreDir != "" && s.opts.StoreDir != s.storeDir {
		return fmt.Errorf("%s is a store for %s and not for %s: choose another state directory", s.dir, s.storeDir, s.opts.StoreDir)
	}
	return nil
}

func (s *Store) writeFormat() (err error) {
	if s.opts.StoreDir == "" {
		s.opts.StoreDir = nix.DefaultStoreDir
	}
	if s.storeDir, err = nix.ParseStoreDir(string(s.opts.StoreDir)); err != nil {
		return err
	}
	var b cas.Batch
	db.PutMeta(&b, fieldStoreDir, string(s.storeDir))
	db.PutMeta(&b, fieldFormat, formatVersion)
	return s.content.Commit(context.Background(), &b)
}

// Dir returns the directory that the store's paths name.
func (s *Store) Dir() nix.StoreDir { return s.storeDir }

// SetCacheBytes bounds the decoded contents kept in memory, for who will read often: see cas.Options.
func (s *Store) SetCacheBytes(n int64) { s.content.SetCacheBytes(n) }

// StateDir returns the state directory.
func (s *Store) StateDir() string { return s.dir }

// Locks returns the path locks that are held.
func (s *Store) Locks() []lock.Info { return s.locks.List() }

// print returns a path as people and Nix's error texts have it.
func (s *Store) print(p nix.StorePath) string { return s.storeDir.Path(p) }
