package nix

import (
	"fmt"
	"slices"
	"strings"
)

// PathInfo is what a store knows about a valid path.
type PathInfo struct {
	Path       StorePath
	NarHash    Hash // of SHA-256
	NarSize    uint64
	References []StorePath // as SortPaths leaves them; Path itself may be among them

	// The rest may be missing, that is zero.

	Deriver          StorePath      // the derivation that it was built from
	RegistrationTime int64          // when it became valid, in seconds since 1970 began in UTC
	Ultimate         bool           // built here, and so trusted without a signature
	Signatures       []Signature    // in order, each once
	CA               ContentAddress // a claim; see IsContentAddressed
}

// Fingerprint returns the text that signatures of the path are over. It has none without NarSize and a NarHash of SHA-256.
func (p *PathInfo) Fingerprint(dir StoreDir) (string, error) {
	if p.NarSize == 0 {
		return "", fmt.Errorf("fingerprint of %s: its size is not known", dir.Path(p.Path))
	}
	if p.NarHash.algo != SHA256 {
		return "", fmt.Errorf("fingerprint of %s: its NAR hash is not of sha256", dir.Path(p.Path))
	}
	var refs []string
	for _, ref := range SortPaths(p.References) {
		refs = append(refs, dir.Path(ref))
	}
	return fmt.Sprintf("1;%s;%s;%d;%s", dir.Path(p.Path), p.NarHash, p.NarSize, strings.Join(refs, ",")), nil
}

// Sign adds the key's signature. The fingerprint must not change afterwards.
func (p *PathInfo) Sign(dir StoreDir, key SecretKey) error {
	text, err := p.Fingerprint(dir)
	if err != nil {
		return fmt.Errorf("sign with %s: %w", key.Name(), err)
	}
	p.AddSignatures(key.Sign(text))
	return nil
}

// AddSignatures adds those of sigs that are not there yet.
func (p *PathInfo) AddSignatures(sigs ...Signature) {
	p.Signatures = sortSignatures(slices.Concat(p.Signatures, sigs))
}

// sortSignatures sorts sigs in place and leaves each once.
func sortSignatures(sigs []Signature) []Signature {
	slices.SortFunc(sigs, Signature.Compare)
	return slices.Compact(sigs)
}

// Verify returns how many of the keys signed the path: a path without fingerprint, none.
func (p *PathInfo) Verify(dir StoreDir, keys []PublicKey) int {
	text, err := p.Fingerprint(dir)
	if err != nil {
		return 0
	}
	return countSigned(text, p.Signatures, keys)
}

// countSigned returns how many of the keys made one of the signatures of a text.
func countSigned(text string, sigs []Signature, keys []PublicKey) int {
	n := 0
	for _, key := range keys {
		if slices.ContainsFunc(sigs, func(s Signature) bool { return key.Verify(text, s) }) {
			n++
		}
	}
	return n
}

// IsContentAddressed reports whether content address and references lead to the path's own name. Such a path is trusted
// without a signature, provided that its contents have this content address, which nothing here has looked at.
func (p *PathInfo) IsContentAddressed(dir StoreDir) bool {
	if p.CA.IsZero() || p.Path.IsZero() {
		return false
	}
	refs := slices.DeleteFunc(slices.Clone(p.References), func(ref StorePath) bool { return ref == p.Path })
	path, err := MakePathFromCA(dir, p.Path.Name(), p.CA, refs, len(refs) < len(p.References))
	return err == nil && path == p.Path
}
