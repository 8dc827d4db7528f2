package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Users says as whom builders run: each as another user, so that none can get at another, nor at what is the daemon's. The zero value
// means the daemon's own user.
type Users struct {
	IDs []uint32 // those to choose from, all of the group GID
	GID uint32

	First, Count uint32 // if there are no IDs: the users First, First+1, …, that have no names, each of the group of its own number
}

// all yields the ids to choose from.
func (u Users) all(yield func(uid, gid int) bool) {
	for _, id := range u.IDs {
		if !yield(int(id), int(u.GID)) {
			return
		}
	}
	if len(u.IDs) > 0 {
		return
	}
	for id := uint64(u.First); id < uint64(u.First)+uint64(u.Count); id++ {
		if !yield(int(id), int(id)) {
			return
		}
	}
}

// user is who a builder runs as.
type user struct {
	uid, gid int
	lock     *os.File // nil for the daemon's own user
}

// userWait is how often somebody looks whether a user has become free: processes of other stores may have them.
const userWait = 100 * time.Millisecond

// takeUser waits until a user is free, and takes it, until it is given back.
func (b *Builder) takeUser(ctx context.Context, from Users) (user, error) {
	if len(from.IDs) == 0 && from.Count == 0 {
		return user{uid: os.Getuid(), gid: os.Getgid()}, nil
	}
	dir := filepath.Join(b.opts.RunDir, "builders")
	err := os.MkdirAll(filepath.Join(b.opts.RunDir, "build"), 0o755) //nolint:gosec // an empty folder, to show others at
	if err == nil {
		err = os.Mkdir(dir, 0o700)
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return user{}, fmt.Errorf("users of builders: %w", err)
	}
	tick := time.NewTicker(userWait)
	defer tick.Stop()
	for {
		for uid, gid := range from.all {
			lock, err := lockUser(filepath.Join(dir, strconv.Itoa(uid)))
			if err != nil {
				return user{}, fmt.Errorf("users of builders: %w", err)
			}
			if lock != nil {
				return user{uid, gid, lock}, nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return user{}, context.Cause(ctx)
		}
	}
}

// lockUser locks a file, or returns nil if somebody has it.
func lockUser(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil //nolint:nilnil // says what it means, see above
	}
	return nil, fmt.Errorf("lock %s: %w", name, err)
}

// give gives the user back. None of its processes may live.
func (u user) give() {
	if u.lock != nil {
		_ = u.lock.Close()
	}
}

// own gives a file to the user.
func (u user) own(name string) error {
	if u.lock == nil {
		return nil
	}
	return os.Lchown(name, u.uid, u.gid)
}
