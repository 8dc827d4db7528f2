package store

import (
	"bytes"
	"context"
	"fmt"
	"hash"
	"io"
	"strconv"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/nar"
	"github.com/narfs/narfs/nar/cas"
)

// caHash computes the hash that a path's content address speaks of. That of a NAR which contains its own hash part is of
// the NAR with zeros in these places, followed by "|" and the offset, in decimal, of each.
type caHash struct {
	info   nix.PathInfo
	self   *finder   // looks for the path's own hash part in the NAR
	direct hash.Hash // of the NAR; nil for SHA-256, which the content store computes anyway
}

func newCAHash(info nix.PathInfo) *caHash {
	h := &caHash{info: info}
	if info.CA.Method == nix.MethodNAR {
		h.self = &finder{needle: []byte(info.Path.HashPart())}
		if algo := info.CA.Hash.Algo(); algo != nix.SHA256 {
			h.direct = algo.New()
		}
	}
	return h
}

// tap returns what wants to see the NAR, or nil.
func (h *caHash) tap() func([]byte) {
	switch {
	case h.self == nil:
		return nil
	case h.direct == nil:
		return h.self.write
	}
	return func(p []byte) {
		h.self.write(p)
		_, _ = h.direct.Write(p)
	}
}

// sum returns the hash. The whole NAR has gone through the tap.
func (h *caHash) sum(ctx context.Context, st *cas.Staged) (nix.Hash, error) {
	algo := h.info.CA.Hash.Algo()
	switch {
	case h.info.CA.Method != nix.MethodNAR:
		return hashFile(st, algo)
	case len(h.self.found) > 0:
		return h.modulo(ctx, st)
	case h.direct == nil:
		return nix.NewSHA256(st.Info().NarHash), nil
	default:
		return mustHash(algo, h.direct), nil
	}
}

// modulo reads the NAR again, with zeros for the path's own hash part.
func (h *caHash) modulo(ctx context.Context, st *cas.Staged) (nix.Hash, error) {
	object, err := st.Object()
	if err != nil {
		return nix.Hash{}, err
	}
	algo := h.info.CA.Hash.Algo()
	sum := algo.New()
	if err := object.WriteNAR(ctx, &eraser{w: sum, places: h.self.found, length: len(h.self.needle)}); err != nil {
		return nix.Hash{}, err
	}
	for _, at := range h.self.found {
		_, _ = sum.Write(strconv.AppendInt([]byte{'|'}, at, 10))
	}
	return mustHash(algo, sum), nil
}

// hashFile hashes the bytes of a regular file.
func hashFile(st *cas.Staged, algo nix.Algo) (nix.Hash, error) {
	tree := st.Tree()
	if tree.Type(0) != nar.TypeRegular {
		return nix.Hash{}, fmt.Errorf("its content address is that of a file, and it is a %v", tree.Type(0))
	}
	object, err := st.Object()
	if err != nil {
		return nix.Hash{}, err
	}
	sum := algo.New()
	if _, err := io.Copy(sum, io.NewSectionReader(fileReader{object}, 0, tree.Size(0))); err != nil {
		return nix.Hash{}, err
	}
	return mustHash(algo, sum), nil
}

// fileReader reads the file that is the whole object.
type fileReader struct{ o *cas.Object }

// ReadAt implements io.ReaderAt.
func (f fileReader) ReadAt(p []byte, off int64) (int, error) { return f.o.ReadAt(0, p, off) }

// finder finds a string in a stream.
type finder struct {
	needle []byte
	found  []int64 // offsets, not overlapping

	tail []byte // the last bytes, fewer than the needle has, in which it could begin
	off  int64  // where they begin
}

func (f *finder) write(p []byte) {
	// What spans the border to p needs a few bytes of it only.
	if len(f.tail) > 0 {
		n := min(len(p), len(f.needle)-1)
		border := append(f.tail, p[:n]...)
		if i := bytes.Index(border, f.needle); i >= 0 {
			f.found = append(f.found, f.off+int64(i))
			border = border[i+len(f.needle):]
			f.off += int64(i + len(f.needle))
		}
		if n == len(p) {
			f.keep(border)
			return
		}
		// Go on behind the match, or at the beginning of p.
		skip := 0
		if len(border) < n {
			skip = n - len(border)
		}
		f.off += int64(len(border) - (n - skip))
		p = p[skip:]
	}
	for {
		i := bytes.Index(p, f.needle)
		if i < 0 {
			break
		}
		f.found = append(f.found, f.off+int64(i))
		p = p[i+len(f.needle):]
		f.off += int64(i + len(f.needle))
	}
	f.keep(p)
}

// keep keeps the end of what has been searched.
func (f *finder) keep(p []byte) {
	n := max(0, len(p)-len(f.needle)+1)
	f.off += int64(n)
	f.tail = append(f.tail[:0], p[n:]...)
}

// eraser writes zeros in some places of a stream.
type eraser struct {
	w      io.Writer
	places []int64 // ascending
	length int
	off    int64
	buf    []byte
}

// Write implements io.Writer.
func (e *eraser) Write(p []byte) (int, error) {
	e.buf = append(e.buf[:0], p...)
	end := e.off + int64(len(p))
	for len(e.places) > 0 && e.places[0] < end {
		from := max(e.places[0]-e.off, 0)
		to := e.places[0] + int64(e.length) - e.off
		clear(e.buf[from:min(to, int64(len(p)))])
		if to > int64(len(p)) {
			break
		}
		e.places = e.places[1:]
	}
	e.off = end
	return e.w.Write(e.buf)
}
