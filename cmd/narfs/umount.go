package main

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/lock"
	"github.com/narfs/narfs/fs"
)

func newUmount(p *process) *cobra.Command {
	var force, all bool
	cmd := &cobra.Command{
		Use:     "umount DIR...",
		Aliases: []string{"unmount"},
		Short:   "Unmount a mounted store",
		Long: "Unmount a store. The narfs that serves it ends, unless it has more to do. With --force, also a mount that is in " +
			"use, that does not answer or whose narfs is dead.",
		Args: operands(0, many),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			dirs, _ := mountedDirs()
			return dirs, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 0) != all {
				return usagef("umount needs either folders or --all")
			}
			if all {
				var err error
				if args, err = mountedDirs(); err != nil {
					return err
				}
			}
			var errs []error
			for _, dir := range args {
				if err := p.umount(cmd.Context(), p.abs(dir), force); err != nil {
					errs = append(errs, err)
				}
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "unmount also what is in use or dead")
	cmd.Flags().BoolVar(&all, "all", false, "unmount everything that narfs has mounted")
	return cmd
}

// umount unmounts, and waits for the end of who has served that, so that the state directory can be moved or removed then.
func (p *process) umount(ctx context.Context, dir string, force bool) error {
	before, err := fs.Mounts()
	if err != nil {
		return err
	}
	if err := fs.Unmount(ctx, dir, force); err != nil {
		return err
	}
	after, err := fs.Mounts()
	if err != nil {
		return err
	}
	patience := unmountTime
	if force {
		patience /= 10 // it lives on with those who use it
	}
	for _, m := range before {
		shows := func(other fs.Mounted) bool { return other.Source == m.Source }
		if m.Dir != dir || !filepath.IsAbs(m.Source) || slices.ContainsFunc(after, shows) {
			continue
		}
		if waitForOwner(ctx, m.Source, patience) != nil {
			p.remark("narfs: %s is unmounted; its server has not ended yet\n", dir)
		}
	}
	return nil
}

// waitForOwner waits a while for the end of the mount that owns a state directory.
func waitForOwner(ctx context.Context, dir string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		o, err := lock.Own(dir, "narfs umount")
		if err == nil {
			return o.Release()
		}
		if owned, ok := errors.AsType[*lock.OwnedError](err); !ok || !strings.Contains(owned.What, " mount ") {
			return nil // another command's, or another user's
		}
		if err := wait(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// mountedDirs are the folders that narfs has mounted something on, the last one first.
func mountedDirs() ([]string, error) {
	mounts, err := fs.Mounts()
	if err != nil {
		return nil, err
	}
	dirs := make([]string, 0, len(mounts))
	for _, m := range slices.Backward(mounts) {
		dirs = append(dirs, m.Dir)
	}
	return dirs, nil
}
