package nar

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/narfs/narfs/internal/wire"
)

// FormatError says that bytes are not a NAR, or a larger one than allowed.
type FormatError struct {
	Offset int64  // in the NAR, at or shortly after the fault
	Path   string // of the node concerned, relative to the root
	Msg    string
	// Err is the cause, if there is one to test for: io.ErrUnexpectedEOF for a NAR
	// cut short, wire's errors for padding and lengths.
	Err error
}

// Error implements error.
func (e *FormatError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("bad NAR at offset %d: %s", e.Offset, e.Msg)
	}
	return fmt.Sprintf("bad NAR at offset %d, %q: %s", e.Offset, e.Path, e.Msg)
}

// Unwrap gives Err.
func (e *FormatError) Unwrap() error { return e.Err }

// Reader reads one NAR from a stream, node by node. Its memory does not grow
// with the NAR. It is not for concurrent use.
type Reader struct {
	src    *wire.Reader
	start  int64 // src's offset of the NAR
	budget budget
	err    error // the first one; every later call returns it

	state state
	depth int    // of the node last returned or still to be closed
	left  uint64 // bytes of contents not yet read
	pad   uint64 // size of the contents that padding follows, while in a file
	last  [MaxDepth + 1]string
}

// state is where the stream stands between two calls.
type state uint8

const (
	atRoot       state = iota // before the NAR
	inFile                    // before the rest of the contents, left bytes
	inDirectory               // before an entry or the end of the directory
	afterLeaf                 // before the ")" of a file or symlink
	afterEntries              // before the ")" of a directory
)

// NewReader returns a Reader of the NAR that begins at r's next byte. It reads
// ahead, unless r is a *wire.Reader: what follows the NAR can then be read from
// that, once Next returned io.EOF.
func NewReader(r io.Reader, lim Limits) *Reader {
	src := wire.NewReader(r)
	return &Reader{src: src, start: src.Offset(), budget: newBudget(lim)}
}

// Offset is the number of the NAR's bytes consumed. Right after Next it is the
// offset of a regular file's contents.
func (r *Reader) Offset() int64 { return r.src.Offset() - r.start }

// Next returns the next node in NAR order, skipping what is unread of the last
// one's contents. It returns io.EOF when the NAR is complete and nothing behind
// it consumed; *FormatError if it is not a NAR or exceeds a limit; the source's
// own error, wrapped. After an error it returns the same again.
func (r *Reader) Next() (Header, error) {
	if r.err != nil {
		return Header{}, r.err
	}
	h, err := r.next()
	if limit := r.budget.lim.Size; err == nil && limit > 0 && r.Offset() > limit-h.Size {
		err = ErrSize
	}
	if err != nil {
		r.err = err
	}
	return h, err
}

func (r *Reader) next() (Header, error) {
	for {
		switch r.state {
		case atRoot:
			if !r.src.Match(runRoot) {
				return Header{}, r.unexpected("nix-archive-1", "(", "type")
			}
			r.depth = 1
			if err := r.budget.entry(0); err != nil {
				return Header{}, r.fault(err)
			}
			return r.object("")
		case inFile:
			if err := r.finishFile(); err != nil {
				return Header{}, err
			}
			r.state = afterLeaf
		case inDirectory:
			if r.src.Match(runEntry) {
				return r.entry()
			}
			r.state = afterEntries
		case afterLeaf, afterEntries:
			if r.depth == 1 {
				if !r.src.Match(tokClose) {
					return Header{}, r.unexpectedEnd()
				}
				return Header{}, io.EOF
			}
			if !r.src.Match(runCloses) {
				return Header{}, r.unexpectedEnd()
			}
			r.depth--
			r.state = inDirectory
		}
	}
}

// entry reads an entry from its name up to its contents.
func (r *Reader) entry() (Header, error) {
	if r.depth == MaxDepth {
		return Header{}, r.fault(errDepth)
	}
	tok, err := r.src.Token(MaxName, "file name")
	if err != nil {
		return Header{}, r.readError(err)
	}
	name := string(tok)
	if err := checkName(name); err != nil {
		return Header{}, r.fault(err)
	}
	if last := r.last[r.depth+1]; name <= last {
		return Header{}, r.fault(notSorted(name, last))
	}
	r.depth++
	r.last[r.depth] = name
	if err := r.budget.entry(len(name)); err != nil {
		return Header{}, r.fault(err)
	}
	if !r.src.Match(runNode) {
		return Header{}, r.unexpected("node", "(", "type")
	}
	return r.object(name)
}

