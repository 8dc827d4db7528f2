package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/nar/cas"
)

// compression is the flag of commands that store something new.
type compression struct{ how cas.Compression }

// compressions are the names of the ways to store new data, each at its number.
func compressions() []string {
	return []string{cas.CompressFast: "fast", cas.CompressNone: "none", cas.CompressBest: "best"}
}

func (c *compression) define(p *process, cmd *cobra.Command) {
	cmd.Flags().Var(c, "compression", "compress new data `HOW`: fast or none, and well when there is time, or best at once")
	p.completeFlag(cmd, "compression", cobra.FixedCompletions(compressions(), cobra.ShellCompDirectiveNoFileComp))
}

// String implements pflag.Value.
func (c *compression) String() string { return compressions()[c.how] }

// Set implements pflag.Value.
func (c *compression) Set(name string) error {
	names := compressions()
	for i := range names {
		if names[i] == name {
			c.how = cas.Compression(i)
			return nil
		}
	}
	return fmt.Errorf("unknown compression %q, want one of %s", name, strings.Join(names, ", "))
}

// Type implements pflag.Value.
func (*compression) Type() string { return "HOW" }
