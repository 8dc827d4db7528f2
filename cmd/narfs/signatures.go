package main

import (
	"strings"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

const signatureHint = "have it signed by a key in trusted-public-keys, or add the key of who signed it there; --no-check-sigs takes it all the same"

// unsigned is what Nix says, as the store does.
const unsigned = "because it lacks a valid signature"

func isUnsigned(text string) bool { return strings.Contains(text, unsigned) }

// signatureCheck says which paths from elsewhere are refused. The zero value refuses none.
type signatureCheck struct {
	required bool
	keys     []nix.PublicKey
}

// signatureCheck returns what the settings want.
func (p *process) signatureCheck() (signatureCheck, error) {
	settings, err := p.loadSettings()
	if err != nil {
		return signatureCheck{}, err
	}
	return signatureCheck{settings.RequireSigs, settings.TrustedKeys}, nil
}

// all is a *store.RefusedError for the first of some paths that is neither content-addressed nor signed by a trusted key. Whether what
// comes is what its content address says, the store checks.
//
// Source: nix's libstore/local-store.cc of 2.8, pathInfoIsUntrusted.
func (c signatureCheck) all(dir nix.StoreDir, infos []nix.PathInfo) error {
	if !c.required {
		return nil
	}
	for _, info := range infos {
		if !info.IsContentAddressed(dir) && info.Verify(dir, c.keys) == 0 {
			return hint(&store.RefusedError{Path: dir.Path(info.Path), Why: unsigned}, signatureHint)
		}
	}
	return nil
}
