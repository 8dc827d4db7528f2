package gc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

// Options of a collection. The zero value deletes what no root leads to, and keeps no derivations.
type Options struct {
	KeepDerivations bool // what is needed keeps its deriver
	KeepOutputs     bool // a needed derivation keeps its outputs, and the paths that name it as their deriver
	// KeepSince keeps what became valid at that time or later, and what it refers to; zero keeps nothing for that.
	KeepSince time.Time
	// Shown are the folders beside the store directory in which the store is seen.
	Shown []string
	// IgnoreUnreadable goes on where a root cannot be read.
	IgnoreUnreadable bool
	// Unreadable hears of such roots then; it may be nil.
	Unreadable func(error)
	// Censor returns a root as it may be told to who wants to know why a path is needed; nil tells all.
	Censor func(Root) Root
	// Waiting hears, before the collection begins, that another one has to end first; it may be nil.
	Waiting func()
}

// Plan says what is dead.
type Plan struct {
	// Dead are the paths that no root leads to, each behind those of the others that refer to it.
	Dead      []nix.StorePath
	DeadBytes int64 // of their NARs
	Live      int
	LiveBytes int64
	Roots     []Root // those that name valid paths

	g *graph
}

// graph is what refers to what, by numbers. A path that is only mentioned as a deriver has a number, too.
type graph struct {
	number map[nix.StorePath]uint32
	nodes  []node
	outs   map[uint32][]uint32 // derivation → its outputs, and valid paths that name it as their deriver; only with KeepOutputs
}

type node struct {
	path    nix.StorePath
	size    int64
	since   int64
	refs    []uint32
	deriver uint32 // its number plus 1; 0 for none
	keeper  uint32 // what keeps it alive, its number plus 1; a root's own is itself
	valid   bool
}

func (g *graph) of(p nix.StorePath) uint32 {
	if n, ok := g.number[p]; ok {
		return n
	}
	n := uint32(len(g.nodes))
	g.number[p] = n
	g.nodes = append(g.nodes, node{path: p})
	return n
}

// readGraph reads all valid paths.
func readGraph(ctx context.Context, s *store.Store, outputs bool) (*graph, error) {
	g := &graph{number: map[nix.StorePath]uint32{}, outs: map[uint32][]uint32{}}
	for info, err := range s.All() {
		if err != nil {
			return nil, fmt.Errorf("read all paths: %w", err)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		n := g.of(info.Path)
		var refs []uint32
		for _, ref := range info.References {
			if ref != info.Path {
				refs = append(refs, g.of(ref))
			}
		}
		deriver := uint32(0)
		if !info.Deriver.IsZero() && info.Deriver != info.Path {
			d := g.of(info.Deriver)
			deriver = d + 1
			if outputs {
				g.outs[d] = append(g.outs[d], n)
			}
		}
		if outputs && store.IsDerivation(info.Path) {
			if err := g.addOutputs(s, n); err != nil {
				return nil, err
			}
		}
		g.nodes[n] = node{
			path: info.Path, size: int64(info.NarSize), since: info.RegistrationTime, refs: refs, deriver: deriver, valid: true,
		}
	}
	return g, nil
}

// addOutputs notes where a derivation's outputs are, or will be.
func (g *graph) addOutputs(s *store.Store, n uint32) error {
	outs, err := s.Outputs(g.nodes[n].path)
	if err != nil && !errors.Is(err, store.ErrNotValid) {
		return fmt.Errorf("read all paths: %w", err)
	}
	for _, out := range outs {
		g.outs[n] = append(g.outs[n], g.of(out))
	}
	return nil
}

// mark marks all that roots lead to.
func (g *graph) mark(starts []uint32, o Options) {
	var todo []uint32
	enter := func(n, by uint32) {
		if node := &g.nodes[n]; node.valid && node.keeper == 0 {
			node.keeper = by + 1
			todo = append(todo, n)
		}
	}
	for _, n := range starts {
		enter(n, n)
	}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, ref := range g.nodes[n].refs {
			enter(ref, n)
		}
		if d := g.nodes[n].deriver; d > 0 && o.KeepDerivations {
			enter(d-1, n)
		}
		if o.KeepOutputs {
			for _, out := range g.outs[n] {
				enter(out, n)
			}
		}
	}
}

// dead returns the paths that are not marked, each behind those that refer to it.
func (g *graph) dead() []nix.StorePath {
	const (
		unseen = iota
		open
		done
	)
	state := make([]uint8, len(g.nodes))
	type frame struct {
		n    uint32
		next int
	}
	var order []nix.StorePath // references first
	var stack []frame         // no recursion: a chain may be long
	for first := range g.nodes {
		if !g.nodes[first].valid || g.nodes[first].keeper > 0 || state[first] != unseen {
			continue
		}
		stack = append(stack[:0], frame{uint32(first), 0})
		state[first] = open
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			refs := g.nodes[top.n].refs
			if top.next == len(refs) {
				state[top.n] = done
				order = append(order, g.nodes[top.n].path)
				stack = stack[:len(stack)-1]
				continue
			}
			ref := refs[top.next]
			top.next++
			if node := &g.nodes[ref]; node.valid && node.keeper == 0 && state[ref] == unseen {
				state[ref] = open
				stack = append(stack, frame{ref, 0})
			}
		}
	}
	for i, j := 0, len(order)-1; i < j; i, j = i+1, j-1 {
		order[i], order[j] = order[j], order[i]
	}
	return order
}

// Why returns what keeps a path, from a root to it; nothing if it is dead or not valid.
func (p *Plan) Why(path nix.StorePath) (root *Root, chain []nix.StorePath) {
	n, ok := p.g.number[path]
	if !ok || p.g.nodes[n].keeper == 0 {
		return nil, nil
	}
	for {
		chain = append([]nix.StorePath{p.g.nodes[n].path}, chain...)
		by := p.g.nodes[n].keeper - 1
		if by == n {
			break
		}
		n = by
	}
	for i := range p.Roots {
		if p.Roots[i].Path == chain[0] {
			return &p.Roots[i], chain
		}
	}
	return nil, chain // by its age
}

// Living returns the paths that are not dead, in any order.
func (p *Plan) Living() []nix.StorePath {
	var paths []nix.StorePath
	for i := range p.g.nodes {
		if n := &p.g.nodes[i]; n.valid && n.keeper > 0 {
			paths = append(paths, n.path)
		}
	}
	return paths
}
