package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

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
	// Holder says who adds, for the list of locks.
	Holder string
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

// Add adds what r has: a NAR for nix.MethodNAR, else the bytes of a file. It returns the info of its path, which is valid
// now, or was before.
func (s *Store) Add(ctx context.Context, r io.Reader, opts AddOptions) (nix.PathInfo, error) {
	opts, err := opts.check()
	if err != nil {
		return nix.PathInfo{}, err
	}
	var st *cas.Staged
	var hash nix.Hash
	if opts.Method == nix.MethodNAR {
		st, hash, err = s.ingest(ctx, r, opts.Algo)
	} else {
		var sp *spooled
		if sp, err = s.spool(r); err != nil {
			return nix.PathInfo{}, fmt.Errorf("add %s: %w", opts.Name, err)
		}
		defer func() { _ = sp.Close() }()
		st, hash, err = s.ingestFile(ctx, sp, sp.size, false, opts.Algo)
	}
	if err != nil {
		return nix.PathInfo{}, fmt.Errorf("add %s: %w", opts.Name, err)
	}
	return s.added(ctx, st, hash, opts)
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
	var hash nix.Hash
	if opts.Method == nix.MethodNAR {
		st, hash, err = s.ingestFrom(ctx, opts.Algo, func(w io.Writer) error {
			return nar.Dump(w, path, nar.DumpOptions{CaseHack: opts.CaseHack})
		})
	} else {
		st, hash, err = s.ingestPath(ctx, path, opts.Algo)
	}
	if err != nil {
		return nix.PathInfo{}, fmt.Errorf("add %s: %w", path, err)
	}
	return s.added(ctx, st, hash, opts)
}

// added makes what was staged valid, unless it is already.
func (s *Store) added(ctx context.Context, st *cas.Staged, hash nix.Hash, opts AddOptions) (nix.PathInfo, error) {
	defer st.Discard()
	info := nix.PathInfo{
		NarHash: nix.NewSHA256(st.Info().NarHash), NarSize: uint64(st.Info().NarSize),
		References: opts.References, CA: nix.ContentAddress{Method: opts.Method, Hash: hash},
		RegistrationTime: s.opts.Now().Unix(),
	}
	var err error
	info.Path, err = nix.MakePathFromCA(s.storeDir, opts.Name, info.CA, opts.References, false)
	if err != nil {
		return nix.PathInfo{}, fmt.Errorf("add %s: %w", opts.Name, err)
	}
	held, err := s.locks.Lock(ctx, info.Path, opts.Holder)
	if err != nil {
		return nix.PathInfo{}, fmt.Errorf("add path '%s': %w", s.print(info.Path), err)
	}
	defer held.Unlock()
	old, err := s.PathInfo(info.Path)
	switch {
	case errors.Is(err, ErrNotValid):
		err = s.register(ctx, []*registration{{info: info, staged: st}})
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

// ingest stages one NAR and hashes it.
func (s *Store) ingest(ctx context.Context, r io.Reader, algo nix.Algo) (*cas.Staged, nix.Hash, error) {
	opts := cas.IngestOptions{Limits: s.opts.Limits}
	if algo == nix.SHA256 {
		st, err := s.content.Ingest(ctx, r, opts)
		if err != nil {
			return nil, nix.Hash{}, err
		}
		return st, nix.NewSHA256(st.Info().NarHash), nil
	}
	sum := algo.New()
	opts.Tap = func(p []byte) { _, _ = sum.Write(p) }
	st, err := s.content.Ingest(ctx, r, opts)
	if err != nil {
		return nil, nix.Hash{}, err
	}
	hash, err := nix.NewHash(algo, sum.Sum(nil))
	return st, hash, err
}

// pipeSize is the piece in which a NAR that is made here goes to the content store.
const pipeSize = 256 << 10

// ingestFrom stages the NAR that write writes.
func (s *Store) ingestFrom(ctx context.Context, algo nix.Algo, write func(io.Writer) error) (st *cas.Staged, hash nix.Hash, err error) {
	pr, pw := io.Pipe()
	var group errgroup.Group
	group.Go(func() error {
		err := write(pw)
		_ = pw.CloseWithError(err)
		return err
	})
	src := wire.NewReader(pr)
	st, hash, err = s.ingest(ctx, src, algo)
	if err == nil {
		_, err = src.Read(make([]byte, 1)) // until write has ended, too
		if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	_ = pr.CloseWithError(errIngestEnded)
	if werr := group.Wait(); werr != nil && !errors.Is(werr, errIngestEnded) {
		err = werr // it is why reading ended
	}
	if err != nil {
		if st != nil {
			st.Discard()
		}
		return nil, nix.Hash{}, err
	}
	return st, hash, nil
}

var errIngestEnded = errors.New("no more is wanted")

// ingestFile stages the NAR of a file with these bytes, whose number is known, and hashes them.
func (s *Store) ingestFile(ctx context.Context, r io.Reader, size int64, executable bool, algo nix.Algo) (*cas.Staged, nix.Hash, error) {
	sum := algo.New()
	st, _, err := s.ingestFrom(ctx, nix.SHA256, func(w io.Writer) error {
		nw := nar.NewWriter(w)
		err := nw.WriteHeader(nar.Header{Depth: 1, Type: nar.TypeRegular, Executable: executable, Size: size})
		if err == nil {
			_, err = io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(nw, sum)}, io.LimitReader(r, size), make([]byte, pipeSize))
		}
		if err != nil {
			return err
		}
		return nw.Close()
	})
	if err != nil {
		return nil, nix.Hash{}, err
	}
	hash, err := nix.NewHash(algo, sum.Sum(nil))
	return st, hash, err
}

// ingestPath stages the NAR of a file on disk and hashes its bytes.
func (s *Store) ingestPath(ctx context.Context, path string, algo nix.Algo) (*cas.Staged, nix.Hash, error) {
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
	return s.ingestFile(ctx, f, fi.Size(), fi.Mode()&0o100 != 0, algo)
}

func (s *Store) putAgain(ctx context.Context, st *cas.Staged) error {
	s.removal.RLock()
	defer s.removal.RUnlock()
	var b cas.Batch
	b.PutObject(st)
	return s.content.Commit(context.WithoutCancel(ctx), &b)
}
