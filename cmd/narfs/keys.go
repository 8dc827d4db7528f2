package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

func newKeys(p *process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Make keys for signatures",
		Long:  "Make keys for signing store paths. They are those of nix-store --generate-binary-cache-key.",
	}
	cmd.AddCommand(newKeysGenerate(p), newKeysPublic(p))
	return cmd
}

func newKeysGenerate(p *process) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "generate NAME",
		Short: "Make a key and print it",
		Long: "Make a new secret key and write it to the standard output, or to a new FILE that only you can read; then the public key " +
			"is printed. NAME should tell whose key it is, with a number for its successors: cache.example.org-1.",
		Example: "  narfs keys generate builder.example.org-1 --out /etc/narfs/secret-key",
		Args:    operands(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			key, err := nix.GenerateSecretKey(args[0])
			if err != nil {
				return usagef("%w", err)
			}
			if out == "" {
				_, err := fmt.Fprintln(p.stdout, key.Export())
				return err
			}
			f, err := os.OpenFile(p.abs(out), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(f, key.Export())
			if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
				return err
			}
			_, err = fmt.Fprintln(p.stdout, key.Public())
			return err
		},
	}
	cmd.Flags().StringVarP(&out, "out", "o", "", "write the secret key to the new `FILE`")
	return cmd
}

func newKeysPublic(p *process) *cobra.Command {
	return &cobra.Command{
		Use:   "public [FILE]",
		Short: "Print the public key of a secret one",
		Long:  "Print the public key, as in trusted-public-keys, of the secret key in FILE or on the standard input.",
		Args:  operands(0, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			key, err := p.readKey(append(args, "-")[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(p.stdout, key.Public())
			return err
		},
	}
}

// maxKey bounds a file with a key.
const maxKey = 4096

// readKey reads a secret key from a file, - for the standard input.
func (p *process) readKey(name string) (key nix.SecretKey, err error) {
	r := p.stdin
	if name != "-" {
		f, err := os.Open(p.abs(name))
		if err != nil {
			return key, err
		}
		defer f.Close() //nolint:errcheck // only read
		r = f
	}
	text, err := io.ReadAll(io.LimitReader(r, maxKey))
	if err == nil {
		key, err = nix.ParseSecretKey(strings.TrimSpace(string(text)))
	}
	if err != nil {
		return key, fmt.Errorf("key %s: %w", name, err)
	}
	return key, nil
}

type signOptions struct {
	keys      []string
	closure   bool
	all, json bool
}

func newSign(p *process) *cobra.Command {
	var o signOptions
	cmd := &cobra.Command{
		Use:   "sign PATH...",
		Short: "Sign store paths",
		Long: "Add signatures to store paths, so that others who trust the key take them from untrusted hands, and print those that have " +
			"got a new one. Without --key the keys are those that secret-key-files names.",
		Args:              operands(0, many),
		ValidArgsFunction: p.completePaths,
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 0) != o.all {
				return usagef("sign needs either paths or --all")
			}
			return p.withStore(cmd.Context(), use{}, func(ctx context.Context, s *store.Store) error { return p.sign(ctx, s, args, o) })
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVarP(&o.keys, "key", "k", nil, "sign with the secret key in `FILE`; may come several times")
	flags.BoolVarP(&o.closure, "recursive", "r", false, "sign also all that the paths refer to")
	flags.BoolVar(&o.all, "all", false, "sign all valid paths")
	flags.BoolVar(&o.json, "json", false, "print a JSON list of the paths")
	return cmd
}

func (p *process) sign(ctx context.Context, s *store.Store, args []string, o signOptions) error {
	if len(o.keys) == 0 {
		settings, err := p.settings()
		if err != nil {
			return err
		}
		o.keys = settings.SecretKeyFiles
	}
	if len(o.keys) == 0 {
		return hint(errors.New("no key to sign with"), "name one with --key, or set secret-key-files; narfs keys generate makes one")
	}
	var keys []nix.SecretKey
	for _, name := range o.keys {
		key, err := p.readKey(name)
		if err != nil {
			return err
		}
		keys = append(keys, key)
	}
	paths, err := p.chosen(s, args, o.all, o.closure)
	if err != nil {
		return err
	}
	var signed []nix.StorePath
	for _, sp := range paths {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		info, err := s.PathInfo(sp)
		if err != nil {
			return err
		}
		before := len(info.Signatures)
		for _, key := range keys {
			if err := info.Sign(s.Dir(), key); err != nil {
				return err
			}
		}
		if len(info.Signatures) == before {
			continue
		}
		if err := s.AddSignatures(ctx, sp, info.Signatures...); err != nil {
			return err
		}
		signed = append(signed, sp)
	}
	if o.json {
		return p.printJSON(printed(s.Dir(), signed))
	}
	return buffered(p.stdout, func(w *bufio.Writer) error {
		for _, sp := range signed {
			if _, err := fmt.Fprintln(w, s.Dir().Path(sp)); err != nil {
				return err
			}
		}
		return nil
	})
}
