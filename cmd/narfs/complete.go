package main

import (
	"context"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/nar"
)

// completePaths proposes store paths, in the spelling that was begun.
func (p *process) completePaths(cmd *cobra.Command, _ []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	found, _ := p.completions(cmd.Context(), begun, false)
	return found, cobra.ShellCompDirectiveNoFileComp
}

// completeFlag proposes values of a flag. Cobra keeps what it is told of that, in a map of its own and for ever, and the
// owner of a store does any number of commands: so it is told only if a shell asks.
func (p *process) completeFlag(cmd *cobra.Command, flag string, fn cobra.CompletionFunc) {
	if p.completes() {
		_ = cmd.RegisterFlagCompletionFunc(flag, fn)
	}
}

// completes reports whether the command line is a shell's question for proposals.
func (p *process) completes() bool {
	return len(p.args) > 0 && strings.HasPrefix(p.args[0], cobra.ShellCompRequestCmd)
}

// completeInside proposes store paths and what is inside of them.
func (p *process) completeInside(cmd *cobra.Command, _ []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return p.completions(cmd.Context(), begun, true)
}

// completeInsideOrFile proposes files, too.
func (p *process) completeInsideOrFile(cmd *cobra.Command, _ []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	found, directive := p.completions(cmd.Context(), begun, true)
	if len(found) == 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return found, directive &^ cobra.ShellCompDirectiveNoFileComp
}

func (p *process) completions(ctx context.Context, begun string, inside bool) (found []cobra.Completion, directive cobra.ShellCompDirective) {
	directive = cobra.ShellCompDirectiveNoFileComp
	p.quiet = true
	_ = p.withStore(ctx, use{}, func(_ context.Context, s *store.Store) error { // an error completes nothing
		prefix, rest := "", begun
		if after, ok := strings.CutPrefix(begun, string(s.Dir())+"/"); ok {
			prefix, rest = string(s.Dir())+"/", after
		}
		if dir, name := path.Split(rest); dir != "" {
			if inside {
				found = p.completeEntries(s, prefix+dir, name)
				directive |= cobra.ShellCompDirectiveNoSpace
			}
			return nil
		}
		return s.Slots(func(sp nix.StorePath, _ uint32) bool {
			if strings.HasPrefix(sp.BaseName(), rest) {
				found = append(found, prefix+sp.BaseName())
			}
			return true
		})
	})
	return found, directive
}

// completeEntries proposes what is in a folder, whose name ends in a slash.
func (p *process) completeEntries(s *store.Store, dir, begun string) []cobra.Completion {
	t, err := p.target(s, dir)
	if err != nil {
		return nil
	}
	n, err := walk(s, t, true)
	if err != nil {
		return nil
	}
	defer n.close()
	var found []cobra.Completion
	first, count := n.tree.Children(n.index)
	for i := first; i < first+count; i++ {
		name := n.tree.Name(i)
		if !strings.HasPrefix(name, begun) || strings.ContainsAny(name, "\n\t") {
			continue
		}
		if n.tree.Type(i) == nar.TypeDirectory {
			name += "/"
		}
		found = append(found, dir+name)
	}
	return found
}
