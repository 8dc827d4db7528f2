package store_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/daemon/store"
)

func TestWatch(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	archive := makeNAR(t, node{text: "x"})
	a, b := infoOf(somePath(t, 1, "a"), archive), infoOf(somePath(t, 2, "b"), archive)
	mustImport(t, s, a, archive) // before anybody watches
	first, second := s.Watch(), s.Watch()
	mustImport(t, s, b, archive)
	mustImport(t, s, b, archive) // changes nothing
	if err := s.Delete(t.Context(), a.Path); err != nil {
		t.Fatal(err)
	}
	mustImport(t, s, a, archive)
	want := []store.Event{{Path: b.Path, Slot: 2}, {Path: a.Path, Slot: 1, Removed: true}, {Path: a.Path, Slot: 3}}
	next := func(w *store.Watcher, want []store.Event) {
		t.Helper()
		got, err := w.Next(t.Context())
		if diff := cmp.Diff(want, got, exact); diff != "" || err != nil {
			t.Errorf("Next: %v, -want +got:\n%s", err, diff)
		}
	}
	next(first, want)
	// One that has no more events waits until it is told to stop.
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	if got, err := first.Next(ctx); got != nil || !errors.Is(err, stop) {
		t.Errorf("Next without events = %v, %v; want %v", got, err, stop)
	}
	told := make(chan []store.Event)
	go func() {
		events, _ := first.Next(t.Context())
		told <- events
	}()
	if err := s.Delete(t.Context(), b.Path); err != nil {
		t.Fatal(err)
	}
	gone := store.Event{Path: b.Path, Slot: 2, Removed: true}
	if diff := cmp.Diff([]store.Event{gone}, <-told, exact); diff != "" {
		t.Errorf("one who waits was told, -want +got:\n%s", diff)
	}
	// One that was closed gives what is left; one of a closed store likewise.
	first.Close()
	first.Close()
	mustImport(t, s, b, archive)
	next(first, nil)
	mustClose(t, s)
	next(second, append(want, gone, store.Event{Path: b.Path, Slot: 4}))
	next(second, nil)
	next(s.Watch(), nil)
}
