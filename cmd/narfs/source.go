package main

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/fs"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/nar"
	"github.com/narfs/narfs/nar/cas"
)

// source is the store as mounts see it. It is for concurrent use, by several mounts at once.
//
// A store path that a kernel knows must stay readable when it is deleted, also if its space is swept. So views takes a
// handle of every path right before it is deleted, and gives it back when no kernel knows the path (any more). Paths that
// are valid need none.
type source struct {
	s   *store.Store
	log *slog.Logger

	mu      sync.Mutex               // guards the rest
	deleted map[uint32]*store.Object // by slot

	used usedBytes
}

var (
	_ fs.Source      = (*source)(nil)
	_ fs.TopSource   = (*source)(nil)
	_ fs.FrameObject = (*sourceObject)(nil)
	_ fs.XAttrObject = (*sourceObject)(nil)
)

func newSource(s *store.Store, log *slog.Logger) *source {
	return &source{s: s, log: log, deleted: map[uint32]*store.Object{}}
}

// goneError says that a path is not valid, in the words of fs.
type goneError struct{ err error }

func (e *goneError) Error() string      { return e.err.Error() }
func (*goneError) Is(target error) bool { return target == iofs.ErrNotExist }

// toFS translates what fs must know of an error.
func toFS(err error) error {
	if errors.Is(err, store.ErrNotValid) {
		return &goneError{err}
	}
	return err
}

// Lookup implements fs.Source.
func (src *source) Lookup(name string) (uint32, error) {
	p, err := nix.ParseBaseName(name)
	if err != nil {
		return 0, &goneError{err}
	}
	slot, err := src.s.Slot(p)
	if err != nil {
		return 0, toFS(err)
	}
	return slot, nil
}

// hold keeps the contents of a path that is about to be deleted.
func (src *source) hold(slot uint32) error {
	o, err := src.s.ObjectBySlot(slot)
	if err != nil {
		return err
	}
	src.mu.Lock()
	defer src.mu.Unlock()
	if src.deleted[slot] != nil { // deleting it did not work the last time
		o.Close()
		return nil
	}
	src.deleted[slot] = o
	return nil
}

// held returns the handle of a deleted path, nil if there is none.
func (src *source) held(slot uint32) *store.Object {
	src.mu.Lock()
	defer src.mu.Unlock()
	return src.deleted[slot]
}

// giveUp gives the handle of a deleted path back and returns true, unless unused says that somebody needs it. Nobody can open
// the path while unused is asked.
func (src *source) giveUp(slot uint32, unused func() bool) bool {
	src.mu.Lock()
	defer src.mu.Unlock()
	if !unused() {
		return false
	}
	if o := src.deleted[slot]; o != nil {
		o.Close()
		delete(src.deleted, slot)
	}
	return true
}

// releaseAll gives all handles back. No mount must be left.
func (src *source) releaseAll() {
	src.mu.Lock()
	defer src.mu.Unlock()
	for slot, o := range src.deleted {
		o.Close()
		delete(src.deleted, slot)
	}
}

// Open implements fs.Source.
func (src *source) Open(slot uint32) (fs.Object, error) {
	o, err := src.s.ObjectBySlot(slot)
	if errors.Is(err, store.ErrNotValid) {
		if o = src.held(slot); o == nil {
			return nil, toFS(err)
		}
		err = nil
	} else if err == nil {
		// As long as the path is valid no sweep takes its contents away, and from before its deletion on views has a handle.
		defer o.Close()
	}
	if err != nil {
		return nil, err
	}
	content, err := o.Content()
	if err != nil {
		return nil, err
	}
	return &sourceObject{src: src, path: o.Path(), content: content}, nil
}

// List implements fs.Source.
func (src *source) List(yield func(name string, slot uint32) bool) error {
	return src.s.Slots(func(p nix.StorePath, slot uint32) bool { return yield(p.BaseName(), slot) })
}

// Top implements fs.TopSource.
func (src *source) Top(slot uint32) (fs.Top, error) {
	_, top, err := src.s.BySlot(slot)
	if errors.Is(err, store.ErrNotValid) {
		return src.topOfDeleted(slot)
	}
	if err != nil {
		return fs.Top{}, err
	}
	return fs.Top{Type: nar.Type(top.Type), Executable: top.Executable, Size: top.Size, Subdirs: int(top.Subdirs)}, nil
}

