package session

import (
	"context"
	"fmt"
	"maps"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/daemon/workerproto"
	"github.com/narfs/narfs/internal/nix"
)

func (v *worker) queryRealisation(ctx context.Context) error {
	text, err := v.ReadQueryRealisation()
	if err != nil {
		return err
	}
	if err := v.begin(); err != nil {
		return err
	}
	id, err := nix.ParseDrvOutput(text)
	if err != nil {
		return err
	}
	r, err := v.store.KnownRealisation(id)
	if err != nil {
		return err
	}
	var answer workerproto.Realisation
	if !r.OutPath.IsZero() {
		// What it names is needed now.
		if _, err := v.holds(r.OutPath); err != nil {
			return err
		}
		json, err := r.JSON()
		if err != nil {
			return err
		}
		answer = workerproto.Realisation{ID: id.String(), Path: r.OutPath.BaseName(), JSON: string(json)}
	}
	return v.answer(ctx, func() error { return v.WriteRealisation(answer) })
}

// readRealisation reads what a client registers.
func (v *worker) readRealisation() (r nix.Realisation, err error) {
	req, err := v.ReadRegisterDrvOutput()
	if err != nil {
		return r, err
	}
	if err := v.begin(); err != nil {
		return r, err
	}
	if req.JSON != "" {
		return nix.ParseRealisation([]byte(req.JSON))
	}
	if r.ID, err = nix.ParseDrvOutput(req.ID); err != nil {
		return r, err
	}
	r.OutPath, err = nix.ParseBaseName(req.Path)
	return r, err
}

func (v *worker) registerDrvOutput(ctx context.Context) error {
	r, err := v.readRealisation()
	if err != nil {
		return err
	}
	// It says what is to be taken for the output of a derivation by everybody: that must come from somebody who is trusted, or have
	// been signed by him. (Nix 2.8 takes it from everybody.)
	if v.settings.RequireSigs && r.Verify(v.settings.TrustedKeys) == 0 {
		if err := v.session.access.May(acl.Realise); err != nil {
			return err
		}
	}
	if err := v.session.holdAlso(r.OutPath); err != nil {
		return err
	}
	id := r.ID.String()
	err = v.store.PutRealisation(ctx, id, func(old store.Realisation) (store.Realisation, error) {
		merged := r
		if !old.Path.IsZero() {
			before, err := nix.ParseRealisation(old.JSON)
			if err != nil {
				return old, err
			}
			if before.OutPath != r.OutPath || len(before.Dependencies) > 0 && len(r.Dependencies) > 0 && !maps.Equal(before.Dependencies, r.Dependencies) {
				return old, fmt.Errorf("Trying to register a realisation of '%s', but we already have another one locally.\nLocal:  %s\nRemote: %s", //nolint:staticcheck // Nix's words
					id, v.Dir.Path(before.OutPath), v.Dir.Path(r.OutPath))
			}
			// One without dependencies is of an old Nix, or of somebody who does not know them. Signatures are over them, too.
			switch {
			case maps.Equal(before.Dependencies, r.Dependencies):
				merged.AddSignatures(before.Signatures...)
			case len(before.Dependencies) > 0:
				return old, nil
			}
		}
		json, err := merged.JSON()
		return store.Realisation{ID: id, Path: merged.OutPath, JSON: json}, err
	})
	if err != nil {
		return err
	}
	return v.done(ctx)
}
