package main

import (
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func newMan(p *process) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "man [COMMAND...]",
		Short: "Print the manual page of narfs or of a command",
		Example: "  narfs man | man -l -\n" +
			"  narfs man --dir ~/.local/share/man/man1",
		Args: knownCommand,
		RunE: func(cmd *cobra.Command, args []string) error {
			header := &doc.GenManHeader{Section: "1", Source: "narfs " + version(), Manual: "narfs"}
			page, _, err := cmd.Root().Find(args)
			if err != nil {
				return err
			}
			page.DisableAutoGenTag = true
			if dir == "" {
				return doc.GenMan(page, header, p.stdout)
			}
			dir := p.abs(dir)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			return doc.GenManTree(page, header, dir)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "write the pages of the command and of all below it into `DIR` instead")
	return cmd
}
