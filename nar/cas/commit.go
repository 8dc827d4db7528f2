package cas

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/narfs/narfs/nar/chunk"
)

// commit is one request to the committer: records to write, or none to have the index
// learn of the chunks written so far.
type commit struct {
	recs       []record
	late       func() ([]record, error) // gives recs when the commit's turn has come
	checkpoint bool                     // also write a checkpoint
	lazy       bool                     // durable soon is enough
	relog      bool                     // the index knows the records, and another commit makes them durable: they come alone
	extents    []objectExtents          // to enter once recs are
	done       chan error               // buffered
}

const (
	// maxGroup bounds how many commits share one sync.
	maxGroup = 256
	// checkpointBytes is how much of the log may have to be replayed after a crash.
	checkpointBytes = 128 << 20
	// lazyTime is how long a lazy commit may take to become durable.
	lazyTime = time.Second
	// pendingChunks is when the index learns of chunks though nothing commits.
	pendingChunks = 16 << 10
)

var errClosed = errors.New("the store is closed")

func (s *Store) submit(ctx context.Context, c *commit) error {
	select {
	case s.commits <- c:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.closing:
		return errClosed
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// flush has the index learn of the chunks written so far.
func (s *Store) flush(ctx context.Context) error {
	return s.submit(ctx, &commit{done: make(chan error, 1)})
}

// commitLoop takes commits as they come; those that come while a sync runs share the next.
// All changes of the index pass through it, in the order of the log.
func (s *Store) commitLoop() {
	soon := time.NewTimer(lazyTime)
	defer soon.Stop()
	for {
		var group []*commit
		select {
		case c := <-s.commits:
			group = append(group, c)
		case <-soon.C:
			if _, err := s.settle(); err != nil {
				s.opts.Logger.Error("sync", "store", s.dir, "error", err)
			}
			continue
		case <-s.closing:
			return
		}
		var alone *commit
		for len(group) < maxGroup && group[0].late == nil && alone == nil {
			select {
			case c := <-s.commits:
				if c.late != nil {
					alone = c
				} else {
					group = append(group, c)
				}
				continue
			default:
			}
			break
		}
		before := s.unsynced
		s.commitGroup(group)
		if alone != nil {
			s.commitGroup([]*commit{alone})
		}
		if s.unsynced && !before {
			soon.Reset(lazyTime)
		}
		if end := s.log.tail(); end.pack != s.checked.pack || end.off-s.checked.off > checkpointBytes {
			if err := s.checkpoint(); err != nil {
				s.opts.Logger.Error("checkpoint", "store", s.dir, "error", err)
			}
		}
	}
}

// commitGroup writes, syncs and applies. One commit that cannot be written fails alone.
func (s *Store) commitGroup(group []*commit) {
	written := group[:0:0]
	for _, c := range group {
		if err := s.writeCommit(c); err != nil {
			c.done <- err
			continue
		}
		written = append(written, c)
	}
	if len(written) == 0 {
		return
	}
	if written[0].relog {
		s.changes.add(written[0].recs)
		written[0].done <- nil
		return
	}
	ready := s.ready
	if !slices.ContainsFunc(written, func(c *commit) bool { return !c.lazy }) {
		ready = s.readyLazily
	}
	known, chunks, err := ready()
	for _, c := range written {
		s.changes.add(c.recs)
	}
	if err == nil {
		err = s.enterGroup(chunks, written)
	}
	// Only now does the index know all that stands before that position: the records of the
	// whole group do.
	if err == nil && slices.ContainsFunc(written, func(c *commit) bool { return c.checkpoint }) {
		err = s.saveCheckpoint(known)
	}
	for _, c := range written {
		c.done <- err
	}
}

// objectExtents are the extents of an object, encoded.
type objectExtents struct {
	narHash [32]byte
	encoded []byte
}

// enterExtents has the index know where the contents of objects stand, of those that are there. Without them reading
// is slower, nothing else.
func (s *Store) enterExtents(all []objectExtents) {
	for _, e := range all {
		_, err := s.index.get(objectKey(e.narHash))
		if err == nil {
			err = s.index.putExtents(e.narHash, e.encoded)
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			s.opts.Logger.Warn("reading will be slower", "object", fmt.Sprintf("%x", e.narHash), "error", err)
		}
	}
}

// writeCommit appends a commit's records. A late one asks the index, so what stands before
// it in the group is applied first: late commits come alone.
func (s *Store) writeCommit(c *commit) (err error) {
	if c.late != nil {
		if c.recs, err = c.late(); err != nil {
			return err
		}
	}
	return s.writeRecords(c.recs)
}

// checkpoint makes the index durable. Only the committer and Close call it: between a sync
// of the log and the index there is no commit under way.
func (s *Store) checkpoint() error {
	known, err := s.settle()
	if err != nil {
		return err
	}
	return s.saveCheckpoint(known)
}

// saveCheckpoint writes down that the index knows all of the log before a position, unless it
// says so already.
func (s *Store) saveCheckpoint(known position) error {
	if known == s.checked {
		return nil
	}
	if err := s.index.checkpoint(known); err != nil {
		if errors.Is(err, errIndexGone) {
			s.log.fail(err) // nothing can be entered any more
		}
		return err
	}
	s.checked = known
	return nil
}

// finish writes the checkpoint from which the next Open goes on, if something was appended
// since the last one, and a mark: without it, damage to the last commit would be taken for a
// torn end. The mark need not be durable to be of use.
func (s *Store) finish() error {
	if s.log.tail() == s.checked {
		return nil
	}
	if err := s.checkpoint(); err != nil {
		return err
	}
	if err := s.log.append(appendMark(nil, s.log.marker, s.log.durableTo()), func(position) {}); err != nil {
		s.opts.Logger.Warn("no mark at the end of the log", "store", s.dir, "error", err)
	}
	return nil
}

// settle makes the log durable and enters the chunks that stand in it into the index, which
// knows all chunks before the returned position then.
func (s *Store) settle() (known position, err error) {
	known, chunks, err := s.ready()
	if err != nil {
		return known, err
	}
	return known, s.enter(chunks)
}

// ready makes the log durable and returns the chunks that stand in it and are to be entered into the index, which
// knows all chunks before the returned position then. The order matters: frames are
// appended meanwhile. The position is taken first, because what is appended after the turn
// of the pending set is not entered; the tail to sync last, because what is entered must
// be durable.
func (s *Store) ready() (known position, chunks map[chunk.ID]location, err error) {
	known = s.log.tail()
	chunks = s.pending.turn()
	if err := s.log.sync(s.log.tail()); err != nil {
		return known, nil, err
	}
	s.lazy.Store(false)
	if s.unsynced {
		if err := s.unmarkUnsynced(); err != nil {
			return known, nil, err
		}
	}
	return known, chunks, nil
}

// readyLazily is ready without the sync, which follows within lazyTime. Until then the index knows more
// than the disk, and a mark on the disk says so.
func (s *Store) readyLazily() (known position, chunks map[chunk.ID]location, err error) {
	if !s.unsynced {
		if ok, err := s.markUnsynced(); err != nil {
			return known, nil, err
		} else if !ok {
			return s.ready()
		}
	}
	s.lazy.Store(true)
	known = s.log.tail()
	return known, s.pending.turn(), nil
}

// enter enters chunks into the index.
func (s *Store) enter(chunks map[chunk.ID]location) error {
	err := s.moveKnown(chunks)
	if err == nil {
		err = s.index.putChunks(chunks)
	}
	return s.entered(err)
}

// entered ends all writing after an error: the index would never hear of what it missed.
func (s *Store) entered(err error) error {
	if err != nil {
		s.log.fail(err)
		return fmt.Errorf("index: %w", err)
	}
	return nil
}

// enterGroup enters chunks, and then what a group of commits changes: in one transaction, if that is little.
func (s *Store) enterGroup(chunks map[chunk.ID]location, group []*commit) error {
	if err := s.moveKnown(chunks); err != nil {
		return s.entered(err)
	}
	done, err := s.index.enterTogether(chunks, group)
	if done || err != nil {
		return s.entered(err)
	}
	if err := s.index.putChunks(chunks); err != nil {
		return s.entered(err)
	}
	for _, c := range group {
		if err := s.index.apply(c.recs); err != nil {
			return s.entered(err)
		}
		s.enterExtents(c.extents)
	}
	return nil
}

// writeRecords appends the frames of one commit to the log, next to each other.
func (s *Store) writeRecords(recs []record) error {
	if len(recs) == 0 {
		return nil
	}
	var buf []byte
	payload := s.log.durableTo().encode()
	count := uint32(0)
	emit := func(flags uint8) {
		h := frameHeader{kind: kindMeta, flags: flags, count: count, raw: uint32(len(payload)), stored: uint32(len(payload))}
		body := payload
		if z := s.fast.EncodeAll(payload, nil); worthIt(len(z), len(payload)) {
			h.codec, h.stored, body = codecZstd, uint32(len(z)), z
		}
		buf = appendFrame(buf, s.log.marker, h, nil, body)
		payload, count = payload[:metaPrefix], 0
	}
	for i, r := range recs {
		payload = appendRecord(payload, r)
		count++
		if i < len(recs)-1 && len(payload) > maxMetaRaw/4 {
			emit(flagMore)
		}
	}
	emit(0)
	if int64(len(buf)) > s.opts.PackSize/2 {
		return fmt.Errorf("commit of %d bytes is too large", len(buf))
	}
	return s.log.append(buf, func(position) {})
}

// worthIt reports whether a payload is stored compressed: it must save 3 %.
func worthIt(compressed, raw int) bool { return compressed < raw-raw/32 }
