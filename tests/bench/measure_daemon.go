package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/narfs/narfs/tests/env/closure"
	"github.com/narfs/narfs/tests/env/worker"
)

// daemonSize is how much is asked of daemons.
type daemonSize struct{ infos, adds, copies, derivations int }

func (b *bench) daemonSize() daemonSize {
	if b.quick {
		return daemonSize{1000, 500, 200, 50}
	}
	return daemonSize{10_000, 5000, 2000, 300}
}

// atOnce is how many clients a daemon has at once.
const atOnce = 64

// daemonOf is a daemon with an empty store.
type daemonOf struct {
	*near

	system, socket string
	cmd            *exec.Cmd
}

// startDaemon starts the daemon of a system. The program that answers is the one that is started: what starts it for the newer Nix
// executes it in the end. Narfs can mount its store.
func (b *bench) startDaemon(ctx context.Context, system string, mount bool) (*daemonOf, error) {
	n, err := b.newNear()
	if err != nil {
		return nil, err
	}
	d := &daemonOf{near: n, system: system, socket: filepath.Join(n.dir, "socket")}
	args := []string{b.narfs, "--state", n.root, "daemon", "--compress-after=0", "--listen", d.socket}
	if mount {
		if err := os.Mkdir(d.mountDir(), 0o755); err != nil {
			return nil, err
		}
		args = append(args, "--mount", d.mountDir())
	}
	switch system {
	case nix:
		args = []string{"nix-daemon"}
	case nixNew:
		root, err := b.peerRoot()
		if err != nil {
			return nil, err
		}
		inside := filepath.Join(root, n.dir)
		// In a chroot it could not sandbox builders.
		const enter = `mount --rbind "$3" "$3" && mkdir -p "$2" && mount --bind "$1" "$2" && mount -t proc none "$3/proc" &&
			mount --rbind /dev "$3/dev" && cd "$3" && pivot_root . . && umount -l . && cd / && exec nix-daemon`
		args = []string{"unshare", "--mount", "--propagation", "private", "sh", "-c", enter, "sh", n.dir, inside, root}
	}
	d.cmd = exec.CommandContext(context.WithoutCancel(ctx), args[0], args[1:]...)
	own(d.cmd)
	d.cmd.Env = append(os.Environ(), n.command().env...)
	d.cmd.Env = append(d.cmd.Env, "NARFS_CONF=/nonexistent", "NIX_DAEMON_SOCKET_PATH="+d.socket)
	var complaints tail
	d.cmd.Stderr = &complaints
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	b.later(func(context.Context) error { return d.stop() })
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for begun := time.Now(); time.Since(begun) < time.Minute; <-tick.C {
		if c, err := worker.Dial(ctx, d.socket); err == nil {
			return d, c.Close()
		}
	}
	return nil, fmt.Errorf("the daemon of %s does not answer%s", system, complaints.text())
}

func (d *daemonOf) stop() error {
	if d.cmd == nil {
		return nil
	}
	cmd := d.cmd
	d.cmd = nil
	err := cmd.Process.Signal(syscall.SIGTERM)
	if werr := cmd.Wait(); d.system == narfs { // the others die of the signal
		err = errors.Join(err, werr)
	}
	return err
}

// family are the process of the daemon and those that it has started, one a client for Nix.
func (d *daemonOf) family() []int {
	pid := d.cmd.Process.Pid
	pids := []int{pid}
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for word := range strings.FieldsSeq(string(text)) {
		var child int
		if _, err := fmt.Sscan(word, &child); err == nil {
			pids = append(pids, child)
		}
	}
	return pids
}

// cpu is the CPU time of the daemon and of those of its children that have ended, in seconds.
func (d *daemonOf) cpu() float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // see proc_pid_stat(5)
	const first, count, ticks = 11, 4, 100
	var sum float64
	for _, field := range fields[first : first+count] {
		var n float64
		_, _ = fmt.Sscan(field, &n)
		sum += n / ticks
	}
	return sum
}

// watch keeps looking at the memory of the family, each page counted once however many share it.
func (d *daemonOf) watch() (stop func() int64) {
	end, result := make(chan struct{}), make(chan int64)
	go func() {
		most := int64(0)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			sum := int64(0)
			for _, pid := range d.family() {
				sum += pss(pid)
			}
			most = max(most, sum)
			select {
			case <-tick.C:
			case <-end:
				result <- most
				return
			}
		}
	}()
	return func() int64 { close(end); return <-result }
}

// pss returns the share of a process in the memory that it has resident, in bytes.
func pss(pid int) int64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			var n int64
			_, _ = fmt.Sscan(rest, &n)
			return n << 10
		}
	}
	return 0
}

// measureDaemon asks the same of the daemons of all systems.
func (b *bench) measureDaemon(ctx context.Context) error {
	if err := need("nix"); err != nil {
		return err
	}
	size := b.daemonSize()
	many, err := closure.Many(size.copies, "bench many")
	if err != nil {
		return err
	}
	return b.eachDaemon(ctx, "daemon", func(system string) error { return b.daemonOnce(ctx, system, size, many) })
}

