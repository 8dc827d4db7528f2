package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// The systems.
const (
	narfs    = "narfs"
	nix      = "nix"
	nixNew   = "nix-2.34"
	ext4     = "ext4"
	squashfs = "squashfs"
	casync   = "casync"
	raw      = "raw"   // the bytes of all files
	first    = "first" // the first copy, for a second one
)

// unit is what a series is measured in.
type unit int

const (
	inSeconds unit = iota
	inBytes
	inAnonymous // bytes of memory that no file backs
)

// aim is what a row should reach. The zero aim is none: the row only informs.
type aim struct {
	atLeast bool
	value   float64
}

func atMost(value float64) aim  { return aim{value: value} }
func atLeast(value float64) aim { return aim{atLeast: true, value: value} }

// row is a line of the table: a series, measured for narfs and for another system. Its ratio is ours to theirs, or, if
// the aim is a least one, our speed to theirs. Without another system its aim is for what was measured of narfs.
type row struct {
	group, series string
	what          string
	theirs        string
	unit          unit
	aim           aim
}

// The temperatures; see the package comment.
const (
	warm    = "warm"
	cold    = "cold"
	dropped = "dropped"
)

// rows returns all rows. The aims are those of the project's issue 2.
func rows() []row {
	list := []row{
		{"import", "import-new", "import, all new, light compression", nix, inSeconds, atLeast(1.4)},
		{"import", "import-new-none", "import, all new, no compression yet", nix, inSeconds, atLeast(2.5)},
		{"import", "import-known", "import, all known under other names", nix, inSeconds, atLeast(4.5)},

		{"export", "export-warm", "export of all / dump of all", nix, inSeconds, atLeast(1)},
		{"export", "export-dropped", "the same, from disk", nix, inSeconds, atLeast(2.5)},
		{"export", "dump-warm", "dump of the largest tree", nix, inSeconds, atLeast(1)},
		{"export", "dump-dropped", "the same, from disk", nix, inSeconds, atLeast(2.5)},
		{"export", "export-rss", "peak memory of export", "", inBytes, atMost(64 << 20)},
		{"export", "export-anon", "peak memory of export without files", "", inAnonymous, aim{}},

		{"size", "size", "stored, recompressed, all included", squashfs, inBytes, atMost(0.95)},
		{"size", "size", "", raw, inBytes, atMost(0.27)},
		{"size", "size", "", casync, inBytes, atMost(0.88)},
		{"size", "size-imported", "stored as imported", squashfs, inBytes, aim{}},
		{"size", "size-imported", "", raw, inBytes, aim{}},

		{"rebuild", "rebuild", "growth by a copy with other references", first, inBytes, atMost(0.04)},
		{"rebuild", "rebuild-imported", "the same, as imported", first, inBytes, aim{}},

		{"scale", "start", "open a store of a million chunks, mount", "", inSeconds, atMost(0.3)},
		{"scale", "start-dropped", "the same, from disk", "", inSeconds, aim{}},
		{"scale", "find-rss", "memory after find over a million files", "", inBytes, atMost(300e6)},
		{"scale", "find-anon", "the same without files", "", inAnonymous, aim{}},
	}
	for _, c := range []struct {
		name, what string
		aim        float64
	}{{"many", "2,000 paths", 2}, {"big", "1 GB", 1}} {
		for _, to := range []struct{ series, what string }{{"to", "to an empty store"}, {"from", "from a full one"}} {
			series, what := "copy-"+c.name+"-"+to.series, "nix copy of "+c.what+" "+to.what
			list = append(list,
				row{"copy", series, what, nix, inSeconds, atLeast(c.aim)}, row{"copy", series, "", nixNew, inSeconds, atLeast(c.aim)},
				row{"copy", series + "-rss", what + ", memory of the server", nix, inBytes, atMost(1)}, row{"copy", series + "-rss", "", nixNew, inBytes, atMost(1)},
				row{"copy", series + "-own", what + ", of that without files", nix, inBytes, aim{}}, row{"copy", series + "-own", "", nixNew, inBytes, aim{}})
		}
	}
	list = append(list,
		row{"copy", "copy-query", "CPU time for asking about 20,000 paths", "", inSeconds, atMost(0.05)},
		row{"copy", "copy-query", "", nix, inSeconds, aim{}}, row{"copy", "copy-query", "", nixNew, inSeconds, aim{}})
	for _, c := range []struct {
		group, name, what string
		aim               float64
	}{
		{"daemon", "info", "path-info of 10,000 paths", 3},
		{"daemon", "add", "add 5,000 small files", 3},
		{"daemon", "add-64", "the same by 64 clients at once", 3},
		{"daemon", "copy", "copy 2,000 paths", 3},
		{"daemon", "drvs", "add 300 derivations", 3},
		{"daemon", "instantiate", "nix-instantiate of 300 derivations", 1},
		{"build", "many", "build 200 derivations, in a sandbox", 1},
		{"build", "chain", "build a chain of 200", 1},
		{"build", "inputs", "build one with 5,000 inputs", 1},
	} {
		series := c.group + "-" + c.name
		memoryAim := atMost(1)
		if c.group == "build" {
			memoryAim = aim{}
		}
		for i, theirs := range []string{nix, nixNew} {
			what, memory := c.what, c.what+", memory of the server"
			if i > 0 {
				what, memory = "", ""
			}
			list = append(list,
				row{c.group, series, what, theirs, inSeconds, atLeast(c.aim)},
				row{c.group, series + "-pss", memory, theirs, inBytes, memoryAim})
		}
	}
	add := func(group, name, what string, aims ...row) {
		for _, r := range aims {
			r.group, r.what = group, what+", "+r.series
			r.series = name + "-" + r.series
			list = append(list, r)
		}
	}
	at := func(temperature, theirs string, a aim) row { return row{series: temperature, theirs: theirs, aim: a} }
	for _, op := range []struct {
		name, what string
		warm, cold float64
	}{
		{"find", "find", 0.95, 2.1},
		{"ls", "ls -lR", 0.95, 1.2},
		{"du", "du", 0.95, 1.3},
		{"stat", "stat in random order", 1.3, 2.7},
		// The issue names no ceiling for these two when cold; FUSE.md measured 3.2 and 2.5.
		{"absent", "absent names", 1.4, 0},
		{"open", "open and close of files", 1.5, 0},
	} {
		coldAim := aim{}
		if op.cold > 0 {
			coldAim = atMost(op.cold)
		}
		add("metadata", op.name, op.what,
			at(warm, ext4, atMost(op.warm)), at(cold, ext4, coldAim), at(dropped, ext4, atMost(0.7)), at(dropped, squashfs, aim{}))
	}
	add("read", "small", "read all small files",
		at(warm, ext4, atMost(1.5)), at(cold, ext4, atMost(1)), at(cold, squashfs, atMost(0.3)), at(dropped, ext4, aim{}))
	add("big", "rand", "random 4K reads", at(warm, ext4, atMost(1.05)), at(cold, ext4, atMost(1.3)))
	add("big", "mmap", "random 4K reads, mmap", at(warm, ext4, atMost(1.05)), at(cold, ext4, atMost(1.3)))
	add("big", "touch", "random 4K reads, mmap unadvised", at(warm, ext4, aim{}), at(cold, ext4, aim{}))
	add("big", "seq", "sequential read", at(cold, squashfs, atMost(0.8)), at(cold, ext4, aim{}), at(warm, ext4, aim{}))
	add("compile", "compile", "compile C files with headers in the mount", at(warm, ext4, atMost(1.05)), at(cold, ext4, aim{}))
	return list
}

