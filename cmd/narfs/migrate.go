package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/daemon/nixdb"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/nar"
)

type migrateOptions struct {
	from, storeFiles, stateFiles string
	dryRun, json, roots          bool
	jobs                         int
	hack                         hackFlags
	compression                  compression
}

func newMigrate(p *process) *cobra.Command {
	o := migrateOptions{hack: hackFlags{untouched: true}}
	cmd := &cobra.Command{
		Use:   "migrate --from DIR [PATH...]",
		Short: "Take over a store of Nix",
		Long: "Take over the valid paths of a store of the real Nix on this machine, or only the PATHs and all that they refer to, with all " +
			"that Nix knows about them: references, derivers, registration times, content addresses, signatures, and which were built " +
			"here. Print those that were not there yet.\n\n" +
			"DIR is /nix, or the folder that holds nix/store and nix/var/nix, as nix --store DIR has it. Nothing is written there, no lock " +
			"is taken, and Nix may be at work meanwhile: what counts is what was valid when the command began. Nix's database is copied " +
			"to the state directory for as long as it is read, or to $TMPDIR while there is no store. A PATH may be written as elsewhere, and may be a link to one.\n\n" +
			"Every NAR is compared with the hash in Nix's database. A path that is damaged or gone is reported, what refers to it is left " +
			"out, the rest goes on, and the exit code is 1 at the end. An interrupted migration can be done again: what is valid is not " +
			"read a second time.\n\n" +
			"With --roots, what keeps paths from Nix's garbage collector keeps them from narfs gc as well. Links to store paths below " +
			"gcroots and profiles get links in gcroots/migrated of the state directory, which narfs roots remove takes away; links " +
			"elsewhere that Nix knows, such as ./result, become indirect roots if they are there and lead to the path. What Nix makes or " +
			"forgets later changes nothing here, until the next time. Without it, narfs gc deletes what no root keeps.\n\n" +
			"Of content-addressed derivations, an experiment of Nix, the realisations are taken over, too: which path each output is. Those " +
			"in a database of Nix 2.35 and newer are not, since these name derivations in another way.",
		Example: "  narfs migrate --from /nix --dry-run\n  narfs migrate --from /nix --roots\n" +
			"  narfs --state /srv/narfs migrate --from /mnt/old-root ./result",
		Args: operands(0, many),
		RunE: func(cmd *cobra.Command, args []string) error {
			place, err := o.place(p)
			if err != nil {
				return err
			}
			return p.migrateTo(cmd.Context(), place, args, o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.from, "from", "", "`DIR` with the store of Nix: /nix, or the root of another one")
	flags.StringVar(&o.storeFiles, "from-store", "", "`DIR` with its store objects, if they are elsewhere")
	flags.StringVar(&o.stateFiles, "from-state", "", "`DIR` with its db, gcroots and profiles, if they are elsewhere")
	flags.BoolVarP(&o.dryRun, "dry-run", "n", false, "only print what would be taken over")
	flags.BoolVar(&o.roots, "roots", false, "take over what keeps paths from the garbage collector, too")
	flags.BoolVar(&o.json, "json", false, "print JSON, at the end")
	flags.IntVarP(&o.jobs, "jobs", "j", 0, "read `NUMBER` paths at the same time (default one for each processor, at most 4)")
	o.hack.define(p, cmd, "undo the case hack in the files")
	o.compression.define(p, cmd)
	return cmd
}

// maxJobs is how many paths are read at the same time unless the user says so: each has its buffers.
const maxJobs = 4

// place finds the store of Nix.
func (o *migrateOptions) place(p *process) (nixdb.Place, error) {
	switch {
	case o.from == "" && (o.storeFiles == "" || o.stateFiles == ""):
		return nixdb.Place{}, usagef("migrate needs --from DIR")
	case o.jobs < 0:
		return nixdb.Place{}, usagef("--jobs=%d: want a number from 1 on", o.jobs)
	}
	if o.jobs == 0 {
		o.jobs = min(runtime.GOMAXPROCS(0), maxJobs)
	}
	place := nixdb.Place{StoreDir: p.abs(o.storeFiles), StateDir: p.abs(o.stateFiles)}
	if place.StoreDir != "" && place.StateDir != "" {
		return place, nil
	}
	found, err := nixdb.Find(p.abs(o.from))
	if err != nil && place.StateDir == "" {
		return place, hint(err, "--from is /nix, or the root of another store; --from-store and --from-state name folders elsewhere")
	}
	if place.StoreDir == "" {
		place.StoreDir = found.StoreDir
	}
	if place.StateDir == "" {
		place.StateDir = found.StateDir
	}
	if place.StoreDir == "" {
		return place, err
	}
	return place, nil
}

// migrateTo opens the store, which is made if need be, for the directory that the paths of Nix name.
func (p *process) migrateTo(ctx context.Context, place nixdb.Place, args []string, o migrateOptions) error {
	dir, err := p.stateDir()
	if err != nil {
		return err
	}
	if p.keeper != nil || storeExists(dir) {
		return p.withStore(ctx, use{creates: true}, func(ctx context.Context, s *store.Store) error { return p.migrate(ctx, place, s, args, o) })
	}
	// What is wrong there must not leave a store here.
	db, err := nixdb.Open(ctx, place, "")
	if err != nil {
		return migrationHint(err)
	}
	if p.storeDir == "" && p.getenv(envStoreDir) == "" {
		p.storeDir = string(db.StoreDir())
	}
	if o.dryRun {
		defer db.Close() //nolint:errcheck // it was a copy
		return (&migration{p: p, o: o, place: place, db: db}).run(ctx, args)
	}
	if err := db.Close(); err != nil {
		return err
	}
	return p.withStore(ctx, use{creates: true}, func(ctx context.Context, s *store.Store) error { return p.migrate(ctx, place, s, args, o) })
}

func migrationHint(err error) error {
	if _, ok := errors.AsType[*nixdb.SchemaError](err); ok {
		return hint(err, "a newer Nix makes the database a newer one when it uses the store")
	}
	return err
}

func (p *process) migrate(ctx context.Context, place nixdb.Place, s *store.Store, args []string, o migrateOptions) (err error) {
	temp, err := s.TempDir()
	if err != nil {
		return err
	}
	db, err := nixdb.Open(ctx, place, temp)
	if err != nil {
		return migrationHint(err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if db.StoreDir() != "" && db.StoreDir() != s.Dir() {
		return hint(fmt.Errorf("paths of %s cannot be taken over into a store for %s", db.StoreDir(), s.Dir()), "choose another state directory, which is then made for them")
	}
	return (&migration{p: p, o: o, place: place, db: db, s: s}).run(ctx, args)
}

// migration is one narfs migrate.
type migration struct {
	p     *process
	o     migrateOptions
	place nixdb.Place
	db    *nixdb.DB
	s     *store.Store // nil for a dry run without one
	m     *meter
	pins  *store.Pins
	hack  bool

	result   migrateResult
	printErr error
}

// migrateResult is what narfs migrate --json prints.
type migrateResult struct {
	Paths        int64          `json:"paths"`    // that were asked for
	Valid        int64          `json:"valid"`    // of these, before
	Imported     int64          `json:"imported"` // or would be
	NarBytes     int64          `json:"narBytes"` // of those imported
	Failed       []migrateError `json:"failed"`
	Roots        []migratedRoot `json:"roots"`
	Realisations int64          `json:"realisations"` // that say something new
	BuildTraces  int64          `json:"buildTraces"`  // what newer versions have instead, which was left out
	DryRun       bool           `json:"dryRun"`
}

// migrateError is about a path or a realisation.
type migrateError struct {
	Path        string `json:"path,omitempty"`
	Realisation string `json:"realisation,omitempty"`
	Error       string `json:"error"`
}

func (mi *migration) run(ctx context.Context, args []string) error {
	mi.result = migrateResult{Failed: []migrateError{}, Roots: []migratedRoot{}, DryRun: mi.o.dryRun}
	rows, err := mi.rows(ctx, args)
	if err != nil {
		return err
	}
	if mi.result.BuildTraces, err = mi.db.BuildTraces(ctx); err != nil {
		return err
	}
	mi.result.Paths = int64(len(rows))
	if mi.s != nil {
		mi.pins = mi.s.Pin("migrate from " + mi.place.StateDir)
		defer mi.pins.Release()
	}
	missing, err := mi.missing(rows)
	if err != nil {
		return err
	}
	mi.result.Valid = mi.result.Paths - int64(len(missing))
	if mi.o.dryRun {
		err = mi.show(missing)
	} else {
		err = mi.take(ctx, missing)
	}
	if err == nil {
		err = mi.takeRealisations(ctx, rows, len(args) == 0)
	}
	if err == nil && mi.o.roots {
		err = mi.takeRoots(rows)
	}
	return mi.finish(firstError(err, mi.printErr))
}

// rows returns what the user wants, each path behind what it refers to.
func (mi *migration) rows(ctx context.Context, args []string) ([]nixdb.Row, error) {
	bad := mi.failed
	if len(args) > 0 {
		bad = func(string, error) {} // nobody can mean them
	}
	all, err := mi.db.Rows(ctx, bad)
	if err != nil {
		return nil, err
	}
	var chosen []nix.StorePath // nil for all
	for _, arg := range args {
		sp, err := mi.chosen(all, arg)
		if err != nil {
			return nil, err
		}
		chosen = append(chosen, sp)
	}
	return mi.db.Closure(ctx, all, chosen)
}

// chosen finds out which path of Nix an argument means.
func (mi *migration) chosen(all []nixdb.Row, arg string) (nix.StorePath, error) {
	dir := mi.db.StoreDir()
	if sp, err := nix.ParseStorePath(dir, arg); err == nil {
		return sp, nil
	}
	if sp, err := nix.ParseBaseName(arg); err == nil {
		return sp, nil
	}
	if len(arg) >= minAbbreviation && !strings.Contains(arg, "/") {
		i, _ := slices.BinarySearchFunc(all, arg, func(r nixdb.Row, arg string) int { return strings.Compare(r.Path.BaseName(), arg) })
		if i < len(all) && strings.HasPrefix(all[i].Path.HashPart(), arg) {
			if i+1 < len(all) && strings.HasPrefix(all[i+1].Path.HashPart(), arg) {
				return nix.StorePath{}, hint(fmt.Errorf("%q is the beginning of several paths", arg),
					"for example "+all[i].Path.BaseName()+" and "+all[i+1].Path.BaseName())
			}
			return all[i].Path, nil
		}
	}
	name := mi.p.abs(arg)
	for range maxLinks {
		for _, at := range []string{string(dir), mi.place.StoreDir} {
			if rest, ok := strings.CutPrefix(name, at+"/"); ok {
				if sp, err := nix.ParseBaseName(rest); err == nil {
					return sp, nil
				}
			}
		}
		to, err := os.Readlink(name)
		if err != nil {
			break
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(name), to)
		}
		name = filepath.Clean(to)
	}
	return nix.StorePath{}, fmt.Errorf("%q is no path of the store in %s", arg, mi.place.StoreDir)
}

// missing returns the rows of paths that are not valid here, and pins the others.
func (mi *migration) missing(rows []nixdb.Row) ([]nixdb.Row, error) {
	if mi.s == nil {
		return rows, nil
	}
	var missing []nixdb.Row
	for group := range slices.Chunk(rows, atOnce) {
		paths := make([]nix.StorePath, 0, len(group))
		for _, row := range group {
			paths = append(paths, row.Path)
		}
		valid, err := mi.pins.AddValid(paths)
		if err != nil {
			return nil, err
		}
		for _, row := range group { // valid is in the same order
			if len(valid) > 0 && valid[0] == row.Path {
				valid = valid[1:]
				continue
			}
			missing = append(missing, row)
		}
	}
	return missing, nil
}

// show prints what would be taken over.
func (mi *migration) show(rows []nixdb.Row) error {
	for _, row := range rows {
		mi.result.NarBytes += int64(row.NarSize)
	}
	mi.result.Imported = int64(len(rows))
	if mi.o.json {
		return nil
	}
	return buffered(mi.p.stdout, func(w *bufio.Writer) error {
		for _, row := range rows {
			if _, err := fmt.Fprintln(w, mi.db.StoreDir().Path(row.Path)); err != nil {
				return err
			}
		}
		return nil
	})
}

// take takes paths over.
func (mi *migration) take(ctx context.Context, rows []nixdb.Row) error {
	var err error
	if mi.hack, err = mi.o.hack.on(mi.place.StoreDir); err != nil {
		return err
	}
	mi.m = mi.p.meter("migrate")
	defer mi.m.close()
	total := int64(0)
	for _, row := range rows {
		total += int64(row.NarSize)
	}
	mi.m.setTotal(total)
	mi.m.setItems(int64(len(rows)))
	out := mi.m.beside(mi.p.stdout)
	return mi.s.ImportMany(ctx, mi.infos(ctx, rows), mi.dump, store.ManyOptions{
		Holder: mi.p.what(), Compression: mi.o.compression.how, Pins: mi.pins, Parallel: mi.o.jobs,
		Start:    func(info nix.PathInfo) { mi.m.at(info.Path.Name()) },
		Progress: func(n int) { mi.m.add(int64(n)) },
		Done: func(info nix.PathInfo) {
			mi.m.finished()
			mi.result.Imported++
			mi.result.NarBytes += int64(info.NarSize)
			if mi.o.json {
				return
			}
			if _, err := fmt.Fprintln(out, mi.s.Dir().Path(info.Path)); err != nil {
				mi.printErr = err
			}
		},
		Failed: func(info nix.PathInfo, err error) { mi.failed(mi.s.Dir().Path(info.Path), err) },
	})
}

// infos yields what Nix knows about paths.
func (mi *migration) infos(ctx context.Context, rows []nixdb.Row) iter.Seq2[nix.PathInfo, error] {
	return func(yield func(nix.PathInfo, error) bool) {
		for _, row := range rows {
			if !yield(mi.db.Info(ctx, row)) {
				return
			}
		}
	}
}

// dump writes the NAR of a path of Nix.
func (mi *migration) dump(_ context.Context, info nix.PathInfo, w io.Writer) error {
	return nar.Dump(w, filepath.Join(mi.place.StoreDir, info.Path.BaseName()), nar.DumpOptions{CaseHack: mi.hack})
}

// takeRealisations takes over which outputs are one of rows, which are all that are valid or not.
func (mi *migration) takeRealisations(ctx context.Context, rows []nixdb.Row, all bool) error {
	wanted := make(map[nix.StorePath]struct{}, len(rows))
	for _, row := range rows {
		wanted[row.Path] = struct{}{}
	}
	realisations, err := mi.db.Realisations(ctx, func(name string, out nix.StorePath, err error) {
		if _, ok := wanted[out]; ok || all {
			mi.failedRealisation(name, err)
		}
	})
	if err != nil || len(realisations) == 0 {
		return err
	}
	for _, r := range realisations {
		if _, ok := wanted[r.OutPath]; !ok {
			continue
		}
		isNew, err := mi.realise(ctx, r)
		_, contradicts := errors.AsType[*store.AnotherRealisationError](err)
		switch {
		case contradicts || errors.Is(err, store.ErrNotValid):
			mi.failedRealisation(r.ID.String(), err)
		case err != nil:
			return err
		case isNew:
			mi.result.Realisations++
		}
	}
	if mi.o.dryRun {
		return nil
	}
	return mi.s.Flush(ctx)
}

// realise takes a realisation over, or for a dry run only looks, and reports whether it says something new.
func (mi *migration) realise(ctx context.Context, r nix.Realisation) (isNew bool, err error) {
	switch {
	case !mi.o.dryRun:
		return mi.s.Realise(ctx, r)
	case mi.s == nil:
		return true, nil
	}
	known, err := mi.s.KnownRealisation(r.ID)
	return known.OutPath.IsZero(), err
}

// failed tells of a path that cannot be taken over.
func (mi *migration) failed(path string, err error) {
	mi.tellFailure(migrateError{Path: path, Error: err.Error()})
}

// failedRealisation tells of a realisation that cannot be taken over.
func (mi *migration) failedRealisation(name string, err error) {
	mi.tellFailure(migrateError{Realisation: name, Error: err.Error()})
}

func (mi *migration) tellFailure(failure migrateError) {
	mi.result.Failed = append(mi.result.Failed, failure)
	mi.m.clearLine()
	mi.p.say("narfs: %s\n", failure.Error)
}

// finish prints the result, also after an error.
func (mi *migration) finish(err error) error {
	r := &mi.result
	if mi.o.json {
		err = firstError(err, mi.p.printJSON(r))
	}
	if err != nil {
		return err
	}
	if r.BuildTraces > 0 {
		mi.p.remark("narfs: %s of content-addressed derivations, of Nix 2.35 or newer, not taken over\n", countText(r.BuildTraces, "realisation"))
	}
	done := "taken over"
	if r.DryRun {
		done = "would be taken over"
	}
	mi.p.remark("narfs: %s (%s) %s, %d valid before\n", countText(r.Imported, "path"), sizeText(r.NarBytes), done, r.Valid)
	if r.Realisations > 0 {
		mi.p.remark("narfs: %s %s\n", countText(r.Realisations, "realisation"), done)
	}
	if len(r.Roots) > 0 {
		mi.p.remark("narfs: %s %s\n", countText(int64(len(r.Roots)), "root"), done)
	}
	failures := map[string]int64{}
	for _, failure := range r.Failed {
		what := "path"
		if failure.Realisation != "" {
			what = "realisation"
		}
		failures[what]++
	}
	var left []string
	for _, what := range slices.Sorted(maps.Keys(failures)) {
		left = append(left, countText(failures[what], what))
	}
	if len(left) > 0 {
		return hint(fmt.Errorf("migrate: %s could not be taken over", strings.Join(left, " and ")),
			"nix-store --verify --check-contents --repair mends a store of Nix; then do it again")
	}
	return nil
}
