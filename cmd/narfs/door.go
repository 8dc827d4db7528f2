package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/narfs/narfs/daemon/gc"
	"github.com/narfs/narfs/daemon/owner"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/daemon/workerproto"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/nar"
)

// What a command of a guest needs of his files, his own process sees to: the owner reads and writes none of them.

// envLinks is the variable by which a guest says where those of his arguments lead that are in his file system: a JSON object.
const envLinks = "NARFS_LINKS"

// door returns what changes a request of this process for an owner of another user.
func (p *process) door(ctx context.Context, dir string) func(*owner.Request) (func() error, error) {
	return func(req *owner.Request) (end func() error, err error) {
		if links := p.links(req.Args); len(links) > 0 {
			text, err := json.Marshal(links)
			if err != nil {
				return nil, err
			}
			req.Env = append(req.Env, envLinks+"="+string(text))
		}
		if p.outLink == "" {
			return func() error { return nil }, nil
		}
		return p.makeLinks(ctx, dir, req)
	}
}

// links returns which of some arguments, or what stands before their names of outputs, lead into a store, and where.
func (p *process) links(args []string) map[string]string {
	links := map[string]string{}
	for _, arg := range args {
		name, _ := cutOutputs(arg)
		if to := p.leadsTo(name); to != "" {
			links[name] = to
		}
	}
	return links
}

// leadsTo returns the base name of a store path, with what is behind it, that a path of the file system is or leads to.
func (p *process) leadsTo(name string) string {
	if name == "" || len(name) >= unix.PathMax || strings.HasPrefix(name, "-") || strings.HasPrefix(name, string(nix.DefaultStoreDir)+"/") {
		return "" // or it is known what is meant
	}
	for at, todo := range steps(p.abs(name)) {
		if base := filepath.Base(at); isBaseName(base) {
			return strings.Join(append([]string{base}, todo...), "/")
		}
	}
	return ""
}

func isBaseName(name string) bool {
	_, err := nix.ParseBaseName(name)
	return err == nil
}

// linkPlan is what the owner tells a guest who wants links to outputs: a line before all else. The paths stay until the guest has ended
// his input.
type linkPlan struct {
	StoreDir nix.StoreDir
	Links    [][2]string // what is behind the name, and where it leads
}

// outLink is a link to be made.
type outLink struct {
	suffix string // of its name
	path   nix.StorePath
}

// maxPlan bounds a linkPlan.
const maxPlan = 16 << 20

// offerLinks has a guest make links.
func (p *process) offerLinks(ctx context.Context, dir nix.StoreDir, links []outLink) error {
	plan := linkPlan{StoreDir: dir}
	for _, l := range links {
		plan.Links = append(plan.Links, [2]string{l.suffix, dir.Path(l.path)})
	}
	if err := json.NewEncoder(p.stdout).Encode(plan); err != nil {
		return err
	}
	r, done := interruptible(ctx, p.stdin)
	defer done()
	_, err := io.Copy(io.Discard, r)
	return err
}

// makeLinks stands between the owner and our standard files and makes the links that he offers.
func (p *process) makeLinks(ctx context.Context, dir string, req *owner.Request) (end func() error, err error) {
	in, hold, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	out, w, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, in.Close(), hold.Close())
	}
	stdout := req.Stdout
	req.Stdin, req.Stdout = in, w
	done := make(chan error, 1)
	go func() {
		dec := json.NewDecoder(io.LimitReader(out, maxPlan))
		var plan linkPlan
		err := dec.Decode(&plan)
		switch {
		case errors.Is(err, io.EOF): // nothing was built
			err = nil
		case err != nil:
			err = fmt.Errorf("the owner of %s offers no links: %w", dir, err)
		default:
			err = p.takePlan(ctx, dir, plan)
		}
		_ = hold.Close()
		_, cerr := io.Copy(stdout, skipNewline(io.MultiReader(dec.Buffered(), out)))
		done <- errors.Join(err, cerr, out.Close())
	}()
	return func() error { return errors.Join(w.Close(), <-done, in.Close()) }, nil
}

// skipNewline reads over a newline that comes first.
func skipNewline(in io.Reader) io.Reader {
	r := bufio.NewReader(in)
	if first, err := r.Peek(1); err == nil && first[0] == '\n' {
		_, _ = r.Discard(1)
	}
	return r
}

