package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/narfs/narfs/casefold"
	"github.com/narfs/narfs/daemon/build/sandbox"
	"github.com/narfs/narfs/daemon/lock"
	"github.com/narfs/narfs/daemon/owner"
	"github.com/narfs/narfs/fs"
)

func newDoctor(p *process) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find out what is missing or left over",
		Long: "Look whether this machine can mount, whether mounts are dead, and what is up with the state directory; and tell what " +
			"helps. The exit code is 1 if something does not work.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := &diagnosis{p: p}
			d.host()
			d.builders(cmd.Context())
			d.mounts(cmd.Context())
			d.state(cmd.Context())
			if asJSON {
				if err := p.printJSON(d.findings); err != nil {
					return err
				}
			} else if err := d.print(); err != nil {
				return err
			}
			if d.failed() {
				return &exitError{exitFailed}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON list of findings")
	return cmd
}

// finding is the result of one check.
type finding struct {
	Check  string  `json:"check"`
	Status verdict `json:"status"`
	Detail string  `json:"detail"`
	Hint   string  `json:"hint,omitempty"`
}

type verdict string

const (
	fine    verdict = "ok"
	notice  verdict = "note" // may matter
	failure verdict = "fail"
)

type diagnosis struct {
	p        *process
	findings []finding
}

func (d *diagnosis) add(check string, status verdict, detail, hint string) {
	d.findings = append(d.findings, finding{check, status, detail, hint})
}

func (d *diagnosis) failed() bool {
	for _, f := range d.findings {
		if f.Status == failure {
			return true
		}
	}
	return false
}

func (d *diagnosis) print() error {
	codes := map[verdict]string{fine: "32", notice: "33", failure: "31"}
	colour := d.p.colours(d.p.stdout)
	return buffered(d.p.stdout, func(w *bufio.Writer) error {
		for _, f := range d.findings {
			status := fmt.Sprintf("%-4s", f.Status)
			if colour {
				status = "\x1b[" + codes[f.Status] + "m" + status + "\x1b[0m"
			}
			_, _ = fmt.Fprintf(w, "%s  %-18s %s\n", status, f.Check, f.Detail) // the writer keeps its first error
			if f.Hint != "" {
				_, _ = fmt.Fprintf(w, "      %-18s -> %s\n", "", f.Hint)
			}
		}
		return nil
	})
}

// host checks what mounting needs.
func (d *diagnosis) host() {
	h := fs.Probe()
	root := os.Geteuid() == 0
	device, install := "/dev/fuse", "install the package fuse3 and load the module: modprobe fuse; in a container, ask for the device: --device /dev/fuse --cap-add SYS_ADMIN"
	helper, whatFor := "fusermount3", "users who are not root need it to mount: install the package fuse3"
	if runtime.GOOS == "darwin" {
		device, install = "macFUSE", "install macFUSE and allow its system extension in the system settings"
		helper, whatFor = "mount_macfuse", "install macFUSE"
	}
	if h.Device == "" {
		d.add(device, fine, "can be used", "")
	} else {
		d.add(device, failure, h.Device, install)
	}
	switch {
	case h.Helper != "" && !root && runtime.GOOS == "linux" && !exists("/etc/mtab"):
		d.add(helper, failure, h.Helper+" cannot unmount without /etc/mtab", "ln -s /proc/self/mounts /etc/mtab")
	case h.Helper != "":
		d.add(helper, fine, h.Helper, "")
	case root && runtime.GOOS != "darwin":
		d.add(helper, notice, "is not there", whatFor)
	default:
		d.add(helper, failure, "is not there", whatFor)
	}
	switch {
	case h.UserAllowOther:
		d.add("user_allow_other", fine, "every user may mount for others", "")
	case root:
		d.add("user_allow_other", fine, "is not set; root needs it not", "")
	default:
		d.add("user_allow_other", notice, "is not set: --allow-other will not work", "add the line user_allow_other to /etc/fuse.conf")
	}
}

// builders checks what building needs beside a mount.
func (d *diagnosis) builders(ctx context.Context) {
	const check = "sandbox"
	if err := sandbox.Available(ctx); err != nil {
		d.add(check, notice, "nothing can be built here: "+err.Error(), "all else works; builders need a mount, and user namespaces of their own")
		return
	}
	d.add(check, fine, "builders can have namespaces of their own", "")
}

// mounts checks that what narfs has mounted is alive.
func (d *diagnosis) mounts(ctx context.Context) {
	mounts, err := fs.Mounts()
	if err != nil {
		d.add("mounts", failure, err.Error(), "")
		return
	}
	if len(mounts) == 0 {
		d.add("mounts", fine, "narfs has mounted nothing", "")
	}
	for _, m := range mounts {
		bad := failure
		if dir, err := d.p.stateDir(); err == nil && filepath.IsAbs(m.Source) && !sameDir(dir, m.Source) {
			bad = notice // of another store
		}
		state, err := fs.ProbeDir(ctx, m.Dir)
		switch {
		case err != nil:
			d.add("mount", bad, m.Dir+": "+err.Error(), "narfs umount --force "+m.Dir)
		case state == fs.DirDead || state == fs.DirHung:
			d.add("mount", bad, m.Dir+", of "+m.Source+": "+state.String(), "narfs umount --force "+m.Dir)
		default:
			d.add("mount", fine, m.Dir+" shows "+m.Source, "")
		}
	}
}

