package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/narfs/narfs/tests/env/closure"
	"github.com/narfs/narfs/tests/env/serve"
)

// far is a store that clients copy to and from through the serve protocol.
type far struct {
	b      *bench
	system string
	dir    string // its own
	state  string // of narfs, or the root of a store of Nix
	script string // what clients start on the other side
	owner  *exec.Cmd
}

// farSystems are the other sides: narfs with its daemon, nix-store of the machine, and, if scripts/peers has made it, a newer one.
func farSystems() []string { return []string{narfs, nix, nixNew} }

// peerSuite is the Debian that has nixNew.
const peerSuite = "sid"

// newFar makes an empty store.
func (b *bench) newFar(ctx context.Context, system string) (*far, error) {
	dir, err := os.MkdirTemp(b.dir, "far.")
	if err != nil {
		return nil, err
	}
	f := &far{b: b, system: system, dir: dir, state: filepath.Join(dir, "store"), script: filepath.Join(dir, "nix-store")}
	if err := os.Mkdir(f.state, 0o755); err != nil {
		return nil, err
	}
	settings := "build-users-group =\nsubstituters =\nrequire-sigs = false\n"
	if err := os.WriteFile(filepath.Join(dir, "nix.conf"), []byte(settings), 0o644); err != nil {
		return nil, err
	}
	// The process that serves writes down its number first, so that its memory can be watched.
	text := fmt.Sprintf("#!/bin/sh\necho $$ >>%[1]s/pids\nexport NARFS_STATE_DIR=%[2]s NIX_REMOTE=%[2]s NIX_CONF_DIR=%[1]s NIX_USER_CONF_FILES= HOME=%[1]s\n", dir, f.state)
	switch system {
	case narfs:
		link := filepath.Join(dir, "bin", "nix-store")
		if err := errors.Join(os.Mkdir(filepath.Dir(link), 0o755), os.Symlink(b.narfs, link)); err != nil {
			return nil, err
		}
		text += fmt.Sprintf("exec %s \"$@\"\n", link)
	case nix:
		text += "exec nix-store \"$@\"\n"
	default:
		root, err := b.peerRoot()
		if err != nil {
			return nil, err
		}
		inside := filepath.Join(root, dir)
		text += fmt.Sprintf("mkdir -p %[2]s\nexec unshare --mount --propagation private sh -c 'mount --bind %[1]s %[2]s && mount -t proc none %[3]s/proc && exec chroot %[3]s nix-store \"$@\"' sh \"$@\"\n",
			dir, inside, root)
	}
	if err := os.WriteFile(f.script, []byte(text), 0o755); err != nil {
		return nil, err
	}
	return f, f.start(ctx)
}

func (b *bench) peerRoot() (string, error) {
	root := filepath.Join(filepath.Dir(b.cache), "peers", peerSuite)
	if _, err := os.Stat(filepath.Join(root, "usr/bin/nix-store")); err != nil {
		return "", fmt.Errorf("%s: %w; scripts/peers %s makes it", nixNew, err, peerSuite)
	}
	return root, nil
}

// start starts the daemon of narfs.
func (f *far) start(ctx context.Context) error {
	if f.system != narfs {
		return nil
	}
	f.owner = exec.CommandContext(context.WithoutCancel(ctx), f.b.narfs, "--state", f.state, "daemon", "--compress-after=0")
	own(f.owner)
	f.owner.Env = append(os.Environ(), "NIX_CONF_DIR="+f.dir, "NARFS_CONF=/nonexistent")
	if err := f.owner.Start(); err != nil {
		return err
	}
	f.b.later(func(context.Context) error { return f.stop() })
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for begun := time.Now(); time.Since(begun) < time.Minute; <-tick.C {
		if _, err := os.Stat(filepath.Join(f.state, "daemon.sock")); err == nil {
			return nil
		}
	}
	return errors.New("narfs daemon does not answer")
}

func (f *far) stop() error {
	if f.owner == nil {
		return nil
	}
	owner := f.owner
	f.owner = nil
	return errors.Join(owner.Process.Signal(syscall.SIGTERM), owner.Wait())
}

