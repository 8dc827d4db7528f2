package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/wire"
	"github.com/narfs/narfs/nar"
	"github.com/narfs/narfs/nar/cas"
)

// AddOptions say how to add something whose path follows from its contents. The zero value is what `nix-store --add` does,
// but for the name, which must be given.
type AddOptions struct {
	// Name is the path's. AddTree takes the last part of the tree's path if it is empty.
	Name string
	// Method and Algo say what is hashed; zero means nix.MethodNAR and nix.SHA256.
	Method nix.Method
	Algo   nix.Algo
	// References are valid paths that the object refers to: with MethodText, or MethodNAR and SHA-256.
	References []nix.StorePath
	// CaseHack undoes the renaming of entries on disk: see nar.DumpOptions. AddTree only.
	CaseHack bool
	// Repair stores the contents again if the path is valid already.
	Repair bool
	// Compression of what is new to the store.
	Compression cas.Compression
	// Holder says who adds, for the list of locks.
	Holder string
	// Pins, Lazy and LockTimeout are as in ImportOptions.
	Pins        *Pins
	Lazy        bool
	LockTimeout time.Duration
	// Progress hears of the bytes of the NAR that AddTree makes, from one goroutine; it may be nil.
	Progress func(n int)
}

func (o AddOptions) check() (AddOptions, error) {
	if o.Method == 0 {
		o.Method = nix.MethodNAR
	}
	if o.Algo == 0 {
		o.Algo = nix.SHA256
	}
	if o.Holder == "" {
		o.Holder = "add"
	}
	o.References = nix.SortPaths(o.References)
	if err := nix.CheckName(o.Name); err != nil {
		return o, fmt.Errorf("add: %w", err)
	}
	if o.Method == nix.MethodGit {
		return o, fmt.Errorf("add %s: content addresses by git are not supported", o.Name)
	}
	// Whether method, algorithm and references go together is known before a byte is read.
	zero, err := nix.NewHash(o.Algo, make([]byte, o.Algo.Size()))
	if err == nil {
		_, err = nix.MakePathFromCA(nix.DefaultStoreDir, o.Name, nix.ContentAddress{Method: o.Method, Hash: zero}, o.References, false)
	}
	if err != nil {
		return o, fmt.Errorf("add %s: %w", o.Name, err)
	}
	return o, nil
}

// staging returns how the contents are to be stored. Tap sees the NAR.
func (o AddOptions) staging(tap func([]byte)) cas.IngestOptions {
	return cas.IngestOptions{Tap: tap, Mend: o.Repair, Compression: o.Compression}
}

// Add adds what r has: a NAR for nix.MethodNAR, else the bytes of a file. It returns the info of its path, which is valid
// now, or was before.
func (s *Store) Add(ctx context.Context, r io.Reader, opts AddOptions) (nix.PathInfo, error) {
	opts, err := opts.check()
	if err != nil {
		return nix.PathInfo{}, err
	}
	var st *cas.Staged
	var digest nix.Hash
	if opts.Method == nix.MethodNAR {
		h := newNarHash(opts.Algo)
		st, err = s.ingest(ctx, r, opts.staging(h.tap()), 0)
		digest = h.sum(st, err)
	} else {
		var sp *spooled
		if sp, err = s.spool(r); err != nil {
			return nix.PathInfo{}, fmt.Errorf("add %s: %w", opts.Name, err)
		}
		defer func() { _ = sp.Close() }()
		st, digest, err = s.ingestFile(ctx, sp, sp.size, false, opts)
	}
	if err != nil {
		return nix.PathInfo{}, fmt.Errorf("add %s: %w", opts.Name, err)
	}
	return s.added(ctx, st, digest, opts)
}