// choose returns the rows that one of the words names: by group, by series, or by the beginning of a series up to a
// hyphen.
func choose(all []row, words []string) ([]row, error) {
	if len(words) == 0 {
		return all, nil
	}
	named := func(r row, word string) bool {
		return r.group == word || r.series == word || strings.HasPrefix(r.series, word+"-")
	}
	for _, word := range words {
		if !slices.ContainsFunc(all, func(r row) bool { return named(r, word) }) {
			return nil, fmt.Errorf("no row %q; see -list", word)
		}
	}
	var chosen []row
	for _, r := range all {
		if slices.ContainsFunc(words, func(word string) bool { return named(r, word) }) {
			chosen = append(chosen, r)
		}
	}
	return chosen, nil
}

// plan answers what is to be measured for some rows.
type plan []row

func (p plan) group(name string) bool {
	return slices.ContainsFunc(p, func(r row) bool { return r.group == name })
}

func (p plan) series(name string) bool {
	return slices.ContainsFunc(p, func(r row) bool { return r.series == name })
}

// wants tells whether a series is to be measured on a system.
func (p plan) wants(series, system string) bool {
	return slices.ContainsFunc(p, func(r row) bool { return r.series == series && (system == narfs || r.theirs == system) })
}

// against tells whether a group compares with a system.
func (p plan) against(group, system string) bool {
	return slices.ContainsFunc(p, func(r row) bool { return r.group == group && r.theirs == system })
}

func printRows(w io.Writer, list []row) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range list {
		if _, err := fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", r.group, r.series, r.what, r.theirs, r.aimText()); err != nil {
			return err
		}
	}
	return tw.Flush()
}
