package build

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
	"github.com/narfs/narfs/internal/nixwire"
	"github.com/narfs/narfs/nar"
)

// made is an output that a builder has made.
type made struct {
	name    string
	file    string        // where it is
	scratch nix.StorePath // as the builder knew it
	kind    drv.Kind
	refs    []nix.StorePath // as its contents name them: of the outputs of this build the scratch paths
	narHash nix.Hash
	narSize uint64
	info    nix.PathInfo
}

var errWrongHash = errors.New("hash mismatch")

// takeOver makes valid what the builder has made, and returns it.
func (a *attempt) takeOver(ctx context.Context) ([]Output, error) {
	g := a.g
	candidates := slices.Clone(a.closure)
	for _, p := range a.paths {
		candidates = append(candidates, p)
	}
	all := map[string]*made{}
	for _, name := range g.d.OutputNames() {
		m := &made{
			name: name, scratch: a.paths[name], kind: g.d.Outputs[name].Kind,
			file: filepath.Join(a.scratch, "out", a.paths[name].BaseName()),
		}
		if err := a.inspect(m); err != nil {
			return nil, err
		}
		var err error
		if m.refs, m.narHash, m.narSize, err = scan(m.file, candidates); err != nil {
			return nil, fail(nixwire.OutputRejected, "output '%s' of '%s': %v", name, g.b.print(g.path), err)
		}
		all[name] = m
	}
	order, err := a.inOrder(all)
	if err != nil {
		return nil, err
	}
	for _, m := range order {
		if err := a.settle(ctx, m, all); err != nil {
			return nil, err
		}
	}
	if err := a.checkReferences(all); err != nil {
		return nil, err
	}
	if g.mode == Check {
		return a.compare(all)
	}
	var outputs []Output
	modulo, err := g.b.store.Modulo(ctx, g.d)
	if err != nil {
		return nil, err
	}
	if g.mode == Repair {
		for _, m := range order {
			if err := a.replaces(m); err != nil {
				return nil, err
			}
		}
	}
	for i, m := range order {
		if err := a.importOutput(ctx, m, all, i+1 < len(order)); err != nil {
			return nil, err
		}
		realised := nix.Realisation{ID: nix.DrvOutput{Hash: modulo.Hash, Output: m.name}, OutPath: m.info.Path}
		if m.kind == drv.Floating {
			if err := g.register(ctx, &realised); err != nil {
				return nil, err
			}
		}
		outputs = append(outputs, Output{m.name, m.info.Path, realised})
	}
	slices.SortFunc(outputs, func(x, y Output) int { return strings.Compare(x.Name, y.Name) })
	if g.b.opts.Changed != nil {
		g.b.opts.Changed(ctx)
	}
	return outputs, nil
}

