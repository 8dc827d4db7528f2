package fs

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// kernel is how a mount tells the kernel things. A *fuse.Server is one.
type kernel interface {
	EntryNotify(parent uint64, name string) fuse.Status
	InodeNotify(node uint64, off, length int64) fuse.Status
	InodeNotifyStoreCache(node uint64, off int64, data []byte) fuse.Status
	PruneNotify(nodes []uint64) fuse.Status
}

var _ kernel = (*fuse.Server)(nil)

// notifier tells the kernel of store paths that came or went, on its own goroutine.
//
// EntryNotify takes the root's lock in the kernel and thus waits for every request on the root that is under way;
// answers from before the change are in the kernel's caches by then, and the notify removes them. InodeNotify then
// drops the cached listing, for the same reason not earlier. So nothing that a request saw before the change
// outlives the pair, but a handler that waited for it would wait for itself.
type notifier struct {
	conn kernel
	log  *slog.Logger
	done chan struct{}
	wake chan struct{} // capacity 1

	mu     sync.Mutex
	names  []string // guarded by mu: still to be told
	added  int64    // guarded by mu: how many names ever
	told   int64    // guarded by mu: how many of them the kernel knows
	waits  []wait   // guarded by mu
	closed bool     // guarded by mu
}

// wait is somebody who waits until told has reached a number.
type wait struct {
	until int64
	done  chan struct{}
}

func newNotifier(conn kernel, log *slog.Logger) *notifier {
	n := &notifier{conn: conn, log: log, done: make(chan struct{}), wake: make(chan struct{}, 1)}
	go n.run()
	return n
}

// add queues a name. It never blocks.
func (n *notifier) add(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	n.names = append(n.names, name)
	n.added++
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *notifier) pending() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return int(n.added - n.told)
}

// Sync waits until the kernel knows of everything that was added before.
func (n *notifier) Sync(ctx context.Context) error {
	n.mu.Lock()
	if n.closed || n.told == n.added {
		n.mu.Unlock()
		return nil
	}
	w := wait{n.added, make(chan struct{})}
	n.waits = append(n.waits, w)
	n.mu.Unlock()
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait until the kernel knows of changed store paths: %w", context.Cause(ctx))
	}
}

// close ends the goroutine and waits for it. The connection must be dead already, so that no notify blocks.
func (n *notifier) close() {
	n.mu.Lock()
	if !n.closed {
		n.closed = true
		close(n.wake)
	}
	n.mu.Unlock()
	<-n.done
}

func (n *notifier) run() {
	defer close(n.done)
	for open := true; open; {
		_, open = <-n.wake
		n.mu.Lock()
		names := n.names
		n.names = nil
		n.mu.Unlock()
		if open && len(names) > 0 {
			n.tell(names)
		}
		n.mu.Lock()
		n.told += int64(len(names))
		n.waits = slices.DeleteFunc(n.waits, func(w wait) bool {
			if w.until <= n.told || n.closed {
				close(w.done)
				return true
			}
			return false
		})
		n.mu.Unlock()
	}
}

func (n *notifier) tell(names []string) {
	defer contain(n.log, "notify the kernel")
	for _, name := range names {
		// An error is no trouble: the kernel did not know the name, cannot be told, or is gone.
		n.conn.EntryNotify(rootNode, name)
	}
	n.conn.InodeNotify(rootNode, 0, 0)
}
