package nix

import (
	"maps"
	"slices"
)

// InOrder returns path infos with each behind those of the others that it refers to.
func InOrder(infos []PathInfo) []PathInfo {
	todo := make(map[StorePath]PathInfo, len(infos))
	for _, info := range infos {
		todo[info.Path] = info
	}
	type frame struct {
		info PathInfo
		rest []StorePath
	}
	var sorted []PathInfo
	var stack []frame // no recursion: a chain of references may be long
	// A loop of references, which no store has, ends as well: who is on the way is out of todo.
	enter := func(sp StorePath) {
		if info, ok := todo[sp]; ok {
			delete(todo, sp)
			stack = append(stack, frame{info, info.References})
		}
	}
	for _, first := range slices.SortedFunc(maps.Keys(todo), StorePath.Compare) {
		enter(first)
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			if len(top.rest) == 0 {
				sorted = append(sorted, top.info)
				stack = stack[:len(stack)-1]
				continue
			}
			next := top.rest[0]
			top.rest = top.rest[1:]
			enter(next)
		}
	}
	return sorted
}
