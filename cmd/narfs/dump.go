package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/casefold"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/fs"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/nar"
)

func newDump(p *process) *cobra.Command {
	var hack hackFlags
	cmd := &cobra.Command{
		Use:   "dump PATH",
		Short: "Write the NAR of a file tree or of a store path",
		Long: "Write the NAR of a file, link or folder on disk, or of something in the store, to the standard output.\n\n" +
			"What looks like a store path is one if the store has it; anything else that is on disk is taken from there.",
		Example:           "  narfs dump ~/src/hello | sha256sum\n  narfs dump a4k2 | narfs restore ./copy",
		Args:              operands(1, 1),
		ValidArgsFunction: p.completeInsideOrFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			if isTerminal(p.stdout) {
				return hint(errors.New("a NAR is not for a terminal"), "narfs dump PATH >FILE")
			}
			m := p.meter("dump")
			defer m.close()
			return p.withTree(cmd.Context(), args[0], &hack, func(ctx context.Context, write treeWriter) error {
				return write(ctx, m.writer(p.wideOut()))
			})
		},
	}
	hack.define(p, cmd, "undo the case hack in a tree on disk")
	return cmd
}

// treeWriter writes the NAR of some tree.
type treeWriter func(ctx context.Context, w io.Writer) error

// withTree calls fn with what an argument means: a tree on disk or one in the store, which is not opened for the former.
func (p *process) withTree(ctx context.Context, arg string, hack *hackFlags, fn func(ctx context.Context, write treeWriter) error) error {
	onDisk := func(ctx context.Context) error {
		name := p.abs(arg)
		undo, err := hack.on(name)
		if err != nil {
			return err
		}
		return fn(ctx, func(ctx context.Context, w io.Writer) error {
			return nar.Dump(&ctxWriter{ctx, w}, name, nar.DumpOptions{CaseHack: undo})
		})
	}
	inStore, err := p.looksStored(arg)
	if err != nil {
		return err
	}
	if !inStore {
		return onDisk(ctx)
	}
	return p.withStore(ctx, use{}, func(ctx context.Context, s *store.Store) error {
		t, err := p.target(s, arg)
		if errors.Is(err, store.ErrNotValid) && exists(p.abs(arg)) {
			return onDisk(ctx)
		}
		if err != nil {
			return err
		}
		n, err := walk(s, t, false)
		if err != nil {
			return err
		}
		defer n.close()
		return fn(ctx, n.writeNAR)
	})
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// looksStored decides whether an argument that may name a file on disk or something in the store is to be looked up in the
// store. It does not open the store.
func (p *process) looksStored(arg string) (bool, error) {
	if arg == "" {
		return false, usagef("a path is empty")
	}
	dir, err := p.stateDir()
	if err != nil || !storeExists(dir) {
		return false, nil //nolint:nilerr // without a store there is nothing to look up
	}
	storeDir := p.storeDir
	if storeDir == "" {
		storeDir = p.getenv(envStoreDir)
	}
	if storeDir == "" {
		storeDir = string(nix.DefaultStoreDir)
	}
	if strings.HasPrefix(arg, strings.TrimSuffix(storeDir, "/")+"/") {
		return true, nil
	}
	first, _, _ := strings.Cut(arg, "/")
	if _, err := nix.ParseBaseName(first); err == nil {
		return true, nil
	}
	mounts, err := fs.Mounts()
	if err != nil {
		return false, err
	}
	if _, ok := inMount(mounts, dir, storeDir, p.abs(arg)); ok {
		return true, nil
	}
	return !exists(p.abs(arg)), nil
}

// writeNAR writes the NAR of a node.
func (n *node) writeNAR(ctx context.Context, w io.Writer) error {
	if n.index == 0 {
		return n.content.WriteNAR(ctx, w)
	}
	nw := nar.NewWriter(&ctxWriter{ctx, w})
	if err := n.writeBelow(ctx, nw, n.index, 1); err != nil {
		return err
	}
	return nw.Close()
}

func (n *node) writeBelow(ctx context.Context, nw *nar.Writer, i uint32, depth int) error {
	h := n.tree.Header(i, depth)
	if depth == 1 {
		h.Name = ""
	}
	if err := nw.WriteHeader(h); err != nil {
		return err
	}
	if h.Type == nar.TypeRegular {
		return (&node{content: n.content, tree: n.tree, index: i}).copyTo(ctx, nw)
	}
	first, count := n.tree.Children(i)
	for child := first; child < first+count; child++ {
		if err := n.writeBelow(ctx, nw, child, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// ctxWriter writes until a context ends.
type ctxWriter struct {
	ctx context.Context //nolint:containedctx // of the one call that it serves
	w   io.Writer
}

func (c *ctxWriter) Write(b []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.w.Write(b)
}

// hackFlags are the flags about names that a file system takes for one.
type hackFlags struct {
	mode, fold string
	untouched  bool // nothing may be created at the place
}

func (h *hackFlags) define(p *process, cmd *cobra.Command, purpose string) {
	flags := cmd.Flags()
	flags.StringVar(&h.mode, "case-hack", "auto", "`MODE` off, on or auto, where the file system folds case: "+purpose)
	p.completeFlag(cmd, "case-hack", cobra.FixedCompletions([]string{"off", "on", "auto"}, cobra.ShellCompDirectiveNoFileComp))
}

func (h *hackFlags) defineFold(p *process, cmd *cobra.Command) {
	cmd.Flags().StringVar(&h.fold, "fold", "", "`RULE` ascii as Nix has it, hfs or apfs: which names are one (default what the system does, ascii on Linux)")
	p.completeFlag(cmd, "fold", cobra.FixedCompletions([]string{"ascii", "hfs", "apfs"}, cobra.ShellCompDirectiveNoFileComp))
}

// rule is the one that --fold names.
func (h *hackFlags) rule() (casefold.Rule, error) {
	if h.fold == "" {
		if runtime.GOOS == "darwin" && h.mode == "auto" {
			return casefold.APFS, nil
		}
		return casefold.ASCII, nil
	}
	rule, err := casefold.ParseRule(h.fold)
	if err != nil {
		return rule, usagef("--fold: %w", err)
	}
	return rule, nil
}

// on decides whether names are hacked at a place on disk, which need not exist.
func (h *hackFlags) on(place string) (bool, error) {
	switch h.mode {
	case "on":
		return true, nil
	case "off":
		return false, nil
	case "auto":
	default:
		return false, usagef("--case-hack=%s: want off, on or auto", h.mode)
	}
	dir := place
	if info, err := os.Lstat(place); err != nil || !info.IsDir() {
		dir = filepath.Dir(place)
	}
	find := casefold.IsCaseInsensitive
	if h.untouched {
		find = casefold.LooksCaseInsensitive
	}
	folds, err := find(dir)
	switch {
	case errors.Is(err, iofs.ErrNotExist):
		return false, nil // whoever uses the place says it better
	case err != nil && runtime.GOOS == "linux":
		return false, nil // it could not be tried; folders that fold case are rare
	case err != nil:
		return false, hint(fmt.Errorf("find out whether %s folds case: %w", dir, err), "--case-hack=off or on says it")
	}
	return folds, nil
}
