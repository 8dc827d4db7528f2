package nar

// What the tokens around nodes take in a NAR, in bytes.
const (
	// A root before its type, and its end.
	sizeRootHead = int64(len(runRoot))
	sizeRootTail = int64(len(tokClose))
	// An entry before its type, without the name and its padding, and its end.
	sizeEntryHead = int64(len(runEntry) + len(tokEmpty) + len(runNode))
	sizeEntryTail = int64(len(runCloses))
	// Type and fields, without contents or target and their padding.
	sizeDir  = int64(len(tokDirectory))
	sizeFile = int64(len(runFile) + len(tokEmpty))
	sizeExec = int64(len(runExec) + len(tokEmpty))
	sizeLink = int64(len(runSymlink) + len(tokEmpty))
)

// fields is what stands of node i between its name and its contents or
// entries. (A symlink is all fields.)
func (t *Tree) fields(i uint32) int64 {
	switch n := t.at(i); n.kind() {
	case kindDir:
		return sizeDir
	case kindFile:
		return sizeFile
	case kindExec:
		return sizeExec
	default:
		_, count := n.link()
		return sizeLink + padded(int64(count))
	}
}

// Size is the size in bytes of the NAR that has this tree.
func Size(t *Tree) int64 {
	size := sizeRootHead + sizeRootTail + t.fields(0)
	for i := range uint32(t.Len()) {
		if i > 0 {
			size += sizeEntryHead + padded(int64(len(t.Name(i)))) + t.fields(i) + sizeEntryTail
		}
		if t.Type(i) == TypeRegular {
			size += padded(t.Size(i))
		}
	}
	return size
}

// Offsets gives for every regular file, by node index, where its contents begin
// in the NAR; 0 for other nodes.
func (t *Tree) Offsets() []int64 {
	offsets := make([]int64, t.Len())
	var off int64
	dirs := 0 // begun and not yet ended
	for i, depth := range t.All() {
		for ; dirs >= max(depth, 2); dirs-- {
			off += sizeEntryTail
		}
		if i == 0 {
			off += sizeRootHead
		} else {
			off += sizeEntryHead + padded(int64(len(t.Name(i))))
		}
		off += t.fields(i)
		switch t.Type(i) {
		case TypeDirectory:
			dirs = depth
		case TypeSymlink:
			off += sizeEntryTail
		case TypeRegular:
			offsets[i] = off
			off += padded(t.Size(i)) + sizeEntryTail
		}
	}
	return offsets
}