// footprint is the most memory that a server has had.
type footprint struct {
	resident int64 // all that is mapped and there, files of the system such as programs and libraries, too
	own      int64 // of this, what comes from no file
}

// watchFar watches the memory of the processes that serve: those that write their numbers down, of which only one lasts, and the
// daemon of narfs. What stands before the daemon is the same program, whose pages count once.
func (f *far) watchFar() (stop func() footprint) {
	end, result := make(chan struct{}), make(chan footprint)
	go func() {
		var serving, daemon footprint
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			text, _ := os.ReadFile(filepath.Join(f.dir, "pids"))
			for word := range strings.FieldsSeq(string(text)) {
				if pid, err := strconv.Atoi(word); err == nil {
					serving.see(pid)
				}
			}
			if f.owner != nil {
				daemon.see(f.owner.Process.Pid)
				serving.resident = serving.own
			}
			select {
			case <-tick.C:
			case <-end:
				result <- footprint{serving.resident + daemon.resident, serving.own + daemon.own}
				return
			}
		}
	}()
	return func() footprint { close(end); return <-result }
}

func (p *footprint) see(pid int) {
	p.resident = max(p.resident, status(pid, "VmHWM:"))
	p.own = max(p.own, status(pid, "RssAnon:"))
}

// status returns a field of a process's status in bytes, 0 if it has ended.
func status(pid int, field string) int64 {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	defer f.Close() //nolint:errcheck // only read
	for in := bufio.NewScanner(f); in.Scan(); {
		if rest, ok := strings.CutPrefix(in.Text(), field); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n << 10
		}
	}
	return 0
}

// near is a client of Nix with its own store.
type near struct{ dir, root string }

func (b *bench) newNear() (*near, error) {
	dir, err := os.MkdirTemp(b.dir, "near.")
	if err != nil {
		return nil, err
	}
	settings := "build-users-group =\nsubstituters =\nrequire-sigs = false\nexperimental-features = nix-command\n" + forBuilds
	return &near{dir, filepath.Join(dir, "root")}, os.WriteFile(filepath.Join(dir, "nix.conf"), []byte(settings), 0o644)
}

func (n *near) command(args ...string) command {
	return command{args: args, env: []string{
		"NIX_REMOTE=" + n.root, "NIX_CONF_DIR=" + n.dir, "NIX_USER_CONF_FILES=", "HOME=" + n.dir, "XDG_CACHE_HOME=" + n.dir + "/cache",
	}}
}

// copies are the closures that are copied.
func (b *bench) copies() (map[string]*closure.Closure, error) {
	n, dirs := 2000, []string{"/usr/share", "/usr/bin", "/usr/include", "/usr/lib/gcc"}
	if b.quick {
		n, dirs = 200, []string{"/usr/include"}
	}
	many, err := closure.Many(n, "bench many")
	if err != nil {
		return nil, err
	}
	var trees []string
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if e.IsDir() {
				trees = append(trees, filepath.Join(dir, e.Name()))
			}
		}
	}
	// The largest, up to a gigabyte.
	var chosen []string
	total := int64(0)
	for _, tree := range trees {
		size, err := treeSize(tree)
		if err != nil || size < 4<<20 {
			continue
		}
		chosen = append(chosen, tree)
		if total += size; total > 1<<30 {
			break
		}
	}
	big, err := closure.Trees("bench big", chosen)
	if err != nil {
		return nil, err
	}
	b.results.note("copy: many is %d paths of %d MB, big %d paths of %d MB", len(many.Objects), many.Size()/1e6, len(big.Objects), big.Size()/1e6)
	return map[string]*closure.Closure{"many": many, "big": big}, nil
}

func treeSize(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}