// AddTree adds the file, link or directory at a path of the file system, which it does not follow. For another method than
// nix.MethodNAR it must be a file.
func (s *Store) AddTree(ctx context.Context, path string, opts AddOptions) (nix.PathInfo, error) {
	if opts.Name == "" {
		abs, err := filepath.Abs(path)
		if err != nil {
			return nix.PathInfo{}, fmt.Errorf("add %s: %w", path, err)
		}
		opts.Name = filepath.Base(abs)
	}
	opts, err := opts.check()
	if err != nil {
		return nix.PathInfo{}, err
	}
	var st *cas.Staged
	var digest nix.Hash
	if opts.Method == nix.MethodNAR {
		h := newNarHash(opts.Algo)
		st, err = s.ingestFrom(ctx, opts.staging(h.tap()), func(w io.Writer) error {
			return nar.Dump(&countingWriter{w, opts.Progress}, path, nar.DumpOptions{CaseHack: opts.CaseHack})
		})
		digest = h.sum(st, err)
	} else {
		st, digest, err = s.ingestPath(ctx, path, opts)
	}
	if err != nil {
		return nix.PathInfo{}, fmt.Errorf("add %s: %w", path, err)
	}
	return s.added(ctx, st, digest, opts)
}

// added makes what was staged valid, unless it is already.
func (s *Store) added(ctx context.Context, st *cas.Staged, digest nix.Hash, opts AddOptions) (nix.PathInfo, error) {
	defer st.Discard()
	info := nix.PathInfo{
		NarHash: nix.NewSHA256(st.Info().NarHash), NarSize: uint64(st.Info().NarSize),
		References: opts.References, CA: nix.ContentAddress{Method: opts.Method, Hash: digest},
		RegistrationTime: s.opts.Now().Unix(),
	}
	var err error
	info.Path, err = nix.MakePathFromCA(s.storeDir, opts.Name, info.CA, opts.References, false)
	if err != nil {
		return nix.PathInfo{}, fmt.Errorf("add %s: %w", opts.Name, err)
	}
	importing := ImportOptions{Holder: opts.Holder, Pins: opts.Pins, LockTimeout: opts.LockTimeout}
	importing.pin(info)
	held, err := s.lock(ctx, info.Path, importing)
	if err != nil {
		return nix.PathInfo{}, fmt.Errorf("add path '%s': %w", s.print(info.Path), err)
	}
	defer held.Unlock()
	old, err := s.PathInfo(info.Path)
	switch {
	case errors.Is(err, ErrNotValid):
		err = s.register(ctx, []*registration{{info: info, staged: st}}, opts.Lazy)
	case err == nil && opts.Repair && old.NarHash == info.NarHash:
		info, err = old, s.putAgain(ctx, st)
	case err == nil:
		info = old
	}
	if err != nil {
		return nix.PathInfo{}, fmt.Errorf("add path '%s': %w", s.print(info.Path), err)
	}
	return info, nil
}

// narHash is the hash of a NAR by any algorithm.
type narHash struct {
	algo nix.Algo
	sha  hash.Hash // nil for SHA-256, which the content store computes anyway
}

func newNarHash(algo nix.Algo) *narHash {
	if algo == nix.SHA256 {
		return &narHash{algo: algo}
	}
	return &narHash{algo, algo.New()}
}

// tap returns what wants to see the NAR, or nil.
func (h *narHash) tap() func([]byte) {
	if h.sha == nil {
		return nil
	}
	return func(p []byte) { _, _ = h.sha.Write(p) }
}

// sum returns the hash of a NAR that was staged without an error.
func (h *narHash) sum(st *cas.Staged, err error) nix.Hash {
	if err != nil {
		return nix.Hash{}
	}
	if h.sha == nil {
		return nix.NewSHA256(st.Info().NarHash)
	}
	return mustHash(h.algo, h.sha)
}

// mustHash returns a finished hash, whose length cannot be wrong.
func mustHash(algo nix.Algo, sum hash.Hash) nix.Hash {
	h, err := nix.NewHash(algo, sum.Sum(nil))
	if err != nil {
		panic(err)
	}
	return h
}

// pipeSize is the piece in which a NAR that is made here goes to the content store.
const pipeSize = 256 << 10

