package build

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/narfs/narfs/daemon/build/sandbox"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
	"github.com/narfs/narfs/internal/nixwire"
)

// Options of a Builder.
type Options struct {
	// Mount returns a folder in which the store can be read, exactly as it is, by all who run builders.
	Mount func(ctx context.Context) (string, error)
	// Changed is called when outputs have become valid, before anybody hears of them: so that mounts show them. It may be nil.
	Changed func(ctx context.Context)
	// Remote is how Nix's commands reach this store, for hooks: the value of NIX_REMOTE.
	Remote string
	// Dial reaches other machines; nil builds here only.
	Dial Dialer
	// LogDir is where the logs of builds are kept: DIR/drvs/XX/REST.bz2. "" keeps none.
	LogDir string
	// RunDir is a folder for all stores of this machine: in RunDir/builders a file is locked for each user that a builder runs as, and
	// in RunDir/build a builder without a sandbox finds its build directory, if it is not the daemon's user. "" means /run/narfs (on
	// macOS /var/run/narfs).
	RunDir string
	// Logger hears what goes wrong beside builds; nil discards.
	Logger *slog.Logger
}

// Builder builds derivations of a store. Its methods may be called concurrently.
type Builder struct {
	store *store.Store
	opts  Options
	dir   string

	mu      sync.Mutex // guards the rest
	goals   map[goalKey]*goal
	running int                      // builders here
	away    map[string]int           // builds on other machines, by their stores
	uploads map[string]chan struct{} // full while somebody copies to a machine
	events  atomic.Uint64            // that have happened
	freed   chan struct{}            // closed, and replaced, when a build ends
}

// goalKey tells goals apart.
type goalKey struct {
	path nix.StorePath
	mode Mode
}

// New returns a Builder, and removes what an earlier one has left.
func New(s *store.Store, o Options) (*Builder, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.RunDir == "" {
		o.RunDir = "/run/narfs"
		if runtime.GOOS == "darwin" {
			o.RunDir = "/var/run/narfs"
		}
	}
	b := &Builder{
		store: s, opts: o, dir: filepath.Join(s.StateDir(), "builds"), goals: map[goalKey]*goal{}, freed: make(chan struct{}),
		away: map[string]int{}, uploads: map[string]chan struct{}{},
	}
	if err := removeTree(b.dir); err != nil {
		return nil, fmt.Errorf("builds that were not ended: %w", err)
	}
	if err := b.removeKept(); err != nil {
		o.Logger.Warn("kept build directories cannot be removed", "err", err)
	}
	return b, nil
}

// keptDir is where the build directories of failed builds are kept.
func (b *Builder) keptDir() string { return b.dir + "-kept" }

// keptFor is for how long they are kept.
const keptFor = 7 * 24 * time.Hour

func (b *Builder) removeKept() error {
	entries, err := os.ReadDir(b.keptDir())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, entry := range entries {
		info, ierr := entry.Info()
		if ierr == nil && time.Since(info.ModTime()) > keptFor {
			ierr = removeTree(filepath.Join(b.keptDir(), entry.Name()))
		}
		err = errors.Join(err, ierr)
	}
	return err
}

// Mode says what to do about outputs that are valid.
type Mode uint8

// The modes.
const (
	Normal Mode = iota
	Check       // build them again and compare
	Repair      // build again those that cannot be read, and what they refer to
)

// Settings of one request.
type Settings struct {
	MaxJobs       int                       // builders at a time, in all, on this machine; 0 builds on others only
	Machines      func() ([]Machine, error) // others that may build; nil means none
	Substitute    bool                      // they get from elsewhere what they can
	Cores         int                       // for each builder, in its own words; 0 means all
	KeepGoing     bool                      // build what else can be built after a failure
	KeepFailed    bool                      // keep the build directories of failed builds
	Timeout       time.Duration             // of one build; 0 means none
	MaxSilent     time.Duration             // without output; 0 means none
	MaxLog        int64                     // bytes; 0 means any number
	Sandboxed     bool                      // builders see their inputs only
	Relaxed       bool                      // unless they ask for all, with __noChroot, or their output is fixed
	Users         Users
	Cgroups       bool     // each builder has a control group of its own
	SandboxPaths  []string // TARGET, TARGET=SOURCE, with ? behind it if it may be missing
	System        string
	Platforms     []string // further ones that can be run here
	Features      []string // that derivations may require
	Keys          []nix.SecretKey
	LogLines      int    // of the log in error messages
	NoLog         bool   // keep none
	PostBuildHook string // a program to run after each build; "" for none
	Mirrors       string // where builtin:fetchurl looks for files by their hashes, first
	ImpureEnv     func(name string) string
	Holder        string      // for lists of locks
	Pins          *store.Pins // get what is built and needed for it; must not be nil
	Hear          func(Event) // hears what happens, from several goroutines; must not be nil
	Heard         func()      // called, from these, when all has been heard that happened so far; may be nil
	troubles      *troubles   // of the request
}

