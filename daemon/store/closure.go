package store

import (
	"fmt"
	"slices"

	"github.com/narfs/narfs/internal/nix"
)

// Closure returns paths with everything that they refer to, directly or not, in order. All of paths must be valid.
func (s *Store) Closure(paths ...nix.StorePath) ([]nix.StorePath, error) {
	return s.closure(paths, func(p nix.StorePath) ([]nix.StorePath, error) {
		info, err := s.PathInfo(p)
		return info.References, err
	})
}

// ReferrersClosure returns paths with everything that refers to them, directly or not, in order. All of paths must be
// valid.
func (s *Store) ReferrersClosure(paths ...nix.StorePath) ([]nix.StorePath, error) {
	return s.closure(paths, func(p nix.StorePath) ([]nix.StorePath, error) {
		if ok, err := s.db.Has(p); err != nil || !ok {
			return nil, errorOr(err, s.notValid(p))
		}
		return s.db.Referrers(p)
	})
}

func errorOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

func (*Store) closure(start []nix.StorePath, next func(nix.StorePath) ([]nix.StorePath, error)) ([]nix.StorePath, error) {
	seen := map[nix.StorePath]struct{}{}
	var queue []nix.StorePath
	enter := func(paths []nix.StorePath) {
		for _, p := range paths {
			if _, ok := seen[p]; !ok {
				seen[p] = struct{}{}
				queue = append(queue, p)
			}
		}
	}
	enter(start)
	for i := 0; i < len(queue); i++ { // it grows
		paths, err := next(queue[i])
		if err != nil {
			return nil, err
		}
		enter(paths)
	}
	slices.SortFunc(queue, nix.StorePath.Compare)
	return queue, nil
}

// Sorted returns the set of paths with each behind those of the others that it refers to, exactly in the order in which
// Nix exports them. All must be valid.
func (s *Store) Sorted(paths []nix.StorePath) ([]nix.StorePath, error) {
	return s.topoSort(paths, func(p nix.StorePath) ([]nix.StorePath, error) {
		info, err := s.PathInfo(p)
		return info.References, err
	})
}

// topoSort is Nix's: depth first in the order of the base names, each path after its references.
func (s *Store) topoSort(paths []nix.StorePath, references func(nix.StorePath) ([]nix.StorePath, error)) ([]nix.StorePath, error) {
	paths = nix.SortPaths(paths)
	const (
		unseen = iota + 1
		open
		done
	)
	state := make(map[nix.StorePath]int, len(paths))
	for _, p := range paths {
		state[p] = unseen
	}
	type frame struct {
		path nix.StorePath
		rest []nix.StorePath
	}
	sorted := make([]nix.StorePath, 0, len(paths))
	var stack []frame // no recursion: a chain of references may be long
	push := func(p nix.StorePath) error {
		refs, err := references(p)
		if err != nil {
			return err
		}
		state[p] = open
		stack = append(stack, frame{p, refs})
		return nil
	}
	for _, p := range paths {
		if state[p] != unseen {
			continue
		}
		if err := push(p); err != nil {
			return nil, err
		}
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			if len(top.rest) == 0 {
				state[top.path] = done
				sorted = append(sorted, top.path)
				stack = stack[:len(stack)-1]
				continue
			}
			ref := top.rest[0]
			top.rest = top.rest[1:]
			switch {
			case ref == top.path:
			case state[ref] == open:
				return nil, fmt.Errorf("cycle detected in the references of '%s' from '%s'", s.print(ref), s.print(top.path))
			case state[ref] == unseen:
				if err := push(ref); err != nil {
					return nil, err
				}
			}
		}
	}
	return sorted, nil
}
