package main

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

type copyOptions struct {
	to, from                 string
	all, withoutRefs, repair bool
	substitute, noCheckSigs  bool
	compression              compression
	compresses               bool // it was asked for
}

func newCopy(p *process) *cobra.Command {
	var o copyOptions
	cmd := &cobra.Command{
		Use:   "copy {--to STORE | --from STORE} PATH...",
		Short: "Copy store paths to or from another store",
		Long: "Copy store paths, and all that they refer to, to another store, or from there; and print those that were not there " +
			"yet. STORE is a state directory of narfs, or ssh://[USER@]HOST[:PORT], where nix-store of narfs or Nix is started through " +
			"ssh: with $NIX_SSHOPTS, and under the name that ?remote-program=PROGRAM gives.\n\n" +
			"STORE may also be one of Nix on this machine, through its nix-store: / for that of the machine, the root of another one, " +
			"which holds nix/store and nix/var/nix, or what nix --store takes: local, daemon, local?root=DIR, which also makes a new " +
			"one. What is taken over goes back with signatures and derivers, but without realisations of content-addressed derivations, for which " +
			"there is nix copy, with narfs daemon.\n\n" +
			"Paths of a store behind ssh, or of Nix, are written in full, and if they are not content-addressed, must be signed by one of " +
			"trusted-public-keys (narfs config), unless require-sigs or --no-check-sigs says otherwise. Both stores may be mounted, or have a " +
			"daemon. An interrupted copy can be done again: what has arrived is not sent twice.",
		Example: "  narfs copy --to /media/stick/narfs a4k2\n  narfs copy --from /media/stick/narfs --all\n" +
			"  narfs copy --to ssh://alice@host ./result\n  narfs copy --to / --all",
		Args:              operands(0, many),
		ValidArgsFunction: p.completePaths,
		RunE: func(cmd *cobra.Command, args []string) error {
			if (o.to == "") == (o.from == "") {
				return usagef("copy needs either --to or --from")
			}
			served, err := p.isServed(firstOf(o.to, o.from))
			switch {
			case err != nil:
				return err
			case (len(args) == 0) != o.all:
				return usagef("copy needs either paths or --all")
			case o.substitute && (!served || o.to == ""):
				return usagef("--substitute-on-destination is for --to ssh://… or a store of Nix")
			}
			o.compresses = cmd.Flags().Changed("compression")
			if served {
				return p.copySSH(cmd.Context(), args, o)
			}
			return p.withStore(cmd.Context(), use{creates: o.from != ""}, func(ctx context.Context, s *store.Store) error {
				m := p.meter("copy")
				defer m.close()
				if o.to != "" {
					return p.copyTo(ctx, s, args, o, m)
				}
				return p.copyFrom(ctx, s, args, o, m)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.to, "to", "", "copy to `STORE`, a state directory, which is made if need be, ssh://HOST, or one of Nix")
	flags.StringVar(&o.from, "from", "", "copy from `STORE`")
	flags.BoolVarP(&o.substitute, "substitute-on-destination", "s", false, "let the other side get from its binary caches what these have (ssh and Nix only)")
	flags.BoolVar(&o.noCheckSigs, "no-check-sigs", false, "take also what is neither signed nor content-addressed (--from ssh or Nix only)")
	flags.BoolVar(&o.all, "all", false, "copy all valid paths")
	flags.BoolVar(&o.withoutRefs, "no-recursive", false, "copy only the paths themselves; what they refer to must be there")
	flags.BoolVar(&o.repair, "repair", false, "copy also the contents of paths that are there")
	o.compression.define(p, cmd)
	return cmd
}

// chosen returns the paths that a command is about.
func (p *process) chosen(s *store.Store, args []string, all, closure bool) ([]nix.StorePath, error) {
	if all {
		var paths []nix.StorePath
		err := s.Slots(func(sp nix.StorePath, _ uint32) bool { paths = append(paths, sp); return true })
		return nix.SortPaths(paths), err
	}
	paths, err := p.storePaths(s, args)
	if err == nil && closure {
		paths, err = s.Closure(paths...)
	}
	return paths, err
}

func (p *process) copyTo(ctx context.Context, s *store.Store, args []string, o copyOptions, m *meter) error {
	paths, err := p.chosen(s, args, o.all, !o.withoutRefs)
	if err != nil {
		return err
	}
	return p.withOther(ctx, o.to, use{creates: true}, func(ctx context.Context, other peer) error {
		switch other := other.(type) {
		case *storePeer:
			return p.copyBetween(ctx, other.s, s, paths, o, m)
		case *remotePeer:
			missing, err := other.missing(ctx, paths)
			if err != nil {
				return err
			}
			if missing, err = s.Sorted(missing); err != nil {
				return err
			}
			if err := m.expect(s, missing); err != nil {
				return err
			}
			for _, sp := range missing {
				info, err := s.PathInfo(sp)
				if err != nil {
					return err
				}
				m.at(sp.Name())
				info.Ultimate = false
				err = other.put(ctx, info, o.compression, func(w io.Writer) error { return s.WriteNAR(ctx, sp, m.writer(w)) })
				if err == nil {
					err = p.copied(s.Dir(), info, m)
				}
				if err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (p *process) copyFrom(ctx context.Context, s *store.Store, args []string, o copyOptions, m *meter) error {
	return p.withOther(ctx, o.from, use{}, func(ctx context.Context, other peer) error {
		switch other := other.(type) {
		case *storePeer:
			paths, err := p.chosen(other.s, args, o.all, !o.withoutRefs)
			if err != nil {
				return err
			}
			return p.copyBetween(ctx, s, other.s, paths, o, m)
		case *remotePeer:
			infos, err := other.infos(ctx, args, !o.withoutRefs)
			if err != nil {
				return err
			}
			if infos, err = missingFrom(s, infos); err != nil {
				return err
			}
			for _, info := range infos {
				m.at(info.Path.Name())
				info.Ultimate = false
				nar := other.nar(ctx, info.Path)
				err := s.Import(ctx, info, m.reader(nar), store.ImportOptions{Holder: p.what(), Compression: o.compression.how})
				_ = nar.Close()
				if err == nil {
					err = p.copied(s.Dir(), info, m)
				}
				if err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// copied tells of a path that is valid now.
func (p *process) copied(dir nix.StoreDir, info nix.PathInfo, m *meter) error {
	m.finished()
	_, err := fmt.Fprintln(m.beside(p.stdout), dir.Path(info.Path))
	return err
}

// copyBetween copies between two stores that are open here.
func (p *process) copyBetween(ctx context.Context, dst, src *store.Store, paths []nix.StorePath, o copyOptions, m *meter) error {
	expected := paths
	if !o.repair {
		var err error
		if expected, err = dst.Missing(paths); err != nil {
			return err
		}
	}
	if err := m.expect(src, expected); err != nil {
		return err
	}
	var printErr error
	err := store.Copy(ctx, dst, src, paths, store.CopyOptions{
		Repair: o.repair, Compression: o.compression.how,
		Start:    func(info nix.PathInfo) { m.at(info.Path.Name()) },
		Progress: func(n int) { m.add(int64(n)) },
		Done: func(info nix.PathInfo) {
			if err := p.copied(dst.Dir(), info, m); err != nil {
				printErr = err
			}
		},
	})
	return firstError(err, printErr)
}

// missingFrom returns those of some paths that a store does not have, each behind what it refers to.
func missingFrom(s *store.Store, infos []nix.PathInfo) ([]nix.PathInfo, error) {
	there := map[nix.StorePath]struct{}{}
	valid, err := s.ValidPaths(pathsOf(infos))
	for _, sp := range valid {
		there[sp] = struct{}{}
	}
	return sortedMissing(infos, there), err
}

// sortedMissing returns those of some paths that are not there, each behind what it refers to.
func sortedMissing(infos []nix.PathInfo, there map[nix.StorePath]struct{}) []nix.PathInfo {
	return nix.InOrder(slices.DeleteFunc(slices.Clone(infos), func(info nix.PathInfo) bool {
		_, ok := there[info.Path]
		return ok
	}))
}
