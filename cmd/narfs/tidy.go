package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/narfs/narfs/daemon/store"
)

const (
	// tidyLook is how often it is looked whether there is something to do.
	tidyLook = time.Second
	// busyRequests is how many requests of the kernel in that time are work of somebody, not the habit of a desktop.
	busyRequests = 50
)

var errBusyAgain = errors.New("there is something else to do")

// tidyWhenIdle compresses well what was stored lightly, and gives the space of deleted paths back, whenever the store has
// changed and then nobody has used it for a while. It pauses as soon as somebody does. The function returned ends it. Of
// several mounts only one does it.
func (k *keeper) tidyWhenIdle(ctx context.Context, after time.Duration, log *slog.Logger) (stop func()) {
	if !k.tidying.CompareAndSwap(false, true) {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer k.tidying.Store(false)
		k.tidy(ctx, after, log)
	}()
	return func() {
		cancel()
		<-done
	}
}

func (k *keeper) tidy(ctx context.Context, after time.Duration, log *slog.Logger) {
	w := k.store.Watch()
	defer w.Close()
	changed := true // perhaps by those who had it open before
	tick := time.NewTicker(tidyLook)
	defer tick.Stop()
	last, idleSince := k.activity(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		changed = drainEvents(ctx, w) || changed
		now := k.activity()
		if now.busy(last) {
			idleSince = time.Now()
		}
		last = now
		if !changed || time.Since(idleSince) < after {
			continue
		}
		changed = false
		switch err := k.sweep(ctx); {
		case err == nil:
		case errors.Is(err, errBusyAgain):
			changed = true
		case ctx.Err() == nil:
			log.ErrorContext(ctx, "tidying up ended early", "err", err)
		}
		last, idleSince = k.activity(), time.Now()
	}
}

// drainEvents takes what a watcher has and reports whether that was anything.
func drainEvents(ctx context.Context, w *store.Watcher) bool {
	ctx, cancel := context.WithCancel(ctx)
	cancel() // do not wait
	events, _ := w.Next(ctx)
	return len(events) > 0
}

// sweep compresses and sweeps until somebody uses the store.
func (k *keeper) sweep(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan error, 1)
	go func() {
		k.views.letGo(ctx)
		_, err := k.store.Sweep(ctx, store.SweepOptions{Compress: true})
		done <- err
	}()
	tick := time.NewTicker(tidyLook)
	defer tick.Stop()
	last := k.activity()
	for {
		select {
		case err := <-done:
			if cause := context.Cause(ctx); cause != nil && err != nil {
				err = cause
			}
			return err
		case <-tick.C:
			now := k.activity()
			if now.busy(last) {
				cancel(errBusyAgain)
			}
			last = now
		}
	}
}

// activity is what others have asked for so far.
type activity struct {
	commands int   // being done, but for mounts
	requests int64 // of all kernels
}

func (a activity) busy(before activity) bool {
	return a.commands > 0 || a.requests-before.requests > busyRequests
}

func (k *keeper) activity() activity {
	var a activity
	if k.daemon != nil {
		for _, c := range k.daemon.Running() {
			if !c.Lasts {
				a.commands++
			}
		}
		for _, s := range k.daemon.Sessions().List() {
			if s.Idle { // a client may stay for days
				a.commands--
			}
		}
	}
	for _, m := range k.views.list() {
		for _, n := range m.Stats().Requests {
			a.requests += n
		}
	}
	return a
}
