package fs

import (
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
)

const xattrPrefix = "user.narfs."

// GetXAttr reads one extended attribute. Without Options.XAttr go-fuse answers before it is called.
func (s *server) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	s.counts.begin(opXAttr)
	defer s.counts.end(opXAttr)
	short, ours := strings.CutPrefix(name, xattrPrefix)
	if !ours {
		return 0, fuse.ENOATTR
	}
	attrs, st := s.xattrs(h.NodeId)
	if st != fuse.OK {
		return 0, st
	}
	for _, a := range attrs {
		if a.Name == short {
			return reply(dest, a.Value)
		}
	}
	return 0, fuse.ENOATTR
}

// ListXAttr lists the names of the extended attributes.
func (s *server) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	s.counts.begin(opXAttr)
	defer s.counts.end(opXAttr)
	attrs, st := s.xattrs(h.NodeId)
	if st != fuse.OK {
		return 0, st
	}
	var names []byte
	for _, a := range attrs {
		names = append(append(append(names, xattrPrefix...), a.Name...), 0)
	}
	return reply(dest, names)
}

// reply copies value to dest, which is empty when only the size is wanted.
func reply(dest, value []byte) (uint32, fuse.Status) {
	if len(dest) < len(value) {
		return uint32(len(value)), fuse.ERANGE
	}
	return uint32(copy(dest, value)), fuse.OK
}

func (s *server) xattrs(id uint64) ([]XAttr, fuse.Status) {
	if id == rootNode {
		return nil, fuse.OK
	}
	o, i, st := s.node(id, "read the extended attributes")
	if st != fuse.OK {
		return nil, st
	}
	with, ok := o.obj.(XAttrObject)
	if !ok {
		return nil, fuse.OK
	}
	attrs, err := with.XAttrs(i)
	if err != nil {
		return nil, s.fail("read the extended attributes", o.slot, i, err)
	}
	return attrs, fuse.OK
}