// state checks the state directory.
func (d *diagnosis) state(ctx context.Context) {
	dir, err := d.p.stateDir()
	if err != nil {
		d.add("state directory", failure, err.Error(), hintFor(err))
		return
	}
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, iofs.ErrNotExist):
		d.add("state directory", notice, dir+" does not exist yet", "narfs add PATH makes a store; --state DIR or $"+envState+" names another place")
		return
	case err != nil:
		d.add("state directory", failure, err.Error(), "")
		return
	case !info.IsDir():
		d.add("state directory", failure, dir+" is no folder", "--state DIR or $"+envState+" names another place")
		return
	}
	d.add("state directory", fine, dir, "")
	d.space(dir)
	d.folding(dir)
	d.owner(ctx, dir)
}

// Free space below which the store will soon have none, and below which it refuses to write.
const (
	littleSpace = 2 << 30
	noSpace     = 96 << 20
)

func (d *diagnosis) space(dir string) {
	free, size, err := diskSpace(dir)
	if err != nil {
		d.add("free space", failure, err.Error(), "")
		return
	}
	text := fmt.Sprintf("%s of %s", sizeText(free), sizeText(size))
	switch hint := "narfs delete and narfs compact give space back"; {
	case free < noSpace:
		d.add("free space", failure, text, hint)
	case free < littleSpace:
		d.add("free space", notice, text, hint)
	default:
		d.add("free space", fine, text, "")
	}
}

func (d *diagnosis) folding(dir string) {
	folds, err := casefold.IsCaseInsensitive(dir)
	switch {
	case err != nil:
		d.add("case", notice, "cannot be found out: "+err.Error(), "")
	case folds:
		d.add("case", notice, "this file system folds case", "trees that are copied to it need the hacked view: narfs mount --case-hack=on, narfs restore")
	default:
		d.add("case", fine, "this file system tells upper from lower case", "")
	}
}

// owner checks who has the store, and that it can be opened.
func (d *diagnosis) owner(ctx context.Context, dir string) {
	if !storeExists(dir) {
		d.add("store", notice, "there is none yet", "narfs add PATH makes one")
		return
	}
	opts, err := d.p.storeOptions(dir, use{})
	if err != nil {
		d.add("store", failure, err.Error(), "")
		return
	}
	s, err := d.p.open(dir, opts) //nolint:contextcheck // it cannot be interrupted
	var owned *lock.OwnedError
	switch {
	case errors.As(err, &owned):
		d.foreign(ctx, dir, owned)
		return
	case errors.Is(err, iofs.ErrPermission):
		d.others(ctx, dir, err)
		return
	case err != nil:
		d.add("store", failure, err.Error(), hintFor(err))
		return
	}
	paths, bytes, err := s.Totals()
	if err = errors.Join(err, s.Close()); err != nil {
		d.add("store", failure, err.Error(), hintFor(err))
		return
	}
	d.add("store", fine, fmt.Sprintf("%s, %s; no process has it open", countText(paths, "path"), sizeText(bytes)), "")
}

// others checks the store of another user, who may let others in.
func (d *diagnosis) others(ctx context.Context, dir string, why error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	who, err := (&remotePeer{p: d.p, dir: dir}).askIdentity(ctx)
	if err != nil {
		d.add("store", failure, why.Error(), "it belongs to another user, and no daemon lets you in; --state DIR or $"+envState+" names another one")
		return
	}
	trust := "does not trust you"
	if who.Trusted {
		trust = "trusts you"
	}
	d.add("store", fine, fmt.Sprintf("it belongs to another user, whose daemon (process %d) lets you in and %s", who.Owner, trust), "")
}

// answerTime is how long an owner may take to answer a doctor.
const answerTime = 3 * time.Second

// foreign checks another process that has the store open.
func (d *diagnosis) foreign(ctx context.Context, dir string, owned *lock.OwnedError) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	who := fmt.Sprintf("process %d (%s) has it open", owned.PID, owned.What)
	remote := &remotePeer{p: d.p, dir: dir}
	answered := make(chan error, 1)
	go func() {
		code, err := remote.run(ctx, nil, io.Discard, "version")
		if err == nil && code != exitDone {
			err = fmt.Errorf("exit code %d", code)
		}
		answered <- err
	}()
	var err error
	select {
	case err = <-answered:
	case <-ctx.Done():
		err = fmt.Errorf("no answer in %v", answerTime)
	}
	var foreign *owner.ForeignError
	switch {
	case err == nil:
		d.add("store", fine, who+" and does what others want of it", "")
	case errors.As(err, &foreign) || errors.Is(err, iofs.ErrPermission):
		d.add("store", notice, who+" for another user", "run narfs as that user")
	case errors.Is(err, owner.ErrAbsent):
		d.add("store", notice, who+" alone", "wait until it has ended")
	default:
		d.add("store", failure, who+" and does not answer: "+err.Error(), fmt.Sprintf("kill %d, if it does nothing any more", owned.PID))
	}
}
