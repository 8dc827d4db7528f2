package build

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nixwire"
)

// exportGraph writes the files that exportReferencesGraph asks for: pairs of a file name and a path, of whose closure the file tells in the
// form of nix-store --register-validity.
func (a *attempt) exportGraph() error {
	g := a.g
	words := strings.Fields(g.d.Env["exportReferencesGraph"])
	if len(words)%2 != 0 {
		return fail(nixwire.MiscFailure, "odd number of tokens in 'exportReferencesGraph': '%s'", g.d.Env["exportReferencesGraph"])
	}
	name := regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)
	for pair := range slices.Chunk(words, 2) {
		if !name.MatchString(pair[0]) {
			return fail(nixwire.MiscFailure, "invalid file name '%s' in 'exportReferencesGraph'", pair[0])
		}
		text, err := a.registration(a.rewrite(pair[1]))
		if err != nil {
			return err
		}
		if err := a.writeFile(pair[0], text); err != nil {
			return err
		}
	}
	return nil
}

// registration tells of the closure of a path, which must be among the inputs.
func (a *attempt) registration(name string) (string, error) {
	g := a.g
	dir := g.b.store.Dir()
	rest, ok := strings.CutPrefix(name, string(dir)+"/")
	if !ok {
		return "", fail(nixwire.MiscFailure, "'exportReferencesGraph' contains a non-store path '%s'", name)
	}
	base, _, _ := strings.Cut(rest, "/")
	p, err := nix.ParseBaseName(base)
	if err != nil {
		return "", err
	}
	if !slices.Contains(a.closure, p) {
		return "", fail(nixwire.MiscFailure, "cannot export references of path '%s' because it is not in the input closure of the derivation", dir.Path(p))
	}
	closure, err := g.b.store.Closure(p)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	for _, p := range closure {
		info, err := g.b.store.PathInfo(p)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&text, "%s\n\n%d\n", dir.Path(p), len(info.References))
		for _, ref := range info.References {
			fmt.Fprintln(&text, dir.Path(ref))
		}
	}
	return text.String(), nil
}

// checkReferences holds outputs against what the derivation allows them to refer to.
func (a *attempt) checkReferences(all map[string]*made) error {
	for _, rule := range []struct {
		attr            string
		allowed, closed bool
	}{
		{"allowedReferences", true, false},
		{"allowedRequisites", true, true},
		{"disallowedReferences", false, false},
		{"disallowedRequisites", false, true},
	} {
		spec, ok := a.g.d.Env[rule.attr]
		if !ok {
			continue
		}
		for _, m := range all {
			if err := a.checkRule(m, all, rule.attr, strings.Fields(spec), rule.allowed, rule.closed); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *attempt) checkRule(m *made, all map[string]*made, attr string, words []string, allowed, closed bool) error {
	g := a.g
	listed := map[nix.StorePath]struct{}{}
	for _, word := range words {
		word = a.rewrite(word)
		if p, err := nix.ParseStorePath(g.b.store.Dir(), word); err == nil {
			listed[settled(p, all)] = struct{}{}
		} else if other := all[word]; other != nil {
			listed[other.info.Path] = struct{}{}
		} else {
			return fail(nixwire.OutputRejected, "derivation contains an illegal reference specifier '%s'", word)
		}
	}
	used, err := a.used(m, all, closed)
	if err != nil {
		return err
	}
	var bad []string
	for _, p := range used {
		if _, ok := listed[p]; ok != allowed {
			bad = append(bad, "\n  "+g.b.print(p))
		}
	}
	if len(bad) > 0 {
		return fail(nixwire.OutputRejected, "output '%s' is not allowed to refer to the following paths (%s):%s", g.b.print(m.info.Path), attr, strings.Join(bad, ""))
	}
	return nil
}

// used returns what an output refers to, or, closed, all that it leads to.
func (a *attempt) used(m *made, all map[string]*made, closed bool) ([]nix.StorePath, error) {
	if !closed {
		return m.info.References, nil
	}
	seen := map[nix.StorePath]struct{}{}
	var todo, valid []nix.StorePath
	add := func(paths []nix.StorePath) {
		for _, p := range paths {
			if _, ok := seen[p]; !ok {
				seen[p] = struct{}{}
				todo = append(todo, p)
			}
		}
	}
	add(m.info.References)
	for len(todo) > 0 {
		p := todo[0]
		todo = todo[1:]
		isOutput := false
		for _, other := range all {
			if other.info.Path == p {
				isOutput = true
				add(other.info.References)
			}
		}
		if !isOutput {
			valid = append(valid, p)
		}
	}
	closure, err := a.g.b.store.Closure(valid...)
	if err != nil {
		return nil, err
	}
	for _, p := range closure {
		seen[p] = struct{}{}
	}
	paths := make([]nix.StorePath, 0, len(seen))
	for p := range seen {
		paths = append(paths, p)
	}
	return nix.SortPaths(paths), nil
}
