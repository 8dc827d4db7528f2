package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/daemon/build"
	"github.com/narfs/narfs/daemon/gc"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/daemon/workerproto"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nixwire"
)

type buildOptions struct {
	check, repair         bool
	dryRun, json          bool
	keepGoing, keepFailed bool
	logs                  bool
	jobs                  string
	cores                 uint
	timeout, silent       uint // seconds
	link                  string
}

func newBuild(p *process) *cobra.Command {
	var o buildOptions
	cmd := &cobra.Command{
		Use:   "build {DRV[^OUTPUT,...]|PATH}...",
		Short: "Build derivations",
		Long: "Have derivations of the store built, with all that they need, and print the paths of their outputs: of all, or those that are named " +
			"behind ^ (or !, as in Nix). A PATH that is not valid is built by the derivation of which it is an output, if the store has that.\n\n" +
			"On a terminal, a line for each builder that runs shows what it says; elsewhere, and with -L, its log is printed, each line behind its " +
			"name. All that is in narfs log afterwards.\n\n" +
			"The owner of the store builds, with its settings (narfs config) and the options here; where there is none one is started, which leaves " +
			"some seconds after its last client. When this command is interrupted its builders end, unless others wait for the same. " +
			"Nothing but --out-link keeps from narfs gc what was built.\n\n" +
			"Exit codes as Nix's: 100 a build has failed, 101 timed out, 102 a fixed output has another hash than it should have, 104 an output differs " +
			"from the valid one (--check); of several of these, the bits of all; 1 anything else.",
		Example:           "  narfs build -j4 a4k2\n  narfs build --out-link result $(nix-instantiate hello.nix)^out",
		Args:              operands(1, many),
		ValidArgsFunction: p.completePaths,
		RunE: func(cmd *cobra.Command, args []string) error {
			change, err := o.settings(p, cmd.Flags())
			if err != nil {
				return err
			}
			if o.link != "" && (o.dryRun || o.check) {
				return usagef("--out-link is for what is built, and not for --dry-run or --check")
			}
			if o.check && o.repair {
				return usagef("--check and --repair exclude each other")
			}
			if p.keeper == nil {
				p.outLink = o.link
				return p.doElsewhere(cmd.Context(), false)
			}
			return p.withStore(cmd.Context(), use{}, func(ctx context.Context, s *store.Store) error {
				return p.build(ctx, s, args, o, change)
			})
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.check, "check", false, "build again what is valid, and compare")
	flags.BoolVar(&o.repair, "repair", false, "read all that is asked for and what it refers to, and build again what is damaged")
	flags.BoolVarP(&o.keepGoing, "keep-going", "k", false, "build what else can be built when something has failed")
	flags.BoolVarP(&o.keepFailed, "keep-failed", "K", false, "keep the build directories of what has failed")
	flags.StringVarP(&o.jobs, "max-jobs", "j", "", "run so many builders at a time, `N` or auto")
	flags.UintVar(&o.cores, "cores", 0, "tell builders to use `N` processors, 0 for all")
	flags.UintVar(&o.timeout, "timeout", 0, "end builders after so many `SECONDS`")
	flags.UintVar(&o.silent, "max-silent-time", 0, "end builders that say nothing for so many `SECONDS`")
	flags.BoolVar(&o.dryRun, "dry-run", false, "only print the derivations that would be built")
	flags.BoolVar(&o.json, "json", false, "print a JSON list of what became of each argument")
	flags.StringVarP(&o.link, "out-link", "o", "", "make `LINK` lead to the output, and a root of the garbage collector; of others LINK-2 and so on, with -OUTPUT behind it unless that is out")
	flags.BoolVarP(&o.logs, "print-build-logs", "L", false, "print the logs of builds also on a terminal")
	p.defineOptions(cmd)
	return cmd
}

// settings returns what puts the options into settings.
func (o *buildOptions) settings(p *process, flags *pflag.FlagSet) (change func(*acl.Settings), err error) {
	jobs := 0
	if o.jobs != "" {
		if jobs, err = acl.ParseJobs(o.jobs); err != nil {
			return nil, usagef("--max-jobs: %w", err)
		}
	}
	var overrides [][2]string
	for _, option := range p.options {
		name, value, ok := strings.Cut(option, "=")
		if !ok || !acl.Known(name) {
			return nil, usagef("option %q is not NAME=VALUE, NAME being a setting", option)
		}
		overrides = append(overrides, [2]string{name, value})
	}
	return func(s *acl.Settings) {
		changed, ignored := s.For(p.access, overrides)
		for _, text := range ignored {
			p.remark("narfs: %s\n", printable(text))
		}
		*s = *changed
		s.KeepGoing = s.KeepGoing || o.keepGoing
		s.KeepFailed = s.KeepFailed || o.keepFailed
		if flags.Changed("max-jobs") {
			s.MaxJobs = jobs
		}
		if flags.Changed("cores") {
			s.Cores = int(min(o.cores, maxNumber))
		}
		if flags.Changed("timeout") {
			s.Timeout = time.Duration(min(o.timeout, maxNumber)) * time.Second
		}
		if flags.Changed("max-silent-time") {
			s.MaxSilentTime = time.Duration(min(o.silent, maxNumber)) * time.Second
		}
	}, nil
}

// maxNumber bounds numbers of processors and of seconds.
const maxNumber = 1 << 31

// buildArg is what an argument of narfs build means.
type buildArg struct {
	path    nix.StorePath // a derivation, or a valid path
	isDrv   bool
	outputs []string // none for all
	result  build.Result
}

// buildArg finds out what an argument means.
func (p *process) buildArg(s *store.Store, arg string, again bool) (o buildArg, err error) {
	name, names := cutOutputs(arg)
	if names != "" && names != "*" {
		o.outputs = strings.Split(names, ",")
	}
	o.path, err = p.orValid(s, name)
	invalid := isA[*store.NotValidError](err)
	if err != nil && (!invalid || o.path.IsZero()) {
		if invalid && strings.HasSuffix(name, ".nix") {
			err = hint(err, "nix-instantiate makes a derivation of an expression: narfs build $(nix-instantiate "+name+")")
		}
		return o, err
	}
	if store.IsDerivation(o.path) || len(o.outputs) > 0 || !invalid && !again {
		if o.isDrv = store.IsDerivation(o.path); !o.isDrv && len(o.outputs) > 0 {
			err = fmt.Errorf("%s is not a derivation, and has no outputs", name)
		}
		return o, err
	}
	out := o.path
	derivers, derr := s.Derivers(out)
	if derr != nil {
		return o, derr
	}
	for _, deriver := range derivers {
		d, err := s.Derivation(deriver)
		if err != nil {
			return o, err
		}
		for _, name := range d.OutputNames() {
			if at, err := d.Outputs[name].StorePath(s.Dir(), d.Name, name); err == nil && at == out {
				return buildArg{path: deriver, isDrv: true, outputs: []string{name}}, nil
			}
		}
	}
	if !invalid {
		return o, fmt.Errorf("the store has no derivation that makes '%s'", s.Dir().Path(out))
	}
	return o, hint(fmt.Errorf("%w, and the store has no derivation that makes it", err), "narfs copy --from gets paths from other stores")
}

// cutOutputs splits an argument into a path and the names of outputs, if there are some, or "*" for all.
func cutOutputs(arg string) (name, outputs string) {
	if i := strings.LastIndexAny(arg, "^!"); i >= 0 && i+1 < len(arg) && !strings.Contains(arg[i:], "/") {
		return arg[:i], arg[i+1:]
	}
	return arg, ""
}

// orValid finds out which store path an argument means. With a *store.NotValidError comes the path, if it could be one.
func (p *process) orValid(s *store.Store, arg string) (nix.StorePath, error) {
	t, err := p.target(s, arg)
	if err == nil && t.rest != "" {
		return t.path, fmt.Errorf("%s is not a store path but inside of one", arg)
	}
	if missing, ok := errors.AsType[*store.NotValidError](err); ok {
		sp, perr := nix.ParseStorePath(s.Dir(), missing.Path)
		if perr != nil {
			return nix.StorePath{}, err
		}
		return sp, err
	}
	return t.path, err
}

func (p *process) build(ctx context.Context, s *store.Store, args []string, o buildOptions, change func(*acl.Settings)) error {
	all := make([]buildArg, 0, len(args))
	var wanted []build.Wanted
	var paths []workerproto.DerivedPath
	for _, arg := range args {
		one, err := p.buildArg(s, arg, o.check || o.repair)
		if err != nil {
			return err
		}
		all = append(all, one)
		paths = append(paths, workerproto.DerivedPath{Path: one.path, Built: one.isDrv, Outputs: one.outputs})
		if one.isDrv {
			wanted = append(wanted, build.Wanted{Path: one.path, Outputs: one.outputs})
		}
	}
	missing, err := p.session.Missing(ctx, paths)
	if err != nil {
		return err
	}
	if len(missing.Unknown) > 0 {
		return &store.NotValidError{Path: s.Dir().Path(missing.Unknown[0])}
	}
	if o.dryRun {
		return p.printMissing(s, missing, o.json)
	}
	mode, total := build.Normal, len(missing.WillBuild)
	if o.check {
		mode = build.Check
		for _, w := range wanted {
			if !slices.Contains(missing.WillBuild, w.Path) {
				total++
			}
		}
	}
	if o.repair {
		if err := p.access.May(acl.Repair); err != nil {
			return err
		}
		mode = build.Repair
	}
	watch := p.watchBuilds(s.Dir(), total, o.logs)
	results, err := p.session.Build(ctx, wanted, mode, change, watch.hear)
	heard := watch.close()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	for i := range all {
		if all[i].isDrv {
			all[i].result, results = results[0], results[1:]
			watch.tell(all[i].result)
		} else {
			all[i].result = build.Result{Status: nixwire.AlreadyValid, Outputs: []build.Output{{Path: all[i].path}}}
		}
	}
	// What is told to be there, or kept, must be there after a power cut, too.
	if err := s.Flush(ctx); err != nil {
		return err
	}
	if o.link != "" {
		if err := p.linkOutputs(ctx, s, all, o.link); err != nil {
			return err
		}
	}
	if err := p.printBuilt(s, all, o.json); err != nil {
		return err
	}
	if code := buildExit(heard, all); code != exitDone {
		return &exitError{code}
	}
	return nil
}

// failures are the statuses of builders that have run, and failed for a reason that is not told apart.
func failures() []nixwire.Status {
	return []nixwire.Status{nixwire.PermanentFailure, nixwire.TransientFailure, nixwire.CachedFailure, nixwire.LogLimitExceeded, nixwire.OutputRejected}
}

// buildExit returns what to exit with, given the failures that were heard of and the results.
func buildExit(heard []build.Result, all []buildArg) int {
	const (
		timedOut  = 1
		wrongHash = 2
		failed    = 4
		differs   = 8
		base      = 0x60
	)
	code, ok := 0, true
	for _, one := range all {
		ok = ok && one.result.OK()
		heard = append(heard, one.result)
	}
	for _, r := range heard {
		switch {
		case r.Status == nixwire.TimedOut:
			code |= failed | timedOut
		case r.Status == nixwire.NotDeterministic:
			code |= differs
		case r.WrongHash:
			code |= failed | wrongHash
		case slices.Contains(failures(), r.Status):
			code |= failed
		}
	}
	switch {
	case ok:
		return exitDone
	case code == 0:
		return exitFailed
	}
	return base | code
}

// printMissing prints what would be built.
func (p *process) printMissing(s *store.Store, missing workerproto.Missing, asJSON bool) error {
	paths := printed(s.Dir(), nix.SortPaths(missing.WillBuild))
	if asJSON {
		return p.printJSON(map[string][]string{"willBuild": append([]string{}, paths...)})
	}
	p.remark("narfs: %s would be built\n", countText(int64(len(paths)), "derivation"))
	return buffered(p.stdout, func(w *bufio.Writer) error {
		for _, path := range paths {
			if _, err := fmt.Fprintln(w, path); err != nil {
				return err
			}
		}
		return nil
	})
}

// printBuilt prints what there is.
func (p *process) printBuilt(s *store.Store, all []buildArg, asJSON bool) error {
	if asJSON {
		list := make([]builtJSON, 0, len(all))
		for _, one := range all {
			list = append(list, one.json(s.Dir()))
		}
		return p.printJSON(list)
	}
	return buffered(p.stdout, func(w *bufio.Writer) error {
		for _, one := range all {
			for _, out := range one.result.Outputs {
				if _, err := fmt.Fprintln(w, s.Dir().Path(out.Path)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// builtJSON is a result, with the fields that Nix has and then some.
type builtJSON struct {
	DrvPath    string            `json:"drvPath,omitempty"`
	Path       string            `json:"path,omitempty"` // of what is no derivation
	Success    bool              `json:"success"`
	Status     string            `json:"status"`
	ErrorMsg   string            `json:"errorMsg,omitempty"`
	Outputs    map[string]string `json:"outputs,omitempty"`
	TimesBuilt uint64            `json:"timesBuilt,omitempty"`
	StartTime  int64             `json:"startTime,omitempty"` // seconds since 1970 began
	StopTime   int64             `json:"stopTime,omitempty"`
	CPUUser    *int64            `json:"cpuUser,omitempty"` // microseconds, with use-cgroups
	CPUSystem  *int64            `json:"cpuSystem,omitempty"`
}

func (o buildArg) json(dir nix.StoreDir) builtJSON {
	r := o.result
	if !o.isDrv {
		return builtJSON{Path: dir.Path(o.path), Success: true, Status: r.Status.String()}
	}
	b := builtJSON{DrvPath: dir.Path(o.path), Success: r.OK(), Status: r.Status.String(), ErrorMsg: forNarfs(r.Err), TimesBuilt: r.Times}
	if !r.Start.IsZero() {
		b.StartTime, b.StopTime = r.Start.Unix(), r.Stop.Unix()
	}
	b.CPUUser, b.CPUSystem = r.CPU.Microseconds()
	if len(r.Outputs) > 0 {
		b.Outputs = map[string]string{}
	}
	for _, out := range r.Outputs {
		b.Outputs[out.Name] = dir.Path(out.Path)
	}
	return b
}

// linkOutputs makes links to what there is, which are roots, or has the guest make them.
func (p *process) linkOutputs(ctx context.Context, s *store.Store, all []buildArg, link string) error {
	var links []outLink
	for i, one := range all {
		suffix := ""
		if i > 0 {
			suffix = fmt.Sprintf("-%d", i+1)
		}
		for _, out := range one.result.Outputs {
			l := outLink{suffix, out.Path}
			if out.Name != "" && out.Name != "out" {
				l.suffix += "-" + out.Name
			}
			links = append(links, l)
		}
	}
	if p.guest {
		return p.offerLinks(ctx, s.Dir(), links)
	}
	if err := gc.MakeLayout(s.StateDir()); err != nil {
		return err
	}
	for _, l := range links {
		if err := gc.AddPermanent(s.StateDir(), s.Dir(), l.path, filepath.Clean(p.abs(link))+l.suffix); err != nil {
			return err
		}
	}
	return nil
}
