package main

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/fs"
	"github.com/narfs/narfs/internal/nix"
)

// target is what an argument means: a valid store path, or something inside of one.
type target struct {
	arg  string // as the user wrote it
	path nix.StorePath
	rest string // clean and relative, "" for the store path itself
}

// maxLinks is how many symlinks are followed on the way to something, as on Linux.
const maxLinks = 40

// targets finds out what arguments mean.
func (p *process) targets(s *store.Store, args []string) ([]target, error) {
	all := make([]target, 0, len(args))
	for _, arg := range args {
		t, err := p.target(s, arg)
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return all, nil
}

// target finds out what an argument means: a full path, one without the store directory, or an abbreviation of one, each
// with or without something inside of it; a path in a mounted store; a link to one of these.
func (p *process) target(s *store.Store, arg string) (target, error) {
	if arg == "" {
		return target{}, usagef("a path is empty")
	}
	if strings.HasPrefix(arg, string(s.Dir())+"/") {
		sp, rest, err := nix.SplitStorePath(s.Dir(), arg)
		if err != nil {
			return target{}, err
		}
		return valid(s, target{arg, sp, rest})
	}
	first, rest, _ := strings.Cut(arg, "/")
	if rest != "" {
		rest = path.Clean("/" + rest)[1:]
	}
	if sp, err := nix.ParseBaseName(first); err == nil {
		return valid(s, target{arg, sp, rest})
	}
	if sp, err := abbreviated(s, first); err != nil || !sp.IsZero() {
		return target{arg, sp, rest}, err
	}
	return p.onDisk(s, arg)
}

func valid(s *store.Store, t target) (target, error) {
	ok, err := s.IsValid(t.path)
	if err == nil && !ok {
		err = &store.NotValidError{Path: s.Dir().Path(t.path)}
	}
	return t, err
}

// The characters of a hash part that make an abbreviation, at least.
const minAbbreviation = 4

// abbreviated returns the only valid path whose hash part begins so; none if that cannot be meant, or there is none.
func abbreviated(s *store.Store, prefix string) (nix.StorePath, error) {
	const hashPart = 32
	if len(prefix) < minAbbreviation || len(prefix) > hashPart || strings.Trim(prefix, "0123456789abcdfghijklmnpqrsvwxyz") != "" {
		return nix.StorePath{}, nil
	}
	if len(prefix) == hashPart {
		sp, err := s.ByHashPart(prefix)
		if errors.Is(err, store.ErrNotValid) {
			err = nil
		}
		return sp, err
	}
	var found []nix.StorePath
	err := s.Slots(func(sp nix.StorePath, _ uint32) bool {
		if strings.HasPrefix(sp.HashPart(), prefix) {
			found = append(found, sp)
		}
		return true
	})
	switch {
	case err != nil || len(found) == 0:
		return nix.StorePath{}, err
	case len(found) > 1:
		return nix.StorePath{}, hint(fmt.Errorf("%q is the beginning of %d paths", prefix, len(found)),
			"for example "+found[0].BaseName()+" and "+found[1].BaseName())
	}
	return found[0], nil
}

// onDisk finds out what a path of the file system means that is, or leads to, one in a mounted store, or that is a link to
// a store path. What is below a mount is not touched: this process may be the one that serves it.
func (p *process) onDisk(s *store.Store, arg string) (target, error) {
	unknown := &store.NotValidError{Path: arg}
	if p.guest {
		sp, rest, err := nix.SplitStorePath(s.Dir(), string(s.Dir())+"/"+p.leadTo[arg])
		if err != nil {
			return target{}, unknown
		}
		return valid(s, target{arg, sp, rest})
	}
	mounts, err := fs.Mounts()
	if err != nil {
		return target{}, err
	}
	for at, todo := range steps(p.abs(arg)) {
		if inStore, ok := inMount(mounts, s.StateDir(), string(s.Dir()), at); ok {
			sp, rest, err := nix.SplitStorePath(s.Dir(), strings.Join(append([]string{string(s.Dir()), inStore}, todo...), "/"))
			if err != nil {
				return target{}, unknown
			}
			return valid(s, target{arg, sp, rest})
		}
	}
	return target{}, unknown
}

// steps goes the way to what an absolute path names, through links, and tells where it is, before it looks at what is there, and what is
// still to go.
func steps(name string) iter.Seq2[string, []string] {
	return func(yield func(string, []string) bool) {
		at, todo := "/", splitPath(name)
		for links := 0; len(todo) > 0 && links <= maxLinks; {
			next := filepath.Join(at, todo[0])
			if todo = todo[1:]; !yield(next, todo) {
				return
			}
			to, err := os.Readlink(next)
			if err != nil { // no link
				at = next
				continue
			}
			links++
			if filepath.IsAbs(to) {
				at = "/"
			}
			todo = append(splitPath(to), todo...)
		}
	}
}

func splitPath(name string) []string {
	return strings.FieldsFunc(name, func(r rune) bool { return r == '/' })
}

// inMount returns the part of a path that is below the store directory, or below a mount of the store in a state directory.
func inMount(mounts []fs.Mounted, stateDir, storeDir, name string) (rest string, ok bool) {
	if rest, ok = strings.CutPrefix(name, storeDir+"/"); ok {
		return rest, true
	}
	for _, m := range mounts {
		rest, ok = strings.CutPrefix(name, strings.TrimSuffix(m.Dir, "/")+"/")
		if ok && (!filepath.IsAbs(m.Source) || sameDir(m.Source, stateDir)) {
			return rest, true
		}
	}
	return "", false
}

// storePaths finds out which store paths arguments mean. What is inside of one is an error.
func (p *process) storePaths(s *store.Store, args []string) ([]nix.StorePath, error) {
	ts, err := p.targets(s, args)
	if err != nil {
		return nil, err
	}
	paths := make([]nix.StorePath, 0, len(ts))
	for _, t := range ts {
		if t.rest != "" {
			return nil, fmt.Errorf("%s is not a store path but inside of one", t.arg)
		}
		paths = append(paths, t.path)
	}
	return paths, nil
}
