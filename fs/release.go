package fs

import "github.com/hanwen/go-fuse/v2/fuse"

// pruneBatch is how many nodes one notify is about.
const pruneBatch = 1024

// release makes the kernel forget the names of all nodes in a slot, entries before their directories: a directory is in
// use while the kernel knows something in it. What a process uses stays.
func (s *server) release(conn kernel, slot uint32) error {
	o, err := s.objects.get(slot)
	if err != nil {
		return err
	}
	t := o.view.tree
	batch := make([]uint64, 0, min(pruneBatch, t.Len()))
	for i := t.Len() - 1; i >= 0 && s.lookups.get(slot) != 0; i-- { // breadth first, backwards
		batch = append(batch, nodeID(slot, uint32(i)))
		if len(batch) < pruneBatch && i > 0 {
			continue
		}
		if st := conn.PruneNotify(batch); st == fuse.ENOSYS {
			s.releaseNames(conn, o)
			return nil
		}
		batch = batch[:0]
	}
	return nil
}

// releaseNames does the same for kernels before Linux 6.18, a node at a time. It drops also the names of what is in
// use, which nobody can find any more anyway.
func (s *server) releaseNames(conn kernel, o *object) {
	t := o.view.tree
	for i := uint32(t.Len() - 1); i > 0 && s.lookups.get(o.slot) != 0; i-- {
		dir := t.Parent(i)
		first, _ := t.Children(dir)
		conn.EntryNotify(nodeID(o.slot, dir), o.view.entry(o.view.hacked[dir], first, i))
		if o.view.hacked[dir] != nil { // or the kernel knows it under its original name
			conn.EntryNotify(nodeID(o.slot, dir), t.Name(i))
		}
	}
}

// drop forgets the tree of a slot to which the kernel holds no reference, and returns the references. It looks for them
// once more in the end: a request may have found the tree just before.
func (s *server) drop(slot uint32) (refs int64) {
	if refs = s.lookups.get(slot); refs == 0 {
		s.objects.drop(slot)
		refs = s.lookups.get(slot)
	}
	return refs
}
