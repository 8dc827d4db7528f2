package main

import (
	"bufio"
	"context"
	"os"
	"runtime"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/fs"
)

func newStats(p *process) *cobra.Command {
	var asJSON, bytes bool
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Show what is in the store and what it occupies",
		Long: "Show what is in the store and what it occupies:\n\n" +
			"  logical  the NARs of all valid paths\n" +
			"  unique   their distinct chunks, decompressed; what no path needs any more counts until narfs compact\n" +
			"  stored   what is on the disk: compressed, with trees, lists and the index\n\n" +
			"Light is what is to be compressed better yet; a mount does that when it has nothing else to do, or narfs compact " +
			"--recompress.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.withStore(cmd.Context(), use{}, func(_ context.Context, s *store.Store) error {
				return p.stats(s, asJSON, bytes)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVarP(&bytes, "bytes", "b", false, "show numbers of bytes, not 1.5 KiB")
	return cmd
}

func (p *process) stats(s *store.Store, asJSON, bytes bool) error {
	st, err := s.Stats()
	if err != nil {
		return err
	}
	mounts := p.keeper.views.list()
	if asJSON {
		type mount struct {
			fs.Stats

			Dir string `json:"dir"`
		}
		all := make([]mount, 0, len(mounts))
		for _, m := range mounts {
			all = append(all, mount{m.Stats(), m.Dir()})
		}
		return p.printJSON(struct {
			store.Stats

			State    string  `json:"stateDir"`
			StoreDir string  `json:"storeDir"`
			Stored   int64   `json:"stored"`
			PID      int     `json:"owner"`
			Mounts   []mount `json:"mounts"`

			// Of the owner, for who looks for leaks.
			Sessions   int   `json:"sessions"`
			Goroutines int   `json:"goroutines"`
			Budget     int64 `json:"budgetTaken"`
		}{st, s.StateDir(), string(s.Dir()), st.Stored(), os.Getpid(), all, len(p.otherSessions()), runtime.NumGoroutine(), p.budgetTaken()})
	}
	size := sizeText
	if bytes {
		size = func(n int64) string { return strconv.FormatInt(n, 10) }
	}
	t := &table{right: []bool{false, true, false}}
	t.add("state directory", "", s.StateDir())
	t.add("store directory", "", string(s.Dir()))
	t.add("valid paths", strconv.FormatInt(st.Paths, 10), countText(st.Objects, "distinct NAR"))
	t.add("logical", size(st.NarBytes), "")
	t.add("unique", size(st.Unique), percentText(st.Unique, st.NarBytes)+" of logical, "+countText(st.Chunks, "chunk"))
	t.add("stored", size(st.Stored()), percentText(st.Stored(), st.NarBytes)+" of logical")
	t.add("  packs", size(st.PackBytes), countText(st.Packs, "file"))
	t.add("  index", size(st.Index), "")
	t.add("light", size(st.Light), "to be compressed better")
	for _, m := range mounts {
		ms := m.Stats()
		t.add("mounted on", "", m.Dir()+" ("+size(ms.ReadBytes)+" read, trees of "+size(ms.LoadedBytes)+" in memory)")
	}
	return buffered(p.stdout, func(w *bufio.Writer) error { return t.write(w) })
}
