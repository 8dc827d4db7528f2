package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/narfs/narfs/casefold"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/nar"
	"github.com/narfs/narfs/nar/cas"
)

// node is a file, link or directory inside of a store path, or that itself.
type node struct {
	object  *store.Object
	content *cas.Object
	tree    *nar.Tree
	index   uint32
}

func (n *node) close() { n.object.Close() }

// opened is a store path open for walking.
func opened(s *store.Store, sp nix.StorePath) (*node, error) {
	o, err := s.Object(sp)
	if err != nil {
		return nil, err
	}
	n := &node{object: o}
	if n.content, err = o.Content(); err == nil {
		n.tree, err = n.content.Tree()
	}
	if err != nil {
		o.Close()
		return nil, fmt.Errorf("path '%s': %w", s.Dir().Path(sp), err)
	}
	return n, nil
}

// walk finds what a target is. It follows symlinks, also from one store path to another, on the way; that at the end only if
// follow is set. The node must be closed.
func walk(s *store.Store, t target, follow bool) (*node, error) {
	n, err := opened(s, t.path)
	if err != nil {
		return nil, err
	}
	todo := splitPath(t.rest)
	for links := 0; ; {
		if n.tree.Type(n.index) == nar.TypeSymlink && (follow || len(todo) > 0) {
			if links++; links > maxLinks {
				err = fmt.Errorf("%s: too many symlinks", t.arg)
			} else {
				n, todo, err = jump(s, n, todo)
			}
		} else if len(todo) == 0 {
			return n, nil
		} else {
			err = step(s, n, t, todo[0])
			todo = todo[1:]
		}
		if err != nil {
			n.close()
			return nil, err
		}
	}
}

// step goes one name further.
func step(s *store.Store, n *node, t target, name string) error {
	switch name {
	case ".":
		return nil
	case "..":
		n.index = n.tree.Parent(n.index)
		return nil
	}
	next, ok := n.tree.Lookup(n.index, name)
	if orig, hacked := casefold.Strip(name); !ok && hacked { // as a hacked view shows it
		next, ok = n.tree.Lookup(n.index, orig)
	}
	if n.tree.Type(n.index) != nar.TypeDirectory || !ok {
		return &absentError{strings.TrimSuffix(s.Dir().Path(t.path)+"/"+t.rest, "/")}
	}
	n.index = next
	return nil
}

// absentError says that there is nothing of a name inside of a store path. The text is Nix's.
type absentError struct{ path string }

func (e *absentError) Error() string { return "path '" + e.path + "' does not exist" }

var errLeadsOut = errors.New("leads out of the store")

// jump follows a symlink: the names that it stands for come before the rest of the way.
func jump(s *store.Store, n *node, todo []string) (*node, []string, error) {
	link := n.tree.Target(n.index)
	place := s.Dir().Path(n.object.Path()) // where the link is, as far as the store is concerned
	if dir := n.tree.Path(n.tree.Parent(n.index)); n.index != 0 && dir != "" {
		place += "/" + dir
	} else if n.index == 0 {
		place = string(s.Dir())
	}
	to := link
	if !strings.HasPrefix(link, "/") {
		to = place + "/" + link
	}
	sp, rest, err := nix.SplitStorePath(s.Dir(), to)
	if err != nil {
		return n, nil, fmt.Errorf("symlink %s -> %s %w", place, link, errLeadsOut)
	}
	if sp == n.object.Path() {
		n.index = 0
		return n, append(splitPath(rest), todo...), nil
	}
	other, err := opened(s, sp)
	if err != nil {
		return n, nil, fmt.Errorf("symlink %s -> %s: %w", place, link, err)
	}
	n.close()
	return other, append(splitPath(rest), todo...), nil
}