// Event is something that happens in a goal.
type Event struct {
	Path    nix.StorePath // of the derivation
	Kind    EventKind
	Line    string  // of EventLine, without its end; of EventPhase, the phase
	Machine string  // of EventStarted: where, if not here
	Data    []byte  // of EventOutput
	Why     *Result // of EventFailed
	seq     uint64  // ascending for each Path
}

// EventKind says what an Event is.
type EventKind uint8

// The kinds.
const (
	EventStarted EventKind = iota + 1 // a builder runs
	EventLine                         // a line of its log
	EventOutput                       // its log as it comes
	EventEnded                        // it has ended
	EventPhase                        // it says which phase has begun
	EventFailed                       // it could not be built, for a reason of its own; comes last, also where no builder ran
)

// Result says what became of a goal.
type Result struct {
	Status      nixwire.Status
	Err         string // why it failed
	Cause       string // the failure that this one comes from; Err itself if it comes from none
	WrongHash   bool   // it failed because a fixed output has another hash
	Times       uint64
	Start, Stop time.Time
	CPU         *sandbox.CPUTime // nil if unknown
	Outputs     []Output         // those of the derivation that are valid, by name
}

// OK reports whether what was wanted is there.
func (r *Result) OK() bool { return r.Status <= nixwire.AlreadyValid }

// Output is a valid output.
type Output struct {
	Name        string
	Path        nix.StorePath
	Realisation nix.Realisation
}

// Wanted is a derivation and those of its outputs that are wanted; none means all.
type Wanted struct {
	Path    nix.StorePath
	Outputs []string
}

// Build has derivations realised, which must be valid, and returns a result for each. Without keep-going those that are still being built
// when one fails are given up.
func (b *Builder) Build(ctx context.Context, all []Wanted, mode Mode, o Settings) []Result {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	o = o.begin()
	results := make([]Result, len(all))
	var group errgroup.Group
	group.SetLimit(max(64, 4*runtime.GOMAXPROCS(0)))
	for i, w := range all {
		group.Go(func() error {
			if mode == Repair {
				results[i] = b.repair(ctx, w, o)
			} else {
				results[i] = b.realise(ctx, w.Path, nil, w.Outputs, mode, o)
			}
			if results[i].Status == nixwire.AlreadyValid { // else the goal has seen to it
				b.recordOutputs(ctx, results[i].Outputs, o)
			}
			if !results[i].OK() && !o.KeepGoing {
				cancel(ErrGivenUp)
			}
			return nil
		})
	}
	_ = group.Wait()
	return results
}

// recordOutputs records which paths outputs are, where nothing says so: who has something built may ask for its realisation, whether or
// not the path follows from the derivation. It is not the end of the world if that fails.
func (b *Builder) recordOutputs(ctx context.Context, outputs []Output, o Settings) {
	for _, out := range outputs {
		if out.Realisation.ID.Hash.IsZero() {
			continue
		}
		known, err := b.store.KnownRealisation(out.Realisation.ID)
		if err == nil && known.OutPath.IsZero() {
			r := out.Realisation
			if err = o.sign(&r); err == nil {
				_, err = b.store.Realise(ctx, r)
			}
		}
		if err != nil && ctx.Err() == nil {
			b.opts.Logger.WarnContext(ctx, "a realisation cannot be recorded", "id", out.Realisation.ID.String(), "err", err)
		}
	}
}

// sign signs a realisation with the machine's keys.
func (o Settings) sign(r *nix.Realisation) error {
	for _, key := range o.Keys {
		if err := r.Sign(key); err != nil {
			return err
		}
	}
	return nil
}

// ErrGivenUp is in the texts of results of what was not built because something else had failed.
var ErrGivenUp = errors.New("given up because another build has failed")

// BuildDerivation has a derivation realised whose inputs are paths, and which need not be valid.
func (b *Builder) BuildDerivation(ctx context.Context, path nix.StorePath, d *drv.BasicDerivation, mode Mode, o Settings) Result {
	o = o.begin()
	return b.realise(ctx, path, &drv.Derivation{BasicDerivation: *d}, nil, mode, o)
}

// begin returns the settings for the goals of a request, or of a goal that needs others.
func (o Settings) begin() Settings {
	o.Hear = once(o.Hear)
	if o.troubles == nil {
		o.troubles = &troubles{}
	}
	return o
}

// once passes each event on once: what happens in a goal is heard by each other one that waits for it.
func once(hear func(Event)) func(Event) {
	var mu sync.Mutex
	last := map[nix.StorePath]uint64{}
	return func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.seq > last[e.Path] {
			last[e.Path] = e.seq
			hear(e)
		}
	}
}

