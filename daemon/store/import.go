package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	"github.com/narfs/narfs/daemon/db"
	"github.com/narfs/narfs/daemon/lock"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/wire"
	"github.com/narfs/narfs/nar"
	"github.com/narfs/narfs/nar/cas"
)

// Compression says how new contents are stored: see package cas.
type Compression = cas.Compression

// ImportOptions of one import. The zero value trusts whoever sends the path.
type ImportOptions struct {
	// Holder says who imports, for the list of locks.
	Holder string
	// RequireSignature refuses a path that is neither content-addressed nor signed by one of Keys.
	RequireSignature bool
	Keys             []nix.PublicKey
	// Repair stores the contents of a valid path again. They must be the same.
	Repair bool
	// Compression of what is new to the store.
	Compression Compression
	// Pins, if not nil, get what is imported and what it refers to, before it becomes valid.
	Pins *Pins
	// Lazy says that the path need not be durable when Import returns: see Flush.
	Lazy bool
	// LockTimeout is how long to wait for somebody else who imports the same path; 0 means for ever.
	LockTimeout time.Duration
}

// staging returns how the contents are to be stored. Tap sees the NAR.
func (o ImportOptions) staging(tap func([]byte)) cas.IngestOptions {
	return cas.IngestOptions{Tap: tap, Mend: o.Repair, Compression: o.Compression}
}

func (o ImportOptions) holder() string {
	if o.Holder == "" {
		return "import"
	}
	return o.Holder
}

// Import makes a path valid, with one NAR read from r: exactly one if r is a *wire.Reader, also if the path is valid
// already and the NAR only skipped. NarHash, NarSize and RegistrationTime are found out if they are zero. If somebody else
// imports the same path, Import waits until he is done, and takes his result if there is one.
//
// Errors are *MismatchError, *RefusedError, *NotValidError for a reference, *nar.FormatError, those of r and those of writing. Nothing of
// the path is visible after one.
func (s *Store) Import(ctx context.Context, info nix.PathInfo, r io.Reader, opts ImportOptions) error {
	src := wire.NewReader(r)
	opts.pin(info)
	held, err := s.lock(ctx, info.Path, opts)
	if err != nil {
		return s.importError(info.Path, err)
	}
	defer held.Unlock()
	old, err := s.db.Get(info.Path)
	switch {
	case err == nil && opts.Repair:
		return s.replace(ctx, old, src, opts)
	case err == nil:
		return s.importError(info.Path, skipNAR(ctx, src, s.opts.Limits))
	case !errors.Is(err, db.ErrNotFound):
		return s.importError(info.Path, err)
	}
	if err := s.checkClaims(&info, opts); err != nil {
		return err
	}
	reg, err := s.stage(ctx, info, src, opts)
	if err != nil {
		return s.importError(info.Path, err)
	}
	defer reg.staged.Discard()
	return s.importError(info.Path, s.register(ctx, []*registration{reg}, opts.Lazy))
}

// Flush returns when all paths that lazy imports made valid are durable, as they are by themselves within a second, or when a later
// import that is not lazy has ended. They survive the end of the process in any case.
func (s *Store) Flush(ctx context.Context) error { return s.content.Flush(ctx) }

// pin pins what is about to be imported.
func (o ImportOptions) pin(info nix.PathInfo) {
	if o.Pins != nil {
		o.Pins.Add(info.Path)
		o.Pins.Add(info.References...)
	}
}

// lock takes the lock of a path that is to be imported.
func (s *Store) lock(ctx context.Context, p nix.StorePath, opts ImportOptions) (*lock.Held, error) {
	if opts.LockTimeout > 0 {
		timeout := &LockTimeoutError{Path: s.print(p), After: opts.LockTimeout}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, opts.LockTimeout, timeout)
		defer cancel()
		held, err := s.locks.Lock(ctx, p, opts.holder())
		if errors.Is(err, timeout) {
			timeout.By = s.locks.Holder(p)
		}
		return held, err
	}
	return s.locks.Lock(ctx, p, opts.holder())
}

// importError says which path an error is about, unless it does so itself.
func (s *Store) importError(p nix.StorePath, err error) error {
	var mismatch *MismatchError
	var refused *RefusedError
	if err == nil || errors.As(err, &mismatch) || errors.As(err, &refused) || errors.Is(err, ErrNotValid) {
		return err
	}
	return fmt.Errorf("import path '%s': %w", s.print(p), err)
}