// check refuses what was not asked for: the owner may be anybody.
func (plan linkPlan) check() error {
	if _, err := nix.ParseStoreDir(string(plan.StoreDir)); err != nil {
		return err
	}
	for _, l := range plan.Links {
		if _, err := nix.ParseStorePath(plan.StoreDir, l[1]); err != nil {
			return err
		}
		if strings.Contains(l[0], "/") {
			return fmt.Errorf("%q cannot be the end of a link's name", l[0])
		}
	}
	return nil
}

// takePlan makes links and has the owner take them for roots.
func (p *process) takePlan(ctx context.Context, dir string, plan linkPlan) error {
	if err := plan.check(); err != nil {
		return fmt.Errorf("links that the owner of %s offers: %w", dir, err)
	}
	return withDaemon(ctx, dir, plan.StoreDir, func(client *workerproto.Client) error {
		for _, l := range plan.Links {
			link := filepath.Clean(p.abs(p.outLink)) + l[0]
			if err := gc.MakeLink(l[1], plan.StoreDir, link); err != nil {
				return err
			}
			if err := client.AddIndirectRoot(link); err != nil {
				return fmt.Errorf("root %s: %w", link, err)
			}
		}
		return nil
	})
}

// withDaemon calls fn with a connection to the daemon of a state directory, which ends with ctx.
func withDaemon(ctx context.Context, state string, dir nix.StoreDir, fn func(*workerproto.Client) error) error {
	conn, err := owner.Connect(ctx, state)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing to lose
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	client, err := workerproto.Open(conn, conn, dir, workerproto.Latest)
	if err == nil {
		err = fn(client)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// addAsGuest adds what the daemon cannot read: it gets the contents.
func (p *process) addAsGuest(ctx context.Context, state string, args []string, o addOptions, opts store.AddOptions) error {
	who, err := (&remotePeer{p: p, dir: state}).askIdentity(ctx)
	if err != nil {
		return err
	}
	if o.repair && !who.Trusted {
		return errors.New("repairing is not allowed because you are not in 'trusted-users'")
	}
	for _, ref := range o.references {
		sp, err := nix.ParseStorePath(who.StoreDir, ref)
		if err != nil {
			base := p.leadsTo(ref)
			if sp, err = nix.ParseBaseName(base); err != nil {
				return fmt.Errorf("%s is no store path, nor a link to one", ref)
			}
		}
		opts.References = append(opts.References, sp)
	}
	return withDaemon(ctx, state, who.StoreDir, func(client *workerproto.Client) error {
		return p.add(ctx, &daemonAdder{client}, who.StoreDir, args, o, opts)
	})
}

// daemonAdder adds to a daemon's store.
type daemonAdder struct{ client *workerproto.Client }

func (d *daemonAdder) add(opts store.AddOptions, contents func(io.Writer) error) (nix.PathInfo, error) {
	info, err := d.client.AddToStore(workerproto.AddToStoreRequest{
		Name: opts.Name, Method: opts.Method, Algo: opts.Algo, References: opts.References, Repair: opts.Repair,
	}, contents)
	if err != nil {
		return info, fmt.Errorf("add %s: %w", opts.Name, err)
	}
	return info, nil
}

// Add implements adder.
func (d *daemonAdder) Add(_ context.Context, r io.Reader, opts store.AddOptions) (nix.PathInfo, error) {
	return d.add(opts, func(w io.Writer) error { _, err := io.Copy(w, r); return err })
}

// AddTree implements adder.
func (d *daemonAdder) AddTree(ctx context.Context, path string, opts store.AddOptions) (nix.PathInfo, error) {
	if opts.Method == nix.MethodNAR {
		return d.add(opts, func(w io.Writer) error {
			return nar.Dump(&meteredWriter{w, opts.Progress}, path, nar.DumpOptions{CaseHack: opts.CaseHack})
		})
	}
	f, err := openFile(ctx, path)
	if err != nil {
		return nix.PathInfo{}, err
	}
	defer f.Close() //nolint:errcheck // only read
	return d.add(opts, func(w io.Writer) error { _, err := io.Copy(&meteredWriter{w, opts.Progress}, f); return err })
}