// failed is a result.
func failed(status nixwire.Status, format string, args ...any) Result {
	text := fmt.Sprintf(format, args...)
	return Result{Status: status, Err: text, Cause: text}
}

// realise joins the goal of a derivation, or begins it, and waits for its result.
func (b *Builder) realise(ctx context.Context, path nix.StorePath, d *drv.Derivation, outputs []string, mode Mode, o Settings) Result {
	if mode == Normal {
		if r, ok := b.there(ctx, path, d, outputs, o); ok {
			return r
		}
	}
	key := goalKey{path, mode}
	b.mu.Lock()
	g := b.goals[key]
	if g == nil {
		g = &goal{b: b, path: path, d: d, given: d != nil, mode: mode, o: o, done: make(chan struct{})}
		var goalCtx context.Context
		goalCtx, g.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
		b.goals[key] = g
		go g.run(goalCtx, key)
	}
	h := g.join(o.Hear, o.Heard)
	b.mu.Unlock()
	select {
	case <-g.done:
	case <-ctx.Done():
	}
	b.mu.Lock()
	left := g.leave(h)
	if left == 0 && b.goals[key] == g {
		delete(b.goals, key) // who comes now begins anew
	}
	b.mu.Unlock()
	if left == 0 {
		g.cancel(context.Cause(ctx))
		<-g.done // with its builder
	}
	select {
	case <-h.told:
	case <-ctx.Done():
		return failed(nixwire.MiscFailure, "build of '%s' was interrupted: %v", b.print(path), context.Cause(ctx))
	}
	r := g.result
	if len(outputs) > 0 {
		r.Outputs = slices.DeleteFunc(slices.Clone(r.Outputs), func(out Output) bool { return !slices.Contains(outputs, out.Name) })
	}
	for _, out := range r.Outputs {
		o.Pins.Add(out.Path)
	}
	return r
}

func (b *Builder) print(p nix.StorePath) string { return b.store.Dir().Path(p) }

// there returns a result if the wanted outputs are valid.
func (b *Builder) there(ctx context.Context, path nix.StorePath, d *drv.Derivation, outputs []string, o Settings) (Result, bool) {
	if d == nil {
		var err error
		if d, err = b.store.Derivation(path); err != nil {
			return failed(nixwire.MiscFailure, "%v", err), true
		}
	}
	for _, name := range outputs {
		if _, ok := d.Outputs[name]; !ok {
			return failed(nixwire.MiscFailure, "derivation '%s' does not have wanted outputs '%s'", b.print(path), name), true
		}
	}
	if kind, err := d.Kind(); err != nil {
		return failed(nixwire.MiscFailure, "derivation '%s': %v", b.print(path), err), true
	} else if kind == drv.Impure {
		return Result{}, false
	}
	known, err := b.knownOutputs(ctx, d)
	if err != nil {
		return failed(nixwire.MiscFailure, "derivation '%s': %v", b.print(path), err), true
	}
	if len(outputs) == 0 {
		outputs = d.OutputNames()
	}
	r := Result{Status: nixwire.AlreadyValid}
	for _, name := range outputs {
		realised, ok := known[name]
		if !ok {
			return Result{}, false
		}
		valid, err := o.Pins.AddValid([]nix.StorePath{realised.OutPath})
		if err != nil {
			return failed(nixwire.MiscFailure, "%v", err), true
		}
		if len(valid) == 0 {
			return Result{}, false
		}
		r.Outputs = append(r.Outputs, Output{name, realised.OutPath, realised})
	}
	return r, true
}

// knownOutputs returns where the outputs of a derivation are, or will be, as far as that is known.
func (b *Builder) knownOutputs(ctx context.Context, d *drv.Derivation) (map[string]nix.Realisation, error) {
	outputs, err := b.store.KnownOutputs(ctx, d)
	if err != nil {
		return nil, err
	}
	var modulo drv.Modulo // of all
	known := map[string]nix.Realisation{}
	for _, r := range outputs {
		if r.ID.Hash.IsZero() {
			if modulo.Hash.IsZero() {
				if modulo, err = b.store.Modulo(ctx, d); err != nil {
					return nil, err
				}
			}
			r.ID.Hash = modulo.Hash
		}
		if !r.OutPath.IsZero() {
			known[r.ID.Output] = r
		}
	}
	return known, nil
}

// removeTree removes a folder of a builder's, who may have taken away the permissions on its parts, and given somebody else the means to
// put links into their places: none is followed out of the folder.
func removeTree(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil {
		return nil
	}
	root, openErr := os.OpenRoot(dir)
	if openErr != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // nothing to lose
	_ = iofs.WalkDir(root.FS(), ".", func(name string, entry iofs.DirEntry, _ error) error {
		if entry != nil && entry.IsDir() {
			_ = root.Chmod(name, 0o700) // to be removed
		}
		return nil
	})
	return os.RemoveAll(dir)
}
