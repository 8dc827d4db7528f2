package build

import (
	"io"

	"github.com/narfs/narfs/internal/nix"
)

// hashPartLen is how many characters a hash part has.
const hashPartLen = 32

// isBase32 tells the characters of hash parts.
func isBase32() (table [256]bool) {
	for _, c := range []byte("0123456789abcdfghijklmnpqrsvwxyz") {
		table[c] = true
	}
	return table
}

// scanner finds the hash parts of paths in a stream, also across the borders of its pieces.
type scanner struct {
	wanted map[string]nix.StorePath // hash parts that were not found yet
	got    []nix.StorePath
	digit  [256]bool
	tail   []byte
	size   uint64 // of the stream so far
}

func newScanner(candidates []nix.StorePath) *scanner {
	s := &scanner{wanted: make(map[string]nix.StorePath, len(candidates)), digit: isBase32()}
	for _, p := range candidates {
		s.wanted[p.HashPart()] = p
	}
	return s
}

// Write implements io.Writer.
func (s *scanner) Write(p []byte) (int, error) {
	n := len(p)
	s.size += uint64(n)
	if len(s.tail) > 0 {
		border := append(s.tail, p[:min(n, hashPartLen-1)]...)
		s.search(border)
	}
	s.search(p)
	if n >= hashPartLen-1 {
		s.tail = append(s.tail[:0], p[n-(hashPartLen-1):]...)
	} else {
		s.tail = append(s.tail, p...)
		if extra := len(s.tail) - (hashPartLen - 1); extra > 0 {
			s.tail = append(s.tail[:0], s.tail[extra:]...)
		}
	}
	return n, nil
}

// search looks for runs of the right characters: only every 32nd byte need be looked at where there is none.
func (s *scanner) search(b []byte) {
	for i := 0; i+hashPartLen <= len(b); {
		j := i + hashPartLen - 1
		for j >= i && s.digit[b[j]] {
			j--
		}
		if j >= i {
			i = j + 1
			continue
		}
		if p, ok := s.wanted[string(b[i:i+hashPartLen])]; ok {
			s.got = append(s.got, p)
			delete(s.wanted, p.HashPart())
		}
		i++
	}
}

// found returns the paths that were found, in order.
func (s *scanner) found() []nix.StorePath { return nix.SortPaths(s.got) }

// rewriter writes a stream with some strings of hash parts' length in place of others.
type rewriter struct {
	w      io.Writer
	pairs  map[string]string
	watch  string  // of which places takes the offsets
	places []int64 // ascending
	digit  [256]bool
	buf    []byte
	off    int64 // of buf
}

func newRewriter(w io.Writer, pairs map[string]string) *rewriter {
	return &rewriter{w: w, pairs: pairs, digit: isBase32()}
}

// Write implements io.Writer.
func (r *rewriter) Write(p []byte) (int, error) {
	r.buf = append(r.buf, p...)
	r.rewrite()
	// What may be the beginning of a hash part stays.
	if n := len(r.buf) - (hashPartLen - 1); n > 0 {
		if _, err := r.w.Write(r.buf[:n]); err != nil {
			return 0, err
		}
		r.off += int64(n)
		r.buf = append(r.buf[:0], r.buf[n:]...)
	}
	return len(p), nil
}

func (r *rewriter) rewrite() {
	for i := 0; i+hashPartLen <= len(r.buf); {
		j := i + hashPartLen - 1
		for j >= i && r.digit[r.buf[j]] {
			j--
		}
		if j >= i {
			i = j + 1
			continue
		}
		from := string(r.buf[i : i+hashPartLen])
		to, ok := r.pairs[from]
		if !ok {
			i++
			continue
		}
		if from == r.watch {
			r.places = append(r.places, r.off+int64(i))
		}
		copy(r.buf[i:], to)
		i += hashPartLen
	}
}

// flush writes what is left.
func (r *rewriter) flush() error {
	_, err := r.w.Write(r.buf)
	r.buf = nil
	return err
}
