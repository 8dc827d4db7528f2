package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/wire"
)

type importOptions struct {
	nar, path, info, json string
	repair                bool
	compression           compression
}

func (o *importOptions) store(p *process) (store.ImportOptions, error) {
	opts := store.ImportOptions{Holder: p.what(), Repair: o.repair, Compression: o.compression.how}
	if p.session != nil {
		opts.Pins = p.session.Pins()
	}
	if !p.guest || p.access.Level == acl.Trusted {
		return opts, nil
	}
	settings, err := p.settings()
	if err != nil {
		return opts, err
	}
	opts.RequireSignature, opts.Keys = settings.RequireSigs, settings.TrustedKeys
	return opts, nil
}

func newImport(p *process) *cobra.Command {
	var o importOptions
	cmd := &cobra.Command{
		Use:   "import [FILE]",
		Short: "Import store paths, as nix-store --export writes them",
		Long: "Import the store paths of a stream as nix-store --export and narfs export write it, from a file or the standard " +
			"input, and print them as they become valid. Paths that are valid already are left as they are.\n\n" +
			"With --nar, import one store path from its NAR (- for the standard input) and what is known about it: --path its " +
			"name, or --info a file with a narinfo, or with what nix path-info --json prints. What stands there is checked.",
		Example: "  nix-store --export $(nix-store -qR ./result) | narfs import\n" +
			"  narfs import --nar hello.nar --info hello.narinfo",
		Args: operands(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			single := o.nar != "" || o.path != "" || o.info != "" || o.json != ""
			if single && (o.nar == "" || o.path == "" && o.info == "" && o.json == "" || len(args) > 0) {
				return usagef("one path needs --nar FILE, and --path or --info")
			}
			return p.withStore(cmd.Context(), use{creates: true}, func(ctx context.Context, s *store.Store) error {
				if single {
					return p.importOne(ctx, s, o)
				}
				return p.importStream(ctx, s, append(args, "-")[0], o)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.nar, "nar", "", "import one path, whose NAR is in `FILE`")
	flags.StringVar(&o.path, "path", "", "store `PATH` that it is")
	flags.StringVar(&o.info, "info", "", "`FILE` with what is known about it: a narinfo or JSON")
	flags.StringVar(&o.json, "info-json", "", "what is known about it, as JSON")
	_ = flags.MarkHidden("info-json") // for a copy to a store that another process has open
	flags.BoolVar(&o.repair, "repair", false, "store the contents of valid paths again")
	o.compression.define(p, cmd)
	return cmd
}

func (p *process) importStream(ctx context.Context, s *store.Store, file string, o importOptions) error {
	opts, err := o.store(p)
	if err != nil {
		return err
	}
	m := p.meter("import")
	defer m.close()
	var printErr error
	out := m.beside(p.stdout)
	err = p.withInput(ctx, file, m, func(r io.Reader) error {
		r, err := plain(r)
		if err != nil {
			return err
		}
		return s.ImportStream(ctx, r, opts, func(info nix.PathInfo) {
			m.finished()
			m.at(info.Path.Name())
			if _, err := fmt.Fprintln(out, s.Dir().Path(info.Path)); err != nil {
				printErr = err
			}
		})
	})
	return errors.Join(err, printErr)
}

func (p *process) importOne(ctx context.Context, s *store.Store, o importOptions) error {
	info, err := p.importInfo(s, o)
	if err != nil {
		return err
	}
	opts, err := o.store(p)
	if err != nil {
		return err
	}
	m := p.meter("import")
	defer m.close()
	m.at(info.Path.Name())
	err = p.withInput(ctx, o.nar, m, func(r io.Reader) error {
		r, err := plain(r)
		if err != nil {
			return err
		}
		src := wire.NewReader(r) // so that nothing behind the NAR is read with it
		if err := s.Import(ctx, info, src, opts); err != nil {
			return err
		}
		return atEnd(src)
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(m.beside(p.stdout), s.Dir().Path(info.Path))
	return err
}

// atEnd is an error if there is more behind a NAR. The path is valid all the same: its NAR is what it should be.
func atEnd(r io.Reader) error {
	if n, err := r.Read(make([]byte, 1)); n > 0 && err == nil {
		return errors.New("the path is imported, but there is something behind its NAR")
	}
	return nil
}

// maxInfo bounds a file with infos.
const maxInfo = 64 << 20

// importInfo returns what is known about a path to be imported.
func (p *process) importInfo(s *store.Store, o importOptions) (info nix.PathInfo, err error) {
	var want nix.StorePath
	if o.path != "" {
		if want, err = nix.ParseStorePath(s.Dir(), o.path); err != nil {
			if want, err = nix.ParseBaseName(o.path); err != nil {
				return info, usagef("--path: %w", err)
			}
		}
	}
	var infos []nix.PathInfo
	switch {
	case o.json != "":
		infos, err = nix.ParseJSONDocument(s.Dir(), []byte(o.json))
	case o.info != "":
		infos, err = p.readInfos(s.Dir(), o.info)
	default:
		return nix.PathInfo{Path: want}, nil
	}
	if err != nil {
		return info, fmt.Errorf("infos of %s: %w", o.info, err)
	}
	if want.IsZero() && len(infos) != 1 {
		return info, usagef("%s is about %s; choose one with --path", o.info, countText(int64(len(infos)), "path"))
	}
	i := slices.IndexFunc(infos, func(i nix.PathInfo) bool { return want.IsZero() || i.Path == want })
	if i < 0 {
		return info, fmt.Errorf("%s says nothing about %s", o.info, s.Dir().Path(want))
	}
	return infos[i], nil
}

func (p *process) readInfos(dir nix.StoreDir, name string) ([]nix.PathInfo, error) {
	f, err := os.Open(p.abs(name))
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(io.LimitReader(f, maxInfo+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxInfo {
		return nil, fmt.Errorf("longer than %s", sizeText(maxInfo))
	}
	if trimmed := bytes.TrimSpace(b); len(trimmed) > 0 && (trimmed[0] == '{' || trimmed[0] == '[') {
		return nix.ParseJSONDocument(dir, b)
	}
	info, err := nix.ParseNarInfo(dir, string(b))
	if err != nil {
		return nil, err
	}
	return []nix.PathInfo{info.PathInfo}, nil
}

// compressors are the beginnings of compressed files.
func compressors() map[string]string {
	return map[string]string{
		"\xfd7zXZ\x00": "xz -d", "\x28\xb5\x2f\xfd": "zstd -d", "\x1f\x8b": "gzip -d", "BZh": "bzip2 -d",
		"\xce\xb2\xcf\x81": "brotli -d", "LZIP": "lzip -d",
	}
}

// plain refuses what is compressed.
func plain(r io.Reader) (io.Reader, error) {
	head := make([]byte, 6)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	head = head[:n]
	for magic, program := range compressors() {
		if bytes.HasPrefix(head, []byte(magic)) {
			return nil, hint(errors.New("the input is compressed"), program+" <FILE | narfs import …")
		}
	}
	return io.MultiReader(bytes.NewReader(head), r), nil
}
