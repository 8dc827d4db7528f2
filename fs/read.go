package fs

import (
	"errors"
	"fmt"
	"io"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/narfs/narfs/nar"
)

// wholeFrames is the size from which a READ is taken for sequential reading: the object decodes straight into the
// answer then. Below it, the frame's memory is the answer, and the rest of the frame goes to the page cache: the
// kernel asks for single pages when a program reads here and there, and a frame would be decoded for each.
const wholeFrames = 64 << 10

// smallFile is up to which size a file is taken for one of several in its frame.
const smallFile = 64 << 10

// Open gives out no handles: everything is found by node id. ENOSYS tells a kernel that knows no-open never to ask
// again.
func (s *server) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	s.counts.begin(opOpen)
	defer s.counts.end(opOpen)
	if in.Flags&fuse.O_ANYWRITE != 0 {
		return fuse.EROFS
	}
	if s.noOpen {
		return fuse.ENOSYS
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

// Read reads a regular file. An answer is short only at the end of the file: the kernel would take it for the end.
func (s *server) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	s.counts.begin(opRead)
	defer s.counts.end(opRead)
	o, i, st := s.node(in.NodeId, "read")
	if st != fuse.OK {
		return nil, st
	}
	switch o.view.tree.Type(i) {
	case nar.TypeRegular:
	case nar.TypeDirectory:
		return nil, fuse.EISDIR
	default:
		return nil, fuse.EINVAL
	}
	size := uint64(o.view.tree.Size(i))
	if in.Offset >= size || len(buf) == 0 {
		return fuse.ReadResultData(nil), fuse.OK
	}
	buf = buf[:min(uint64(len(buf)), size-in.Offset)]
	off := int64(in.Offset)
	s.counts.readBytes.Add(int64(len(buf)))
	if len(buf) < wholeFrames {
		res, err := s.readSpan(o, i, off, len(buf))
		if err != nil {
			return nil, s.fail("read", o.slot, i, err)
		}
		if res != nil {
			return res, fuse.OK
		}
	}
	o.given.add(i)
	n, err := o.obj.ReadAt(i, buf, off)
	if n == len(buf) {
		return fuse.ReadResultData(buf), fuse.OK
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %d of %d bytes at %d", io.ErrUnexpectedEOF, n, len(buf), off)
	}
	return nil, s.fail("read", o.slot, i, err)
}

// readSpan answers with the memory of the frame. Without an error but with a nil result, the frame holds only a
// part of what is wanted.
func (s *server) readSpan(o *object, i uint32, off int64, n int) (fuse.ReadResult, error) {
	size := o.view.tree.Size(i)
	enough := 0
	// Of a small file all is wanted, and the rest of its frame only if somebody reads the others, too.
	one := size <= smallFile && (s.push == nil || s.push.others.hopeless())
	if one {
		enough = n
	}
	data, start, release, err := o.obj.Span(i, off, enough)
	if err != nil {
		return nil, err
	}
	if off < start || off-start+int64(n) > int64(len(data)) {
		release()
		return nil, nil //nolint:nilnil // says what it means, see above
	}
	from := off - start
	rest := pushJob{node: nodeID(o.slot, i), size: size, data: data, start: start, from: from, to: from + int64(n), release: release}
	if again := o.given.add(i); size <= smallFile && !one {
		rest.o, rest.again = o, again
	}
	return &spanResult{
		part: [1][]byte{data[from : from+int64(n)]},
		push: s.push,
		rest: rest,
	}, nil
}

// spanResult is an answer to READ that lives in the memory of a frame. go-fuse writes Slices to the kernel without
// copying and then calls Done.
type spanResult struct {
	part [1][]byte
	push *pusher
	rest pushJob
}

// Size is never 0: go-fuse does not call Done for an empty answer.
func (r *spanResult) Size() int { return len(r.part[0]) }

// Slices is what makes go-fuse write from this memory.
func (r *spanResult) Slices() ([][]byte, fuse.Status) { return r.part[:], fuse.OK }

// Bytes is for callers that know no Slices.
func (r *spanResult) Bytes([]byte) ([]byte, fuse.Status) { return r.part[0], fuse.OK }

// Done is called when the kernel has the answer. Not before may the rest of the frame be pushed: the kernel would
// wait for the pages that this answer fills.
func (r *spanResult) Done() {
	if r.push == nil || !r.push.offer(r.rest) {
		r.rest.release()
	}
}