// inspect looks at what there is of an output, without following a link.
func (a *attempt) inspect(m *made) error {
	g := a.g
	var st unix.Stat_t
	err := unix.Lstat(m.file, &st)
	if errors.Is(err, unix.ENOENT) {
		return fail(nixwire.OutputRejected, "builder for '%s' failed to produce output path for output '%s' at '%s'",
			g.b.print(g.path), m.name, g.b.print(m.scratch))
	}
	if err != nil {
		return err
	}
	if int(st.Uid) != a.user.uid {
		return fail(nixwire.OutputRejected, "suspicious ownership on '%s'; rejecting this build output", g.b.print(m.scratch))
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK && st.Mode&0o022 != 0 {
		return fail(nixwire.OutputRejected, "suspicious permission on '%s'; rejecting this build output", g.b.print(m.scratch))
	}
	if m.kind != drv.Fixed {
		return nil
	}
	if method := g.d.Outputs[m.name].CA.Method; method != nix.MethodNAR && method != nix.MethodGit {
		if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o111 != 0 {
			return fail(nixwire.OutputRejected, "output path '%s' should be a non-executable regular file since recursive hashing is not enabled (outputHashMode=flat)",
				g.b.print(m.scratch))
		}
	}
	return nil
}

// inOrder returns outputs with each behind those that it refers to.
func (a *attempt) inOrder(all map[string]*made) (order []*made, err error) {
	byPath := map[nix.StorePath]*made{}
	for _, m := range all {
		byPath[m.scratch] = m
	}
	const (
		open = iota + 1
		done
	)
	state := map[*made]int{}
	var visit func(m *made, from string) error
	visit = func(m *made, from string) error {
		switch state[m] {
		case done:
			return nil
		case open:
			return fail(nixwire.OutputRejected, "cycle detected in build of '%s' in the references of output '%s' from output '%s'",
				a.g.b.print(a.g.path), m.name, from)
		}
		state[m] = open
		for _, ref := range m.refs {
			if other := byPath[ref]; other != nil && other != m {
				if err := visit(other, m.name); err != nil {
					return err
				}
			}
		}
		state[m] = done
		order = append(order, m)
		return nil
	}
	for _, name := range a.g.d.OutputNames() {
		if err := visit(all[name], name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// settle finds out the path and the info of an output, those that it refers to being settled.
func (a *attempt) settle(ctx context.Context, m *made, all map[string]*made) error {
	g := a.g
	dir := g.b.store.Dir()
	m.info = nix.PathInfo{Ultimate: true}
	if m.kind == drv.InputAddressed || m.kind == drv.Fixed || !m.refersTo(all) {
		m.info.NarHash, m.info.NarSize = m.narHash, m.narSize // it is imported as it is
	}
	if !g.path.IsZero() {
		m.info.Deriver = g.path
	}
	out := g.d.Outputs[m.name]
	switch m.kind {
	case drv.InputAddressed:
		m.info.Path = out.Path
		m.info.References = m.refs
	case drv.Fixed:
		m.info.Path, m.info.CA = m.scratch, out.CA
		if len(m.refs) > 0 {
			return fail(nixwire.OutputRejected, "fixed-output derivations must not reference store paths: '%s' references %d distinct paths, e.g. '%s'",
				g.b.print(g.path), len(m.refs), g.b.print(m.refs[0]))
		}
		got, err := m.hash(out.CA.Method, out.CA.Hash.Algo(), nil)
		if err != nil {
			return err
		}
		if got != out.CA.Hash {
			a.keepOther(ctx, m, nix.ContentAddress{Method: out.CA.Method, Hash: got})
			return fail(nixwire.OutputRejected, "%w in fixed-output derivation '%s':\n         specified: %s\n            got:    %s",
				errWrongHash, g.b.print(g.path), out.CA.Hash.SRI(), got.SRI())
		}
	default:
		self := slices.Contains(m.refs, m.scratch)
		for _, ref := range m.refs {
			if ref != m.scratch {
				m.info.References = append(m.info.References, settled(ref, all))
			}
		}
		sum, err := m.hash(out.Method, out.Algo, rewrites(all, m))
		if err != nil {
			return err
		}
		m.info.CA = nix.ContentAddress{Method: out.Method, Hash: sum}
		if m.info.Path, err = nix.MakePathFromCA(dir, m.scratch.Name(), m.info.CA, m.info.References, self); err != nil {
			return fail(nixwire.OutputRejected, "output '%s' of '%s': %v", m.name, g.b.print(g.path), err)
		}
		if self {
			m.info.References = append(m.info.References, m.info.Path)
		}
		m.info.References = nix.SortPaths(m.info.References)
	}
	return nil
}

// keepOther makes a fixed output valid under the path of the hash that it has, which is not the one it should have: the derivation will be
// mended, and need not be built again.
func (a *attempt) keepOther(ctx context.Context, m *made, ca nix.ContentAddress) {
	g := a.g
	info := nix.PathInfo{CA: ca, NarHash: m.narHash, NarSize: m.narSize}
	var err error
	if info.Path, err = nix.MakePathFromCA(g.b.store.Dir(), m.scratch.Name(), ca, nil, false); err == nil {
		m.info = info
		err = a.importOutput(ctx, m, nil, false)
	}
	if err != nil {
		g.b.opts.Logger.WarnContext(ctx, "an output with another hash is not kept", "drv", g.path.BaseName(), "err", err)
	}
	if g.b.opts.Changed != nil {
		g.b.opts.Changed(ctx)
	}
}

// settled returns the path that one is which the builder knew.
func settled(p nix.StorePath, all map[string]*made) nix.StorePath {
	for _, m := range all {
		if m.scratch == p && !m.info.Path.IsZero() {
			return m.info.Path
		}
	}
	return p
}

// rewrites returns what becomes of the hash parts of settled outputs in one that refers to them.
func rewrites(all map[string]*made, but *made) map[string]string {
	pairs := map[string]string{}
	for _, m := range all {
		if m != but && !m.info.Path.IsZero() && m.info.Path != m.scratch {
			pairs[m.scratch.HashPart()] = m.info.Path.HashPart()
		}
	}
	return pairs
}

// importOutput makes an output valid, with the signatures of the machine's keys.
func (a *attempt) importOutput(ctx context.Context, m *made, all map[string]*made, lazy bool) error {
	g := a.g
	pairs := rewrites(all, nil)
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(dump(w, m.file, pairs)) }()
	err := g.b.store.Import(ctx, m.info, r, store.ImportOptions{Holder: g.o.Holder, Pins: g.o.Pins, Lazy: lazy, Repair: g.mode == Repair})
	_ = r.Close()
	if err == nil && len(g.o.Keys) > 0 {
		err = a.sign(ctx, m.info.Path)
	}
	if err != nil {
		return fail(nixwire.OutputRejected, "output '%s' of '%s': %v", m.name, g.b.print(g.path), err)
	}
	return nil
}

// sign adds signatures to a valid path.
func (a *attempt) sign(ctx context.Context, p nix.StorePath) error {
	info, err := a.g.b.store.PathInfo(p)
	if err != nil {
		return err
	}
	for _, key := range a.g.o.Keys {
		if err := info.Sign(a.g.b.store.Dir(), key); err != nil {
			return err
		}
	}
	return a.g.b.store.AddSignatures(ctx, p, info.Signatures...)
}

// dump writes the NAR of an output, with hash parts rewritten.
func dump(w io.Writer, file string, pairs map[string]string) error {
	if len(pairs) == 0 {
		return nar.Dump(w, file, nar.DumpOptions{})
	}
	rw := newRewriter(w, pairs)
	if err := nar.Dump(rw, file, nar.DumpOptions{}); err != nil {
		return err
	}
	return rw.flush()
}

// refersTo reports whether the output refers to one of the same build, itself included, whose path may be another in the end.
func (m *made) refersTo(all map[string]*made) bool {
	for _, other := range all {
		if slices.Contains(m.refs, other.scratch) {
			return true
		}
	}
	return false
}

// hash returns the hash of a content address of the output: see [hashOutput].
func (m *made) hash(method nix.Method, algo nix.Algo, pairs map[string]string) (nix.Hash, error) {
	if method == nix.MethodNAR && algo == nix.SHA256 && !m.info.NarHash.IsZero() {
		return m.narHash, nil // read once already
	}
	self := ""
	if m.kind != drv.Fixed {
		self = m.scratch.HashPart()
	}
	return hashOutput(m.file, method, algo, pairs, self)
}

// hashOutput hashes an output as a content address does: with hash parts rewritten, and that of its own path, self, left out.
func hashOutput(file string, method nix.Method, algo nix.Algo, pairs map[string]string, self string) (nix.Hash, error) {
	sum := algo.New()
	if method != nix.MethodNAR {
		f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			return nix.Hash{}, err
		}
		defer f.Close() //nolint:errcheck // only read
		if _, err := io.Copy(sum, f); err != nil {
			return nix.Hash{}, err
		}
		return nix.NewHash(algo, sum.Sum(nil))
	}
	all := map[string]string{}
	maps.Copy(all, pairs)
	if self != "" {
		all[self] = string(make([]byte, len(self)))
	}
	rw := newRewriter(sum, all)
	rw.watch = self
	if err := nar.Dump(rw, file, nar.DumpOptions{}); err != nil {
		return nix.Hash{}, err
	}
	if err := rw.flush(); err != nil {
		return nix.Hash{}, err
	}
	for _, at := range rw.places {
		_, _ = io.WriteString(sum, "|"+strconv.FormatInt(at, 10))
	}
	return nix.NewHash(algo, sum.Sum(nil))
}

// scan searches an output for the hash parts of paths, and hashes and measures its NAR.
func scan(file string, candidates []nix.StorePath) (found []nix.StorePath, narHash nix.Hash, size uint64, err error) {
	sum := nix.SHA256.New()
	s := newScanner(candidates)
	if err := nar.Dump(io.MultiWriter(sum, s), file, nar.DumpOptions{}); err != nil {
		return nil, nix.Hash{}, 0, err
	}
	narHash, err = nix.NewHash(nix.SHA256, sum.Sum(nil))
	return s.found(), narHash, s.size, err
}

// compare holds outputs against those that are valid.
func (a *attempt) compare(all map[string]*made) ([]Output, error) {
	g := a.g
	var outputs []Output
	for _, name := range g.d.OutputNames() {
		m := all[name]
		info, err := g.b.store.PathInfo(m.info.Path)
		if err != nil && !errors.Is(err, store.ErrNotValid) {
			return nil, err
		}
		if err != nil || m.kind == drv.InputAddressed && info.NarHash != m.narHash {
			return nil, fail(nixwire.NotDeterministic, "derivation '%s' may not be deterministic: output '%s' differs", g.b.print(g.path), g.b.print(m.info.Path))
		}
		outputs = append(outputs, Output{Name: name, Path: m.info.Path})
	}
	return outputs, nil
}