// measureCopy has an unchanged nix copy take closures to an empty store behind the serve protocol and back, and asks for the validity
// of many paths. Nothing is deleted between the rounds: ext4 creates files far more slowly for a while after.
func (b *bench) measureCopy(ctx context.Context) error {
	if err := need("nix"); err != nil {
		return err
	}
	closures, err := b.copies()
	if err != nil {
		return err
	}
	from, err := b.newNear()
	if err != nil {
		return err
	}
	for name, c := range closures {
		file := filepath.Join(b.dir, name+".export")
		if err := writeExport(file, c); err != nil {
			return err
		}
		in := from.command("nix-store", "--import")
		in.stdin = file
		b.say("importing %s", name)
		if _, err := in.run(ctx, b.limit); err != nil {
			return err
		}
	}
	for range b.rounds {
		for _, system := range farSystems() {
			if !b.plan.against("copy", system) && system != narfs {
				continue
			}
			for _, name := range []string{"many", "big"} {
				if !b.plan.series("copy-"+name+"-to") && !b.plan.series("copy-"+name+"-from") && (name == "big" || !b.plan.series("copy-query")) {
					continue
				}
				if err := b.copyOnce(ctx, system, name, closures[name], from); err != nil {
					b.failed(ctx, "copy-"+name+" of "+system, err)
				}
			}
		}
	}
	return nil
}

func writeExport(file string, c *closure.Closure) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(c.Export(f), f.Close())
}

// copyOnce copies a closure to a new store of a system, and back from there.
func (b *bench) copyOnce(ctx context.Context, system, name string, c *closure.Closure, from *near) error {
	f, err := b.newFar(ctx, system)
	if err != nil {
		return err
	}
	url := "ssh://localhost?remote-program=" + f.script
	take := func(series string, cmd command) error {
		if err := flush(b.dir); err != nil {
			return err
		}
		stop := f.watchFar()
		s, err := cmd.run(ctx, b.limit)
		peak := stop()
		b.record(ctx, series, system, s, err)
		if err == nil {
			b.results.add(series+"-rss", system, sample{Bytes: peak.resident})
			b.results.add(series+"-own", system, sample{Bytes: peak.own})
		}
		return err
	}
	if err := take("copy-"+name+"-to", from.command("nix", "copy", "--no-check-sigs", "--to", url, c.Top())); err != nil {
		return err
	}
	to, err := b.newNear()
	if err != nil {
		return err
	}
	if err := take("copy-"+name+"-from", to.command("nix", "copy", "--no-check-sigs", "--from", url, c.Top())); err != nil {
		return err
	}
	if name == "many" {
		if err := b.askOnce(ctx, f, c); err != nil {
			return err
		}
	}
	return f.stop()
}

// asked is how many paths are asked about in one round trip.
const asked = 20_000

// askOnce asks which of many paths are valid, and takes what that costs the server.
func (b *bench) askOnce(ctx context.Context, f *far, c *closure.Closure) error {
	paths := c.Paths()
	for i := len(paths); i < asked; i++ {
		paths = append(paths, fmt.Sprintf("/nix/store/%s-absent-%d", closure.Base32(fmt.Appendf(nil, "%020d", i)), i))
	}
	session, err := serve.Run(exec.CommandContext(ctx, f.script, "--serve", "--write"))
	if err != nil {
		return err
	}
	pid := session.Pid()
	if f.owner != nil {
		pid = f.owner.Process.Pid
	}
	before := schedCPU(pid)
	begun := time.Now()
	valid, err := session.ValidPaths(false, paths)
	s := sample{Wall: schedCPU(pid) - before, Server: time.Since(begun).Seconds()}
	err = errors.Join(err, session.Close())
	if err == nil && len(valid) != len(c.Objects) {
		err = fmt.Errorf("%d of %d paths are valid; want %d", len(valid), len(paths), len(c.Objects))
	}
	b.record(ctx, "copy-query", f.system, s, err)
	return nil
}

// schedCPU returns the CPU time of a process in seconds, by the scheduler's account.
func schedCPU(pid int) (seconds float64) {
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, task := range tasks {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, task.Name()))
		if err != nil {
			continue
		}
		var ns float64
		if _, err := fmt.Sscan(string(text), &ns); err == nil {
			seconds += ns / 1e9
		}
	}
	return seconds
}
