package cas

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
)

// checkIndex looks at the files of an index before Badger does. Badger ends the process for a
// table that is cut off; and for a MANIFEST that is missing or is an older one, it takes the
// index for an empty or an older one and deletes the tables that it does not know. It returns the
// highest number of a table, and for an index that does not exist yet that it is fresh.
func checkIndex(opts badger.Options) (last uint64, fresh bool, err error) {
	defer guard(&err)
	ents, err := os.ReadDir(opts.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return 0, true, nil
	}
	if err != nil {
		return 0, false, err
	}
	tables, closed := map[uint64]bool{}, true
	for _, e := range ents {
		if id, ok := table.ParseFileID(e.Name()); ok {
			tables[id] = true
		}
		closed = closed && filepath.Ext(e.Name()) != ".mem" // a memtable's, which Close turns into a table
	}
	f, err := os.Open(filepath.Join(opts.Dir, badger.ManifestFilename))
	if errors.Is(err, os.ErrNotExist) && len(tables) == 0 && closed {
		return 0, true, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer func() { _ = f.Close() }() // only read
	manifest, size, err := badger.ReplayManifestFile(f, opts.ExternalMagicVersion, opts)
	if err != nil {
		return 0, false, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, false, err
	}
	for id := range manifest.Tables {
		if err := checkTable(table.NewFilename(id, opts.Dir)); err != nil {
			return 0, false, err
		}
		delete(tables, id)
		last = max(last, id)
	}
	// A crash leaves such things, too, and Badger knows what they are then.
	if closed && (info.Size() != size || len(tables) > 0) {
		return 0, false, fmt.Errorf("%s has lost its end: %d tables are not in it", f.Name(), len(tables))
	}
	return last, false, nil
}

// checkTable does what Badger does when it opens a table, which panics if it is not one.
func checkTable(name string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
	}()
	defer guard(&err)
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	data, unmap, err := mapFile(f)
	if err != nil {
		return err
	}
	defer unmap()
	t, err := table.OpenInMemoryTable(data, 0, &table.Options{Compression: options.None, ChkMode: options.OnBlockRead})
	if err != nil {
		return err
	}
	return checkRecords(t)
}

// checkRecords reads what a table has of records, which are few compared with the chunks: Badger
// takes a damaged block for one without keys, and a path in it would not be valid any more.
func checkRecords(t *table.Table) error {
	if t.Biggest()[0] <= spaceChunk {
		return nil
	}
	it := t.NewIterator(table.NOCACHE)
	defer func() { _ = it.Close() }() // it always succeeds
	var last []byte
	for it.Seek(y.KeyWithTs([]byte{spaceChunk + 1}, math.MaxUint64)); it.Valid(); it.Next() {
		last = it.Key()
	}
	if !bytes.Equal(last, t.Biggest()) {
		return errors.New("a block with records is damaged")
	}
	return nil
}

// indexError makes an error of opening the index an ErrIndex, unless it is not the index that is to
// blame. Badger hands errors on as text.
func indexError(err error) error {
	if err == nil || errors.Is(err, ErrIndex) {
		return err
	}
	others := []syscall.Errno{
		syscall.EACCES, syscall.EPERM, syscall.EROFS, syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM,
	}
	if slices.ContainsFunc(others, func(e syscall.Errno) bool { return strings.Contains(err.Error(), e.Error()) }) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrIndex, err)
}

// errIndexGone says that somebody has removed the index of an open store.
var errIndexGone = errors.New("the index's folder was removed while the store was open; the next Open makes the index again")

// gone reports whether the folder was removed, or another one put in its place.
func (x *index) gone() bool {
	now, err := os.Stat(x.db.Opts().Dir)
	return errors.Is(err, os.ErrNotExist) || err == nil && !os.SameFile(now, x.dir)
}

// goneLook is how often is looked, while the index is being closed, whether it is there.
const goneLook = 200 * time.Millisecond

// close closes the index. If its folder was removed, or is removed meanwhile, Badger would try for ever to write there: its
// memory is given up then, and what tries is left to the end of the process.
func (x *index) close() error {
	if x.gone() {
		return errIndexGone
	}
	done := make(chan error, 1)
	go func() { done <- x.finish() }()
	tick := time.NewTicker(goneLook)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			if x.gone() {
				return errIndexGone
			}
		}
	}
}

// finish has Badger write what it has in memory.
func (x *index) finish() error {
	x.seen.changed()
	if err := x.db.Close(); err != nil {
		return err
	}
	if x.merge.Load() {
		if err := mergeTables(x.db.Opts()); err != nil {
			return err
		}
	}
	return x.removeValueLogs()
}

// mergeTables merges what Badger, which is closed, wrote last with what is older. What was replaced goes: after a sweep
// that moved everything the index takes less than half. Badger does not merge the youngest tables unless they are many or
// it closes, and is only then sure to have written what was in memory.
func mergeTables(opts badger.Options) error {
	db, err := badger.Open(opts.WithCompactL0OnClose(true)) // does what Flatten leaves when there is no older one
	if err != nil {
		return err
	}
	return errors.Join(db.Flatten(1), db.Close())
}

// removeValueLogs removes the value logs, in which there never is a value: Badger begins one
// whenever it is opened.
func (x *index) removeValueLogs() error {
	const header = 20
	names, err := filepath.Glob(filepath.Join(x.db.Opts().Dir, "*.vlog"))
	for _, name := range names {
		info, serr := os.Stat(name)
		if serr == nil && info.Size() <= header {
			serr = os.Remove(name)
		}
		err = errors.Join(err, serr)
	}
	return err
}
