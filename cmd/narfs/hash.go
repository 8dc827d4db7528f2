package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/nar"
)

func newHash(p *process) *cobra.Command {
	var hack hackFlags
	var flat, asJSON bool
	var algoName, base string
	cmd := &cobra.Command{
		Use:   "hash PATH...",
		Short: "Print hashes of files and trees, on disk or in the store",
		Long: "Print the hash of the NAR of files and trees, on disk or in the store, as Nix has it; with --flat that of a file's " +
			"bytes.\n\nWhat looks like a store path is one if the store has it; anything else that is on disk is taken from there.",
		Example:           "  narfs hash --base nix32 ~/src/hello\n  narfs hash --flat --algo sha512 release.tar.gz",
		Args:              operands(1, many),
		ValidArgsFunction: p.completeInsideOrFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			algo, err := nix.ParseAlgo(algoName)
			if err != nil {
				return usagef("--algo: %w", err)
			}
			spell, err := spelling(base)
			if err != nil {
				return err
			}
			run := func(ctx context.Context) error { return p.hash(ctx, args, algo, spell, &hack, flat, asJSON) }
			for _, arg := range args {
				// Either this process does all of it, or another one.
				if stored, err := p.looksStored(arg); err != nil {
					return err
				} else if stored {
					return p.withStore(cmd.Context(), use{}, func(ctx context.Context, _ *store.Store) error { return run(ctx) })
				}
			}
			return run(cmd.Context())
		},
	}
	hack.define(p, cmd, "undo the case hack in a tree on disk")
	flags := cmd.Flags()
	flags.BoolVar(&flat, "flat", false, "hash the bytes of a file, not its NAR")
	flags.StringVar(&algoName, "algo", "sha256", "hash `ALGORITHM` md5, sha1, sha256 or sha512")
	flags.StringVar(&base, "base", "sri", "`SPELLING` sri, base16, nix32 or base64")
	flags.BoolVar(&asJSON, "json", false, "print a JSON object of hashes by PATH")
	return cmd
}

func spelling(base string) (func(nix.Hash) string, error) {
	switch base {
	case "sri":
		return nix.Hash.SRI, nil
	case "base16", "16", "hex":
		return nix.Hash.Base16, nil
	case "nix32", "base32", "32":
		return nix.Hash.Nix32, nil
	case "base64", "64":
		return nix.Hash.Base64, nil
	}
	return nil, usagef("--base=%s: want sri, base16, nix32 or base64", base)
}

func (p *process) hash(ctx context.Context, args []string, algo nix.Algo, spell func(nix.Hash) string, hack *hackFlags, flat, asJSON bool) error {
	m := p.meter("hash")
	defer m.close()
	sums := map[string]string{}
	for _, arg := range args {
		h := algo.New()
		sum := func(ctx context.Context, write treeWriter) error { return write(ctx, m.writer(h)) }
		var err error
		if flat {
			err = p.withBytes(ctx, arg, sum)
		} else {
			err = p.withTree(ctx, arg, hack, sum)
		}
		if err != nil {
			return err
		}
		digest, err := nix.NewHash(algo, h.Sum(nil))
		if err != nil {
			return err
		}
		sums[arg] = spell(digest)
		if asJSON {
			continue
		}
		if _, err := fmt.Fprintln(m.beside(p.stdout), sums[arg]); err != nil {
			return err
		}
	}
	if asJSON {
		return p.printJSON(sums)
	}
	return nil
}

// withBytes is withTree for the bytes of a file, to which links are followed.
func (p *process) withBytes(ctx context.Context, arg string, fn func(ctx context.Context, write treeWriter) error) error {
	onDisk := func(ctx context.Context) error {
		f, err := os.Open(p.abs(arg))
		if err != nil {
			return err
		}
		defer f.Close() //nolint:errcheck // only read
		return fn(ctx, func(ctx context.Context, w io.Writer) error {
			if info, err := f.Stat(); err == nil && info.IsDir() {
				return &iofs.PathError{Op: "hash", Path: arg, Err: errors.New("is a folder")}
			}
			_, err := io.Copy(&ctxWriter{ctx, w}, f)
			return err
		})
	}
	inStore, err := p.looksStored(arg)
	if err != nil {
		return err
	}
	if !inStore {
		return onDisk(ctx)
	}
	return p.withStore(ctx, use{}, func(ctx context.Context, s *store.Store) error {
		t, err := p.target(s, arg)
		if errors.Is(err, store.ErrNotValid) && exists(p.abs(arg)) {
			return onDisk(ctx)
		}
		if err != nil {
			return err
		}
		n, err := walk(s, t, true)
		if err != nil {
			return err
		}
		defer n.close()
		return fn(ctx, func(ctx context.Context, w io.Writer) error {
			if typ := n.tree.Type(n.index); typ != nar.TypeRegular {
				return fmt.Errorf("path '%s' is a %s, not a regular file", arg, typ)
			}
			return n.copyTo(ctx, w)
		})
	})
}
