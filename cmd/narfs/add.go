package main

import (
	"context"
	"fmt"
	"io"
	iofs "io/fs"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

type addOptions struct {
	name, algo         string
	flat, text, repair bool
	references         []string
	hack               hackFlags
	compression        compression
}

func newAdd(p *process) *cobra.Command {
	var o addOptions
	cmd := &cobra.Command{
		Use:   "add PATH...",
		Short: "Add files and trees to the store",
		Long: "Add files and trees to the store and print their store paths, which are those that Nix gives them:\n\n" +
			"  narfs add PATH                nix-store --add PATH, nix store add-path PATH\n" +
			"  narfs add --algo sha1 PATH    nix-store --add-fixed --recursive sha1 PATH\n" +
			"  narfs add --flat PATH         nix-store --add-fixed sha256 PATH, nix store add-file PATH\n" +
			"  narfs add --text PATH         builtins.toFile\n\n" +
			"With --flat or --text, - is the standard input.",
		Example: "  narfs add ~/src/hello\n  echo hello | narfs add --flat --name greeting -",
		Args:    operands(1, many),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := o.check(p, args)
			if err != nil {
				return err
			}
			p.asGuest = func(ctx context.Context, state string) error { return p.addAsGuest(ctx, state, args, o, opts) }
			return p.withStore(cmd.Context(), use{creates: true}, func(ctx context.Context, s *store.Store) (err error) {
				if opts.References, err = p.storePaths(s, o.references); err != nil {
					return err
				}
				return p.add(ctx, s, s.Dir(), args, o, opts)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.name, "name", "", "`NAME` of the store path (default that of the file)")
	flags.BoolVar(&o.flat, "flat", false, "let the path follow from a file's bytes, not from its NAR")
	flags.BoolVar(&o.text, "text", false, "the same as Nix does it for texts, which may have references")
	flags.StringVar(&o.algo, "algo", "sha256", "hash `ALGORITHM` md5, sha1, sha256 or sha512")
	flags.StringSliceVar(&o.references, "refs", nil, "store `PATHS` that it refers to")
	flags.BoolVar(&o.repair, "repair", false, "store the contents again if the path is valid already")
	o.hack.define(p, cmd, "undo the case hack in the tree")
	o.compression.define(p, cmd)
	p.completeFlag(cmd, "refs", p.completePaths)
	return cmd
}

func (o *addOptions) check(p *process, args []string) (store.AddOptions, error) {
	opts := store.AddOptions{Name: o.name, Method: nix.MethodNAR, Repair: o.repair, Holder: p.what(), Compression: o.compression.how}
	var err error
	if opts.Algo, err = nix.ParseAlgo(o.algo); err != nil {
		return opts, usagef("--algo: %w", err)
	}
	switch {
	case o.flat && o.text:
		return opts, usagef("choose one of --flat and --text")
	case o.flat:
		opts.Method = nix.MethodFlat
	case o.text:
		opts.Method = nix.MethodText
	}
	if o.name != "" && len(args) > 1 {
		return opts, usagef("--name is for one PATH")
	}
	for _, arg := range args {
		if arg != "-" {
			continue
		}
		if opts.Method == nix.MethodNAR || o.name == "" || len(args) > 1 {
			return opts, usagef("the standard input needs --flat or --text, and --name")
		}
	}
	return opts, nil
}

// adder is what things are added to: a store, or a daemon's.
type adder interface {
	Add(ctx context.Context, r io.Reader, opts store.AddOptions) (nix.PathInfo, error)
	AddTree(ctx context.Context, path string, opts store.AddOptions) (nix.PathInfo, error)
}

func (p *process) add(ctx context.Context, to adder, dir nix.StoreDir, args []string, o addOptions, opts store.AddOptions) error {
	m := p.meter("add")
	defer m.close()
	for _, arg := range args {
		info, err := p.addOne(ctx, to, arg, o, opts, m)
		if err != nil {
			return err
		}
		m.finished()
		if _, err := fmt.Fprintln(m.beside(p.stdout), dir.Path(info.Path)); err != nil {
			return err
		}
	}
	return nil
}

func (p *process) addOne(ctx context.Context, to adder, arg string, o addOptions, opts store.AddOptions, m *meter) (info nix.PathInfo, err error) {
	if arg == "-" {
		err = p.withInput(ctx, arg, m, func(r io.Reader) error {
			info, err = to.Add(ctx, r, opts)
			return err
		})
		return info, err
	}
	name := p.abs(arg)
	if opts.Name == "" {
		opts.Name = filepath.Base(name)
	}
	if err := nix.CheckName(opts.Name); err != nil {
		return info, hint(fmt.Errorf("add %s: %w", arg, err), "--name gives it another name")
	}
	if opts.CaseHack, err = o.hack.on(name); err != nil {
		return info, err
	}
	m.at(opts.Name)
	opts.Progress = func(n int) { m.add(int64(n)) }
	defer m.measure(ctx, name)()
	return to.AddTree(ctx, name, opts)
}

// measure finds out beside the work how many bytes a tree has, as far as progress cares; the result ends that.
func (m *meter) measure(ctx context.Context, root string) (stop func()) {
	if m == nil {
		return func() {}
	}
	m.mu.Lock()
	before := m.done
	m.total = 0
	m.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		total := before
		err := filepath.WalkDir(root, func(name string, d iofs.DirEntry, err error) error {
			if err != nil {
				return nil //nolint:nilerr // adding it will meet the same
			}
			const each = 112 // about what an entry takes in a NAR, beside its names
			total += each + int64(2*len(filepath.Base(name)))
			if d.Type().IsRegular() {
				if info, err := d.Info(); err == nil {
					total += info.Size()
				}
			}
			return ctx.Err()
		})
		if err == nil {
			m.setTotal(total)
		}
	}()
	return func() {
		cancel()
		<-done
	}
}
