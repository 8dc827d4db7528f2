package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

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
			err = writeSecret(p.abs(out), key.Export()+"\n")
			if errors.Is(err, os.ErrExist) {
				err = hint(err, "a key that is lost cannot be made again, so narfs writes over no file; choose another one with --out")
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(p.stdout, key.Public())
			return err
		},
	}
	cmd.Flags().StringVarP(&out, "out", "o", "", "write the secret key to the new `FILE`")
	return cmd
}

// writeSecret makes a file that only its user can read. There is all of it, on disk, or none.
func writeSecret(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
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
