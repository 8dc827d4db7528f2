package lock_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/daemon/lock"
	"github.com/narfs/narfs/internal/nix"
)

func path(tb testing.TB, c string) nix.StorePath {
	tb.Helper()
	p, err := nix.ParseBaseName(strings.Repeat(c, 32) + "-x")
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func mustLock(tb testing.TB, table *lock.Table, p nix.StorePath, holder string) *lock.Held {
	tb.Helper()
	h, err := table.Lock(tb.Context(), p, holder)
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

func TestTable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var table lock.Table
		a, b := path(t, "a"), path(t, "b")
		start := time.Now()
		held := mustLock(t, &table, a, "first")
		other := mustLock(t, &table, b, "other")
		var order []string
		for _, name := range []string{"second", "third"} {
			go func() {
				h := mustLock(t, &table, a, name)
				order = append(order, name)
				time.Sleep(time.Minute)
				h.Unlock()
			}()
			synctest.Wait()
			time.Sleep(time.Second)
		}
		// One who gives up leaves the others their places.
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		go func() {
			if _, err := table.Lock(ctx, a, "fourth"); !errors.Is(err, gone) {
				t.Errorf("Lock of one who gives up = %v; want %v", err, gone)
			}
		}()
		synctest.Wait()
		want := []lock.Info{
			{Path: a, Holder: "first", Since: start, Waiters: []string{"second", "third", "fourth"}},
			{Path: b, Holder: "other", Since: start},
		}
		same := cmp.Comparer(func(p, q nix.StorePath) bool { return p == q })
		if diff := cmp.Diff(want, table.List(), same); diff != "" {
			t.Errorf("List, -want +got:\n%s", diff)
		}
		cancel(gone)
		synctest.Wait()
		time.Sleep(time.Hour)
		held.Unlock()
		held.Unlock() // the second one does nothing
		synctest.Wait()
		if got := table.List()[0]; got.Holder != "second" || got.Since.Sub(start) != time.Hour+2*time.Second || len(got.Waiters) != 1 {
			t.Errorf("after Unlock List has %+v; want second, from now on, and one waiter", got)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		other.Unlock()
		if got := table.List(); len(got) > 0 {
			t.Errorf("in the end List = %v; want none", got)
		}
		if diff := cmp.Diff([]string{"second", "third"}, order); diff != "" {
			t.Errorf("order, -want +got:\n%s", diff)
		}
	})
}

func TestTryLockAll(t *testing.T) {
	t.Parallel()
	var table lock.Table
	a, b, c := path(t, "a"), path(t, "b"), path(t, "c")
	held := mustLock(t, &table, b, "somebody")
	_, err := table.TryLockAll([]nix.StorePath{c, b, a, b}, "me")
	var he *lock.HeldError
	if !errors.As(err, &he) || he.Path != b || he.Holder != "somebody" {
		t.Errorf("TryLockAll = %v; want that somebody has b", err)
	}
	held.Unlock()
	all, err := table.TryLockAll([]nix.StorePath{c, b, a, b}, "me")
	if err != nil {
		t.Fatal(err)
	}
	if got := len(table.List()); got != 3 {
		t.Errorf("%d locks are held; want 3", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := table.LockAll(ctx, []nix.StorePath{a}, "late"); !errors.Is(err, context.Canceled) {
		t.Errorf("LockAll = %v; want Canceled", err)
	}
	all.Unlock()
	if got := len(table.List()); got != 0 {
		t.Errorf("%d locks are held; want 0", got)
	}
}

// Many take and give, some give up: never two have one lock, and nothing is left.
func TestTableConcurrent(t *testing.T) {
	t.Parallel()
	var table lock.Table
	paths := []nix.StorePath{path(t, "a"), path(t, "b"), path(t, "c")}
	counts := make([]int, len(paths)) // guarded by the locks
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for i := range 200 {
				n := (g + i) % len(paths)
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%7)*50*time.Microsecond)
				h, err := table.LockAll(ctx, paths[:n+1], "x")
				if err == nil {
					for j := range n + 1 {
						counts[j]++
					}
					h.Unlock()
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if got := table.List(); len(got) > 0 {
		t.Errorf("List = %v; want none", got)
	}
}
