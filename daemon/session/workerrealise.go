package session

import (
	"context"

	"github.com/narfs/narfs/daemon/acl"
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
	if _, err := v.store.Realise(ctx, r); err != nil {
		return err
	}
	return v.done(ctx)
}