// object reads a node from its type up to its contents.
func (r *Reader) object(name string) (Header, error) {
	h := Header{Depth: r.depth, Name: name}
	switch {
	case r.src.Match(runFile):
		return r.file(h)
	case r.src.Match(tokDirectory):
		h.Type = TypeDirectory
		r.state = inDirectory
		if r.depth < MaxDepth {
			r.last[r.depth+1] = ""
		}
		return h, nil
	case r.src.Match(runSymlink):
		tok, err := r.src.Token(MaxTarget, "symlink target")
		if err != nil {
			return Header{}, r.readError(err)
		}
		h.Type, h.Target = TypeSymlink, string(tok)
		if err := checkTarget(h.Target); err != nil {
			return Header{}, r.fault(err)
		}
		if err := r.budget.text(len(h.Target)); err != nil {
			return Header{}, r.fault(err)
		}
		r.state = afterLeaf
		return h, nil
	case r.src.Match(runExec):
		h.Executable = true
		return r.file(h)
	}
	return Header{}, r.unexpectedObject()
}

// file reads the length of a regular file's contents.
func (r *Reader) file(h Header) (Header, error) {
	size, err := r.src.Uint64()
	if err != nil {
		return Header{}, r.readError(err)
	}
	if size > MaxContents {
		return Header{}, r.fault(fmt.Errorf("contents of %d bytes are longer than %d", size, int64(MaxContents)))
	}
	h.Type, h.Size = TypeRegular, int64(size)
	if err := r.budget.file(h.Size); err != nil {
		return Header{}, r.fault(err)
	}
	r.state, r.left, r.pad = inFile, size, size
	return h, nil
}

// finishFile consumes the rest of the contents and the padding.
func (r *Reader) finishFile() error {
	if r.left > 0 {
		if err := r.src.Discard(int64(r.left)); err != nil {
			return r.readError(err)
		}
		r.left = 0
	}
	if err := r.src.Padding(r.pad); err != nil {
		return r.readError(err)
	}
	return nil
}

// Read reads the contents of the regular file that Next returned last. It
// returns io.EOF at their end, and for other nodes at once.
func (r *Reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.state != inFile || r.left == 0 {
		return 0, io.EOF
	}
	if uint64(len(p)) > r.left {
		p = p[:r.left]
	}
	n, err := r.src.Read(p)
	r.left -= uint64(n)
	if err != nil {
		r.err = r.readError(err)
		return n, r.err
	}
	return n, nil
}

// path is the path of the node being read.
func (r *Reader) path() string {
	if r.depth < 2 {
		return ""
	}
	return strings.Join(r.last[2:r.depth+1], "/")
}

// fault is the error for a NAR that breaks a rule.
func (r *Reader) fault(err error) error {
	return &FormatError{Offset: r.Offset(), Path: r.path(), Msg: err.Error()}
}

// readError tells the errors of the source from those of the NAR.
func (r *Reader) readError(err error) error {
	e := &FormatError{Offset: r.Offset(), Path: r.path(), Err: err}
	var limit *wire.LimitError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		e.Msg, e.Err = "it ends early", io.ErrUnexpectedEOF
	case errors.Is(err, wire.ErrPadding), errors.As(err, &limit):
		e.Msg = err.Error()
	default:
		return fmt.Errorf("read NAR at offset %d: %w", r.Offset(), err)
	}
	return e
}

// ReadTree reads one NAR and returns its Tree. The contents are skipped.
func ReadTree(r io.Reader, lim Limits) (*Tree, error) {
	nr := NewReader(r, lim)
	b := NewTreeBuilder(lim)
	for {
		h, err := nr.Next()
		if errors.Is(err, io.EOF) {
			return b.Finish()
		}
		if err != nil {
			return nil, err
		}
		if err := b.Add(h); err != nil {
			return nil, err
		}
	}
}