// inMemory is up to which size a NAR that is made here is made whole first: that costs less than a goroutine that makes it meanwhile.
const inMemory = 64 << 10

// ingest stages one NAR, within the limits of this store, and of at most so many bytes if size is not 0.
func (s *Store) ingest(ctx context.Context, r io.Reader, opts cas.IngestOptions, size int64) (*cas.Staged, error) {
	opts.Limits = s.opts.Limits
	opts.Limits.Size = size
	return s.content.Ingest(ctx, r, opts)
}

// ingestFrom stages the NAR that write writes, as ingest does.
func (s *Store) ingestFrom(ctx context.Context, opts cas.IngestOptions, write func(io.Writer) error) (*cas.Staged, error) {
	pr, pw := io.Pipe()
	var group errgroup.Group
	group.Go(func() error {
		err := write(pw)
		_ = pw.CloseWithError(err)
		return err
	})
	src := wire.NewReader(pr)
	st, err := s.ingest(ctx, src, opts, 0)
	if err == nil {
		// Write must end, and well.
		if _, rerr := src.Read(make([]byte, 1)); rerr == nil {
			err = errBehind
		} else if !errors.Is(rerr, io.EOF) {
			err = rerr
		}
	}
	_ = pr.CloseWithError(errIngestEnded)
	if werr := group.Wait(); werr != nil && !errors.Is(werr, errIngestEnded) {
		err = werr // it is why reading ended
	}
	if err != nil && st != nil {
		st.Discard()
	}
	return st, err
}

var (
	errIngestEnded = errors.New("no more is wanted")
	errBehind      = errors.New("there are bytes behind the NAR")
)

// ingestFile stages the NAR of a file with these bytes, whose number is known, and hashes them.
func (s *Store) ingestFile(ctx context.Context, r io.Reader, size int64, executable bool, opts AddOptions) (*cas.Staged, nix.Hash, error) {
	sum := opts.Algo.New()
	write := func(w io.Writer) error {
		nw := nar.NewWriter(w)
		err := nw.WriteHeader(nar.Header{Depth: 1, Type: nar.TypeRegular, Executable: executable, Size: size})
		if err == nil {
			_, err = io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(nw, sum)}, io.LimitReader(r, size), make([]byte, max(1, min(size, pipeSize))))
		}
		if err != nil {
			return err
		}
		return nw.Close()
	}
	var st *cas.Staged
	var err error
	if size <= inMemory {
		var whole bytes.Buffer
		if err = write(&whole); err == nil {
			st, err = s.ingest(ctx, &whole, opts.staging(nil), 0)
		}
	} else {
		st, err = s.ingestFrom(ctx, opts.staging(nil), write)
	}
	if err != nil {
		return nil, nix.Hash{}, err
	}
	return st, mustHash(opts.Algo, sum), nil
}

// ingestPath stages the NAR of a file on disk and hashes its bytes.
func (s *Store) ingestPath(ctx context.Context, path string, opts AddOptions) (*cas.Staged, nix.Hash, error) {
	before, err := os.Lstat(path)
	if err != nil {
		return nil, nix.Hash{}, err
	}
	if !before.Mode().IsRegular() {
		return nil, nix.Hash{}, errors.New("not a regular file, which this method of hashing needs")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nix.Hash{}, err
	}
	defer func() { _ = f.Close() }()
	fi, err := f.Stat()
	if err != nil {
		return nil, nix.Hash{}, err
	}
	if !os.SameFile(before, fi) {
		return nil, nix.Hash{}, errors.New("changed while it was being added")
	}
	return s.ingestFile(ctx, f, fi.Size(), fi.Mode()&0o100 != 0, opts)
}

func (s *Store) putAgain(ctx context.Context, st *cas.Staged) error {
	s.removal.RLock()
	defer s.removal.RUnlock()
	var b cas.Batch
	b.PutObject(st)
	return s.content.Commit(context.WithoutCancel(ctx), &b)
}
