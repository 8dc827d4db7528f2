package fs

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// DirState says what is mounted on a directory.
type DirState int

const (
	// DirPlain is no mount point.
	DirPlain DirState = iota
	// DirMounted is a mount point of something else.
	DirMounted
	// DirNarfs is a live mount of narfs.
	DirNarfs
	// DirDead is a FUSE mount whose server is gone. [Unmount] with force clears it away.
	DirDead
	// DirHung is a FUSE mount whose server does not answer in time.
	DirHung
)

// String describes the state.
func (s DirState) String() string {
	switch s {
	case DirPlain:
		return "not mounted"
	case DirMounted:
		return "another file system is mounted there"
	case DirNarfs:
		return "narfs is mounted there"
	case DirDead:
		return "a FUSE mount without a server"
	case DirHung:
		return "a FUSE mount that does not answer"
	}
	return fmt.Sprintf("DirState(%d)", int(s))
}

// patience is how long a FUSE mount may take to answer statfs.
const patience = 3 * time.Second

// ProbeDir says what is mounted on dir. It returns within a few seconds, also when the mount hangs.
func ProbeDir(ctx context.Context, dir string) (DirState, error) {
	dir, err := realDir(dir)
	if err != nil {
		return DirPlain, fmt.Errorf("look at the mount point: %w", err)
	}
	at, err := mountedAt(dir)
	if err != nil {
		return DirPlain, err
	}
	if at.Device == "" {
		return DirPlain, nil
	}
	if !at.fuse() {
		return DirMounted, nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// A hung mount holds this goroutine until the mount is aborted. That is the price of asking.
	answer := make(chan error, 1)
	go func() { answer <- ask(dir) }()
	select {
	case err = <-answer:
	case <-ctx.Done():
		return DirHung, nil
	}
	switch {
	case isDead(err):
		return DirDead, nil
	case at.Narfs():
		return DirNarfs, nil
	}
	return DirMounted, nil
}

// isDead says whether an error of the kernel means that a FUSE server is gone.
func isDead(err error) bool {
	for _, dead := range deadErrors() {
		if errors.Is(err, dead) {
			return true
		}
	}
	return false
}

// deadDevice stands for the device of a dead mount where the kernel does not tell.
const deadDevice = "dead"

// Mounted is a line of the mount table.
type Mounted struct {
	Dir    string
	Device string // unique among what is mounted, unless it is deadDevice
	Type   string // of the file system
	Source string // what is mounted: Options.Name
}

// Unmount unmounts a FUSE mount that another process serves, or none any more. With force, it goes also if it is in
// use or dead.
func Unmount(ctx context.Context, dir string, force bool) error {
	if err := unmount(ctx, dir, force); err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

func unmount(ctx context.Context, dir string, force bool) error {
	dir, err := realDir(dir)
	if err != nil {
		return err
	}
	at, err := mountedAt(dir)
	switch {
	case err != nil:
		return err
	case at.Device == "":
		return ErrNotMounted
	case !at.fuse():
		return fmt.Errorf("not a FUSE mount but %s", at.Type)
	}
	return detach(ctx, dir, force)
}

// ErrNotMounted says that nothing is mounted in that place.
var ErrNotMounted = errors.New("not a mount point")

// Host is what this machine offers for mounting. An empty string means that it is there.
type Host struct {
	Device         string // what is wrong with /dev/fuse, or with macFUSE
	Helper         string // path of fusermount3 or mount_macfuse, "" if there is none
	UserAllowOther bool   // whether users who are not root may use Options.AllowOther
}
