package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

type signOptions struct {
	keys                 []string
	closure, all, asJSON bool
}

func newSign(p *process) *cobra.Command {
	var o signOptions
	cmd := &cobra.Command{
		Use:   "sign [-k FILE]... PATH...",
		Short: "Sign store paths",
		Long: "Sign store paths, and print those that had not been signed so before. A signature says that the key's owner " +
			"vouches for the contents of a path and for what it refers to; it goes wherever the path is copied. Who has the public " +
			"half of the key in trusted-public-keys takes the path from anybody.\n\n" +
			"The keys are those in the files of -k (- for the standard input), else those of the setting secret-key-files.",
		Example:           "  narfs sign -r -k /etc/narfs/key.secret a4k2\n  pass show cache.example.org-1 | narfs sign -k - --all",
		Args:              operands(0, many),
		ValidArgsFunction: p.completePaths,
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 0) != o.all {
				return usagef("sign needs either paths or --all")
			}
			return p.withStore(cmd.Context(), use{}, func(ctx context.Context, s *store.Store) error {
				return p.sign(ctx, s, args, o)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVarP(&o.keys, "key", "k", nil, "sign with the secret key in `FILE`; may come several times")
	flags.BoolVarP(&o.closure, "recursive", "r", false, "sign also all that the paths refer to")
	flags.BoolVar(&o.all, "all", false, "sign all valid paths")
	flags.BoolVar(&o.asJSON, "json", false, "print a JSON list of the paths with their new signatures")
	return cmd
}

// signingKeys reads the keys to sign with: at least one.
func (p *process) signingKeys(o signOptions) ([]nix.SecretKey, error) {
	files := o.keys
	if len(files) == 0 {
		settings, err := p.settings()
		if err != nil {
			return nil, err
		}
		files = settings.SecretKeyFiles
	}
	if len(files) == 0 {
		return nil, hint(errors.New("no key to sign with"), "name one with --key, or set secret-key-files; narfs keys generate makes one")
	}
	keys := make([]nix.SecretKey, 0, len(files))
	for _, file := range files {
		key, err := p.readKey(file)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// signed is a path with the signatures that it has got.
type signed struct {
	Path       string   `json:"path"`
	Signatures []string `json:"signatures"`
}

// signAtOnce is how many paths are signed beside each other: they share syncs.
const signAtOnce = 128

func (p *process) sign(ctx context.Context, s *store.Store, args []string, o signOptions) error {
	keys, err := p.signingKeys(o)
	if err != nil {
		return err
	}
	paths, err := p.chosen(s, args, o.all, o.closure)
	if err != nil {
		return err
	}
	paths = nix.SortPaths(paths)
	m := p.meter("sign")
	defer m.close()
	m.setUnit("paths")
	all := []signed{}
	done, out := 0, m.beside(p.stdout)
	for some := range slices.Chunk(paths, signAtOnce) {
		fresh, err := signSome(ctx, s, some, keys)
		for _, one := range fresh {
			if o.asJSON {
				all = append(all, one)
			} else if _, err := fmt.Fprintln(out, one.Path); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
		done += len(some)
		m.set(int64(done), int64(len(paths)))
	}
	m.close()
	if o.asJSON {
		return p.printJSON(all)
	}
	return nil
}

// signSome signs paths beside each other, and returns those that have got a signature, in their order.
func signSome(ctx context.Context, s *store.Store, paths []nix.StorePath, keys []nix.SecretKey) ([]signed, error) {
	done := make([]signed, len(paths))
	group, ctx := errgroup.WithContext(ctx)
	for i, sp := range paths {
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			sigs, err := signOne(ctx, s, sp, keys)
			done[i] = signed{s.Dir().Path(sp), sigs}
			return err
		})
	}
	err := group.Wait()
	return slices.DeleteFunc(done, func(one signed) bool { return len(one.Signatures) == 0 }), err
}

// signOne returns the signatures that were new.
func signOne(ctx context.Context, s *store.Store, sp nix.StorePath, keys []nix.SecretKey) ([]string, error) {
	info, err := s.PathInfo(sp)
	if err != nil {
		return nil, err
	}
	text, err := info.Fingerprint(s.Dir())
	if err != nil {
		return nil, fmt.Errorf("sign path '%s': %w", s.Dir().Path(sp), err)
	}
	var fresh []nix.Signature
	var printed []string
	for _, key := range keys {
		if sig := key.Sign(text); !slices.Contains(info.Signatures, sig) && !slices.Contains(fresh, sig) {
			fresh = append(fresh, sig)
			printed = append(printed, sig.String())
		}
	}
	if len(fresh) == 0 {
		return nil, nil
	}
	if err := s.AddSignatures(ctx, sp, fresh...); err != nil {
		return nil, err
	}
	return printed, nil
}
