package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/fs"
)

type mountOptions struct {
	hack                                            hackFlags
	caseInsensitive, allowOther, hideListing, xattr bool
	readOnly, background, ready                     bool
	list                                            []string // -o, as given
	compressAfter                                   time.Duration

	// What only -o can say.
	extra []string
	owner *fs.Owner
	debug bool
}

func newMount(p *process) *cobra.Command {
	var o mountOptions
	cmd := &cobra.Command{
		Use:   "mount DIR",
		Short: "Mount the store on a folder",
		Long: "Mount the store on a folder, read-only, until it is unmounted (narfs umount DIR) or narfs is interrupted.\n\n" +
			"Meanwhile other commands that need the store are done by this process, further mounts included, which may show " +
			"it differently. When nothing else is to do, it compresses well what was compressed quickly on import, and gives " +
			"back the space of deleted paths.\n\n" +
			"The exact view shows all names as they are. The hacked view (--case-hack=on) is for systems that fold case and for " +
			"trees that will be copied to one: of names that differ only in case all but one get a suffix, as Nix's " +
			"use-case-hack would write them; they are still found under their own names.\n\n" +
			"Options after -o, with commas between: allow_other, hide_listing, xattr, case_insensitive, case_hack=MODE, fold=RULE, " +
			"compress_after=TIME, state=DIR, uid=N, gid=N, debug; those of mount(8) such as noexec; and those of the kernel's FUSE. " +
			"As mount.fuse.narfs, a link to narfs in /sbin, it serves mount(8) and fstab:\n\n" +
			"  /var/lib/narfs  /nix/store  fuse.narfs  allow_other  0 0",
		Args: operands(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.parseList(p); err != nil {
				return err
			}
			dir := p.abs(args[0])
			if o.background {
				return p.mountInBackground(cmd.Context(), cmd.Flags(), o, dir)
			}
			mo, err := o.fs(p, dir)
			if err != nil {
				return err
			}
			return p.withStore(cmd.Context(), use{creates: true, lasts: true}, func(ctx context.Context, s *store.Store) error {
				mo.Name = mountName(s.StateDir())
				return p.mount(ctx, dir, mo, o)
			})
		},
	}
	o.define(p, cmd)
	cmd.Flags().BoolVarP(&o.background, "background", "b", false, "return as soon as the store is mounted")
	return cmd
}

// define defines the flags of all who mount.
func (o *mountOptions) define(p *process, cmd *cobra.Command) {
	o.hack.define(p, cmd, "rename what differs only in case")
	cmd.Flags().Lookup("case-hack").DefValue = "off"
	o.hack.mode = "off" // a FUSE volume shows all names, also where other volumes fold case
	o.hack.defineFold(p, cmd)
	flags := cmd.Flags()
	flags.BoolVar(&o.caseInsensitive, "case-insensitive", false, "find a name in any case, as a Mac does")
	flags.BoolVar(&o.allowOther, "allow-other", false, "let other users in")
	flags.BoolVar(&o.hideListing, "hide-listing", false, "refuse to list the store; who knows a path finds it")
	flags.StringArrayVarP(&o.list, "options", "o", nil, "mount `OPTIONS`, with commas between")
	flags.BoolVar(&o.readOnly, "read-only", true, "there is no other way")
	_ = flags.MarkHidden("read-only")
	flags.DurationVar(&o.compressAfter, "compress-after", time.Minute, "compress well what was compressed quickly, after so much `TIME` with nothing to do; 0 for never")
	flags.BoolVar(&o.ready, "ready", false, "say on the standard output when it is ready")
	_ = flags.MarkHidden("ready") // for --background
}

// parseList takes -o apart.
func (o *mountOptions) parseList(p *process) error {
	if !o.readOnly {
		return usagef("a store is mounted read-only: narfs add and narfs import change it")
	}
	for _, list := range o.list {
		for option := range strings.SplitSeq(list, ",") {
			if err := o.parseOption(p, option); err != nil {
				return err
			}
		}
	}
	return nil
}

func (o *mountOptions) parseOption(p *process, option string) (err error) {
	name, value, _ := strings.Cut(option, "=")
	switch name {
	case "", "ro", "rw", "suid", "nosuid", "dev", "nodev", "defaults", "auto", "noauto", "user", "users", "nouser", "owner", "group",
		"nofail", "_netdev", "comment", "default_permissions", "subtype", "async", "exec":
		// What mount(8) says to others, or what is so in any case.
	case "allow_other":
		o.allowOther = true
	case "hide_listing":
		o.hideListing = true
	case "xattr":
		o.xattr = true
	case "case_insensitive":
		o.caseInsensitive = true
	case "case_hack":
		o.hack.mode = value
	case "fold":
		o.hack.fold = value
	case "state":
		p.state = value
	case "debug":
		o.debug, p.verbose = true, true
	case "compress_after":
		o.compressAfter, err = time.ParseDuration(value)
	case "uid", "gid":
		err = o.parseOwner(name, value)
	default:
		if !strings.HasPrefix(name, "x-") && !strings.HasPrefix(name, "X-") {
			o.extra = append(o.extra, option)
		}
	}
	if err != nil {
		return usagef("-o %s: %w", option, err)
	}
	return nil
}

