package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/narfs/narfs/daemon/nixdb"
	"github.com/narfs/narfs/internal/nix"
)

// isServed reports whether a store is reached through the serve protocol: by ssh, or through the nix-store of this machine.
func (p *process) isServed(store string) (bool, error) {
	if isSSH(store) {
		return true, nil
	}
	address, err := p.nixAddress(store)
	return address != "", err
}

// nixAddress returns what nix-store --store is given for a store of Nix on this machine; "" if it is none.
func (p *process) nixAddress(store string) (string, error) {
	switch {
	case store == "auto" || store == "local" || store == "daemon" || strings.HasPrefix(store, "local?"):
		return store, nil
	case strings.Contains(store, "://"):
		return "", usagef("%q is not a store that narfs copies to or from", store)
	}
	dir := p.abs(store)
	place, err := nixdb.Find(dir)
	switch {
	case dir == "/":
		return "auto", nil // also before its database is there
	case errors.Is(err, nixdb.ErrNoStore):
		return "", nil
	case err != nil:
		return "", err
	}
	switch root := place.Root(); root {
	case "/":
		return "auto", nil // through its daemon, for those who need that
	case "":
		return "", hint(fmt.Errorf("%s is a store of Nix whose folders are not called nix/store and nix/var/nix", dir),
			"name it as Nix does: 'local?store="+place.StoreDir+"&state="+place.StateDir+"'")
	default:
		return root, nil
	}
}

// openThere opens the store at the other end of a copy.
func (p *process) openThere(ctx context.Context, store string, dir nix.StoreDir) (*endpoint, error) {
	if isSSH(store) {
		return p.openSSH(ctx, store, dir)
	}
	address, err := p.nixAddress(store)
	if err != nil {
		return nil, err
	}
	program, err := findNixStore(ctx)
	if err != nil {
		return nil, hint(err, "Nix brings it: install Nix, or put the folder of its programs into $PATH, before others")
	}
	e := &endpoint{name: store, help: "what nix-store said stands above"}
	return p.start(ctx, e, dir, program, "--serve", "--write", "--store", address)
}

// findNixStore finds the nix-store of the real Nix. One that is narfs, by a link or a copy, would serve a store of narfs.
func findNixStore(ctx context.Context) (string, error) {
	program, err := exec.LookPath("nix-store")
	if err != nil {
		return "", fmt.Errorf("a store of Nix needs nix-store: %w", err)
	}
	if self, err := os.Executable(); err == nil && sameDir(self, program) {
		return "", fmt.Errorf("a store of Nix needs its own nix-store: %s is narfs itself", program)
	}
	out, err := exec.CommandContext(ctx, program, "--version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("a store of Nix needs its own nix-store: %s --version: %w: %s", program, err, strings.TrimSpace(string(out)))
	}
	return program, nil
}
