package main

import (
	"errors"
	"slices"

	"github.com/spf13/cobra"

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
				if err := fs.Unmount(cmd.Context(), p.abs(dir), force); err != nil {
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