func (o *mountOptions) parseOwner(name, value string) error {
	id, err := strconv.ParseUint(value, 10, 32)
	if err != nil {
		return err
	}
	if o.owner == nil {
		o.owner = &fs.Owner{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	}
	if name == "uid" {
		o.owner.UID = uint32(id)
	} else {
		o.owner.GID = uint32(id)
	}
	return nil
}

// fs returns the options as package fs has them.
func (o *mountOptions) fs(p *process, dir string) (fs.Options, error) {
	mo := fs.Options{
		CaseInsensitive: o.caseInsensitive, AllowOther: o.allowOther, HideListing: o.hideListing, XAttr: o.xattr,
		Owner: o.owner, Extra: o.extra, Debug: o.debug, Logger: p.logger(),
	}
	var err error
	if mo.Rule, err = o.hack.rule(); err != nil {
		return mo, err
	}
	// The folder that the mount will lie in tells what the host is like. The mount point itself may be a dead mount.
	mo.CaseHack, err = o.hack.on(filepath.Dir(dir))
	return mo, err
}

// addProcs lets more threads run Go code than there are processors. Those that wait for the kernel's next request count as
// running until the runtime's monitor notices, every 20 µs, and when they make up all that may run, it never stops looking;
// with some to spare it sleeps. Opening 20,000 files in random order took 1.1 s instead of 1.6 on two
// processors, and the server 0.7 s of CPU time instead of 1.2. The readers of a mount, which are as many as may run, are there already.
func addProcs() {
	const spare = 3
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + spare)
}

// Bytes of decoded contents that an owner keeps in memory.
const (
	mountCache = 48 << 20 // a mount's readers come back
	serveCache = 8 << 20  // clients read a path once, in order
)

// serveGC is the percentage by which the heap of an owner without a mount may grow before garbage is collected. Most of it is the index's
// table of what is new, 21 MB in one piece, and the usual percentage would let as much garbage lie around as that is large. A quarter
// takes a fifth more CPU time for 2,000 small paths than all of it, and half the memory; this is between.
const serveGC = 50

// thrifty makes this process one that only serves clients.
func thrifty() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(serveGC)
	}
}

// readyForMounts makes it one that has mounts, too. It stays one.
func (k *keeper) readyForMounts() {
	addProcs()
	k.store.SetCacheBytes(mountCache)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(100)
	}
}

// unmountTime is how long the end of a mount waits for those who use it.
const unmountTime = 5 * time.Second

// sameMounts refuses to mount for a client that would not see it: in another mount namespace, as containers and services have them.
func (p *process) sameMounts() error {
	if p.session == nil {
		return nil
	}
	theirs, ours := mountNamespace(p.access.Peer.PID), mountNamespace(os.Getpid())
	if theirs == "" || theirs == ours {
		return nil
	}
	return hint(fmt.Errorf("process %d, which owns the store, lives in another mount namespace: its mounts cannot be seen from here", os.Getpid()),
		"mount in that namespace, or end the process and let narfs mount own the store; a service must not have settings such as PrivateTmp")
}

// mount mounts the store until that is unmounted or ctx ends.
func (p *process) mount(ctx context.Context, dir string, mo fs.Options, o mountOptions) error {
	if err := p.sameMounts(); err != nil {
		return err
	}
	m, end, err := p.beginMount(ctx, dir, mo, o)
	if err != nil {
		return err
	}
	defer end()
	if err := p.keeper.daemon.OpenDoors(ctx); err != nil {
		return errors.Join(err, m.Unmount(context.WithoutCancel(ctx)))
	}
	switch {
	case o.ready:
		if err := p.sayReady(true); err != nil {
			return errors.Join(err, m.Unmount(context.WithoutCancel(ctx)))
		}
	case isTerminal(p.stderr):
		p.remark("narfs: %s is mounted on %s; Ctrl-C or narfs umount ends that\n", p.keeper.store.StateDir(), m.Dir())
	}
	select {
	case <-m.Done():
		return nil
	case <-ctx.Done():
	}
	return p.unmount(context.WithoutCancel(ctx), m)
}

// beginMount mounts the store. End is to be called when the mount is gone.
func (p *process) beginMount(ctx context.Context, dir string, mo fs.Options, o mountOptions) (m *fs.Mount, end func(), err error) {
	k := p.keeper
	if m, err = k.views.mount(ctx, dir, mo); err != nil {
		if hintFor(err) == "" {
			err = hint(err, "narfs doctor tells what is missing for mounting")
		}
		return nil, nil, err
	}
	k.mounting.Do(k.readyForMounts)
	_, _, _ = k.store.TotalsIfKnown() // so that they are when somebody asks
	stop := func() {}
	if o.compressAfter > 0 {
		stop = k.tidyWhenIdle(ctx, o.compressAfter, p.logger())
	}
	return m, func() { stop(); k.views.unmounted(m) }, nil
}

// unmount ends a mount of this process.
func (p *process) unmount(ctx context.Context, m *fs.Mount) error {
	ctx, cancel := context.WithTimeout(ctx, unmountTime)
	defer cancel()
	if p.again != nil {
		go func() {
			select {
			case <-p.again:
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	err := m.Unmount(ctx)
	if errors.Is(err, fs.ErrBusy) {
		p.remark("narfs: %s was in use; who still uses it meets errors from now on\n", m.Dir())
		return nil
	}
	return err
}

// mountInBackground starts a process of its own that mounts, and returns when that has mounted or failed.
func (p *process) mountInBackground(ctx context.Context, flags *pflag.FlagSet, o mountOptions, dir string) error {
	state, err := p.stateDir()
	if err != nil {
		return err
	}
	args := []string{"mount", "--ready", "--state=" + state}
	flags.Visit(func(f *pflag.Flag) {
		switch f.Name {
		case "background", "state":
		case "options":
			for _, list := range o.list {
				args = append(args, "--options="+list)
			}
		default:
			args = append(args, "--"+f.Name+"="+f.Value.String())
		}
	})
	return p.startBackground(ctx, state, "mount.log", append(args, "--", dir))
}
