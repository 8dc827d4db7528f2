package store

import (
	"context"
	"fmt"

	"github.com/narfs/narfs/daemon/db"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/nar/cas"
)

// AddSignatures adds signatures to a valid path's info, else ErrNotValid. Nobody checks whose they are.
func (s *Store) AddSignatures(ctx context.Context, p nix.StorePath, sigs ...nix.Signature) error {
	held, err := s.locks.Lock(ctx, p, "add signatures")
	if err != nil {
		return fmt.Errorf("sign path '%s': %w", s.print(p), err)
	}
	defer held.Unlock()
	s.removal.RLock()
	defer s.removal.RUnlock()
	r, err := s.record(p)
	if err != nil {
		return err
	}
	before := len(r.Info.Signatures)
	r.Info.AddSignatures(sigs...)
	if len(r.Info.Signatures) == before {
		return nil
	}
	var b cas.Batch
	if err := db.Replace(&b, r); err != nil {
		return err
	}
	if err := s.content.Commit(context.WithoutCancel(ctx), &b); err != nil {
		return fmt.Errorf("sign path '%s': %w", s.print(p), err)
	}
	return nil
}