// topOfDeleted describes a path that only somebody's open files keep.
func (src *source) topOfDeleted(slot uint32) (fs.Top, error) {
	o, err := src.Open(slot)
	if err != nil {
		return fs.Top{}, err
	}
	tree, err := o.Tree()
	if err != nil {
		return fs.Top{}, err
	}
	return fs.TopOf(tree), nil
}

// Usage implements fs.Source.
func (src *source) Usage() fs.Usage {
	u := fs.Usage{Used: src.used.get(src.s, src.log)}
	var known bool
	u.Paths, _, known = src.s.TotalsIfKnown()
	u.Guess = !known
	if free, _, err := diskSpace(src.s.StateDir()); err != nil {
		src.log.Warn("cannot tell the free space", "err", err)
	} else {
		u.Free = free
	}
	return u
}

// diskSpace returns the bytes that an ordinary user may still write to a directory's file system, and its size.
func diskSpace(dir string) (free, size int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), int64(st.Blocks) * int64(st.Bsize), nil
}

// usedBytes is what the store occupies, as of a moment ago: a large one has thousands of files, and some programs ask for
// the root's attributes all the time.
type usedBytes struct {
	mu    sync.Mutex // guards the rest
	at    time.Time
	bytes int64
}

const usedFor = time.Second

func (u *usedBytes) get(s *store.Store, log *slog.Logger) int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	if time.Since(u.at) < usedFor {
		return u.bytes
	}
	u.at = time.Now()
	n, err := s.Occupied()
	if err != nil {
		log.Warn("cannot tell what the store occupies", "err", err)
		return u.bytes
	}
	u.bytes = n
	return n
}

// sourceObject is the contents of one store path.
type sourceObject struct {
	src     *source
	path    nix.StorePath
	content *cas.Object
}

func (o *sourceObject) about(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("path '%s': %w", o.src.s.Dir().Path(o.path), err)
}

// Tree implements fs.Object.
func (o *sourceObject) Tree() (*nar.Tree, error) {
	t, err := o.content.Tree()
	return t, o.about(err)
}

// ReadAt implements fs.Object.
func (o *sourceObject) ReadAt(node uint32, p []byte, off int64) (int, error) {
	n, err := o.content.ReadAt(node, p, off)
	return n, o.about(err)
}

// Span implements fs.Object.
func (o *sourceObject) Span(node uint32, off int64, n int) (data []byte, start int64, release func(), err error) {
	span, err := o.content.Span(node, off, n)
	if err != nil {
		return nil, 0, nil, o.about(err)
	}
	return span.Data, span.Off, span.Release, nil
}

// Frame implements fs.FrameObject.
func (o *sourceObject) Frame(node uint32, off int64, yield func(fs.Piece) bool) error {
	return o.content.Frame(node, off, func(p cas.Piece) bool { return yield(fs.Piece(p)) })
}

// XAttrs implements fs.XAttrObject: of the store path itself hash, size, references and so on, of what is in it nothing.
func (o *sourceObject) XAttrs(node uint32) ([]fs.XAttr, error) {
	if node != 0 {
		return nil, nil
	}
	info, err := o.src.s.PathInfo(o.path)
	if err != nil {
		return nil, toFS(err)
	}
	dir := o.src.s.Dir()
	refs := make([]string, 0, len(info.References))
	for _, ref := range info.References {
		refs = append(refs, dir.Path(ref))
	}
	sigs := make([]string, 0, len(info.Signatures))
	for _, sig := range info.Signatures {
		sigs = append(sigs, sig.String())
	}
	var deriver string
	if !info.Deriver.IsZero() {
		deriver = dir.Path(info.Deriver)
	}
	var attrs []fs.XAttr
	for _, a := range []struct{ name, value string }{
		{"path", dir.Path(o.path)},
		{"hash", info.NarHash.String()},
		{"size", strconv.FormatUint(info.NarSize, 10)},
		{"references", strings.Join(refs, "\n")},
		{"deriver", deriver},
		{"ca", info.CA.String()},
		{"signatures", strings.Join(sigs, "\n")},
		{"registered", strconv.FormatInt(info.RegistrationTime, 10)},
	} {
		if a.value != "" {
			attrs = append(attrs, fs.XAttr{Name: a.name, Value: []byte(a.value)})
		}
	}
	return attrs, nil
}