// skipNAR reads one NAR.
func skipNAR(ctx context.Context, src *wire.Reader, lim nar.Limits) error {
	nr := nar.NewReader(src, lim)
	for {
		_, err := nr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// stage stores the contents of a path and compares them with its info, whose gaps it fills.
func (s *Store) stage(ctx context.Context, info nix.PathInfo, src io.Reader, opts ImportOptions) (reg *registration, err error) {
	ca := newCAHash(info)
	st, err := s.ingest(ctx, src, opts.staging(ca.tap()), int64(min(info.NarSize, math.MaxInt64)))
	if errors.Is(err, nar.ErrSize) {
		err = &MismatchError{What: "size", Path: s.print(info.Path), Specified: strconv.FormatUint(info.NarSize, 10), Got: "more"}
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			st.Discard()
		}
	}()
	reg = &registration{info: info, staged: st}
	return reg, s.compare(ctx, &reg.info, st, ca)
}

// compare holds the contents against the info and fills its gaps.
func (s *Store) compare(ctx context.Context, info *nix.PathInfo, st *cas.Staged, ca *caHash) error {
	got := st.Info()
	hash := nix.NewSHA256(got.NarHash)
	if info.NarHash.IsZero() {
		info.NarHash = hash
	}
	if info.NarHash != hash {
		return &MismatchError{What: "hash", Path: s.print(info.Path), Specified: info.NarHash.String(), Got: hash.String()}
	}
	if info.NarSize == 0 {
		info.NarSize = uint64(got.NarSize)
	}
	if info.NarSize != uint64(got.NarSize) {
		return &MismatchError{
			What: "size", Path: s.print(info.Path),
			Specified: strconv.FormatUint(info.NarSize, 10), Got: strconv.FormatInt(got.NarSize, 10),
		}
	}
	if info.RegistrationTime == 0 {
		info.RegistrationTime = s.opts.Now().Unix()
	}
	if info.CA.IsZero() {
		return nil
	}
	if got, err := ca.sum(ctx, st); err != nil {
		return err
	} else if got != info.CA.Hash {
		return &MismatchError{What: "ca hash", Path: s.print(info.Path), Specified: info.CA.Hash.String(), Got: got.String()}
	}
	if !info.IsContentAddressed(s.storeDir) {
		return &RefusedError{s.print(info.Path), "to the Nix store because it claims to be content-addressed but isn't"}
	}
	return nil
}

// checkClaims looks at what can be seen without the contents, and puts references and signatures in order.
func (s *Store) checkClaims(info *nix.PathInfo, opts ImportOptions) error {
	if info.Path.IsZero() {
		return errors.New("import: no path")
	}
	if !info.NarHash.IsZero() && info.NarHash.Algo() != nix.SHA256 {
		return fmt.Errorf("import path '%s': its NAR hash is of %v and must be of sha256", s.print(info.Path), info.NarHash.Algo())
	}
	info.References = nix.SortPaths(info.References)
	sigs := info.Signatures
	info.Signatures = nil
	info.AddSignatures(sigs...)
	if info.CA.Method == nix.MethodGit {
		return fmt.Errorf("import path '%s': content addresses by git are not supported", s.print(info.Path))
	}
	if opts.RequireSignature && !info.IsContentAddressed(s.storeDir) && info.Verify(s.storeDir, opts.Keys) == 0 {
		return &RefusedError{s.print(info.Path), "because it lacks a valid signature"}
	}
	return nil
}

// register makes paths valid, all or none: their references must be valid, or among
// those before them. The locks of the paths are held,
// and none is valid.
func (s *Store) register(ctx context.Context, regs []*registration, lazy bool) error {
	if err := s.checkDerivations(ctx, regs); err != nil {
		return err
	}
	s.removal.RLock()
	defer s.removal.RUnlock()
	if err := s.checkReferences(regs); err != nil {
		return err
	}
	b := cas.Batch{Lazy: lazy}
	first, release, err := s.slots.take(&b, len(regs))
	if err != nil {
		return err
	}
	events := make([]Event, len(regs))
	bytes := uint64(0)
	for i, reg := range regs {
		slot := first + uint32(i)
		b.PutObject(reg.staged)
		if err := db.Put(&b, db.Record{Info: reg.info, Slot: slot, Outputs: reg.outputs}, topOf(reg.staged.Tree())); err != nil {
			release(err)
			return err
		}
		events[i] = Event{Path: reg.info.Path, Slot: slot}
		bytes += reg.info.NarSize
	}
	// A commit that is left alone ends in a moment, and its result is known.
	err = s.content.Commit(context.WithoutCancel(ctx), &b)
	release(err)
	if err != nil {
		return err
	}
	s.totals.add(int64(len(regs)), int64(bytes))
	s.watches.tell(events)
	return nil
}

func (s *Store) checkReferences(regs []*registration) error {
	among := make(map[nix.StorePath]struct{}, len(regs))
	var others []nix.StorePath
	for _, reg := range regs {
		among[reg.info.Path] = struct{}{}
		for _, ref := range reg.info.References {
			if _, ok := among[ref]; !ok {
				others = append(others, ref)
			}
		}
	}
	if len(others) == 0 {
		return nil
	}
	valid, err := s.db.Valid(others) // in one look, which costs about as much as one path
	if err != nil {
		return err
	}
	for i, ref := range others { // valid has what others has, in the same order
		if i == len(valid) || valid[i] != ref {
			return s.notValid(ref)
		}
	}
	return nil
}

func topOf(t *nar.Tree) Top {
	top := Top{Type: uint8(t.Type(0)), Executable: t.Executable(0), Size: t.Size(0)}
	first, n := t.Children(0)
	for i := first; i < first+n; i++ {
		if t.Type(i) == nar.TypeDirectory {
			top.Subdirs++
		}
	}
	return top
}

// replace stores the contents of a valid path again.
func (s *Store) replace(ctx context.Context, old db.Record, src *wire.Reader, opts ImportOptions) error {
	reg, err := s.stage(ctx, old.Info, src, opts)
	if err != nil {
		return s.importError(old.Info.Path, err)
	}
	defer reg.staged.Discard()
	return s.importError(old.Info.Path, s.putAgain(ctx, reg.staged))
}