// eachDaemon gives the daemon of each system of a group its turns.
func (b *bench) eachDaemon(ctx context.Context, group string, once func(system string) error) error {
	for range b.rounds {
		for _, system := range farSystems() {
			if system != narfs && !b.plan.against(group, system) {
				continue
			}
			if err := once(system); err != nil {
				b.failed(ctx, group+" of "+system, err)
			}
		}
	}
	return nil
}

// takeOf measures work of a daemon, with its memory.
func (b *bench) takeOf(ctx context.Context, d *daemonOf, series string, work func() error) error {
	if err := flush(b.dir); err != nil {
		return err
	}
	stop, cpu, begun := d.watch(), d.cpu(), time.Now()
	err := work()
	s := sample{Wall: time.Since(begun).Seconds()}
	peak := stop()
	d.settle()
	s.Server = d.cpu() - cpu
	b.record(ctx, series, d.system, s, err)
	if err == nil {
		b.results.add(series+"-pss", d.system, sample{Bytes: peak})
	}
	return err
}

// daemonOnce asks all of one daemon.
func (b *bench) daemonOnce(ctx context.Context, system string, size daemonSize, many *closure.Closure) error {
	d, err := b.startDaemon(ctx, system, false)
	if err != nil {
		return err
	}
	take := func(series string, work func() error) error { return b.takeOf(ctx, d, "daemon-"+series, work) }
	if err := take("copy", d.with(ctx, func(c *worker.Client) error { return c.Copy(many) })); err != nil {
		return err
	}
	if err := take("info", d.with(ctx, func(c *worker.Client) error {
		for i := range size.infos {
			if err := c.PathInfo(many.Objects[i%len(many.Objects)].Path); err != nil {
				return err
			}
		}
		return nil
	})); err != nil {
		return err
	}
	if err := take("add", d.with(ctx, func(c *worker.Client) error { return addFiles(c, "one", size.adds) })); err != nil {
		return err
	}
	if err := take("add-64", func() error { return d.addAtOnce(ctx, size.adds) }); err != nil {
		return err
	}
	if err := take("drvs", d.with(ctx, func(c *worker.Client) error { return addDerivations(c, size.derivations) })); err != nil {
		return err
	}
	expression := filepath.Join(d.dir, "many.nix")
	text := fmt.Sprintf(`builtins.genList (i: derivation { name = "p-${toString i}"; system = "x"; builder = "/b"; n = i; }) %d`, size.derivations)
	if err := os.WriteFile(expression, []byte(text), 0o644); err != nil {
		return err
	}
	client := d.client("nix-instantiate", expression)
	if err := take("instantiate", func() error { _, err := client.run(ctx, b.limit); return err }); err != nil {
		return err
	}
	return d.stop()
}

// settle waits until a daemon has no children any more.
func (d *daemonOf) settle() {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for begun := time.Now(); len(d.family()) > 1 && time.Since(begun) < time.Minute; {
		<-tick.C
	}
}

// with makes work for a client that has just come.
func (d *daemonOf) with(ctx context.Context, work func(c *worker.Client) error) func() error {
	return func() error {
		c, err := worker.Dial(ctx, d.socket)
		for tick := time.NewTicker(time.Millisecond); errors.Is(err, syscall.EAGAIN); <-tick.C {
			c, err = worker.Dial(ctx, d.socket) // Nix 2.8 lets no more than five wait for it
		}
		if err != nil {
			return err
		}
		return errors.Join(work(c), c.Close())
	}
}

// addAtOnce has many clients add n files in all.
func (d *daemonOf) addAtOnce(ctx context.Context, n int) error {
	errs := make([]error, atOnce)
	var wg sync.WaitGroup
	for i := range atOnce {
		wg.Go(func() {
			errs[i] = d.with(ctx, func(c *worker.Client) error { return addFiles(c, fmt.Sprint("many-", i), n/atOnce) })()
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// addFiles adds small files.
func addFiles(c *worker.Client, salt string, n int) error {
	for i := range n {
		text := strings.Repeat(fmt.Sprintf("file %d of %s\n", i, salt), 40)
		var nar bytes.Buffer
		w := closure.NewWriter(&nar)
		w.Text("nix-archive-1", "(", "type", "regular", "contents", text, ")")
		if err := w.Flush(); err != nil {
			return err
		}
		if _, err := c.AddFile(fmt.Sprintf("%s-%d", salt, i), nar.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// addDerivations adds derivations one by one, as nix-instantiate does.
func addDerivations(c *worker.Client, n int) error {
	for _, drv := range closure.Derivations(n) {
		path, err := c.AddText(drv.Name, drv.Text, drv.References)
		if err == nil && path != drv.Path {
			err = fmt.Errorf("%s is added as %s", drv.Path, path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
