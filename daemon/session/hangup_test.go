package session_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/narfs/narfs/daemon/session"
)

// watching runs WatchHangup on a descriptor.
func watching(t *testing.T, fd uintptr) (gone chan struct{}) {
	t.Helper()
	gone = make(chan struct{})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- session.WatchHangup(ctx, fd, func() { close(gone) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("WatchHangup = %v", err)
		}
	})
	return gone
}

func isClosed(c chan struct{}, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-c:
		return true
	case <-timer.C:
		return false
	}
}

const (
	soon  = 10 * time.Second       // until what must happen
	later = 100 * time.Millisecond // for what must not
)

func TestWatchHangupPipe(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close() //nolint:errcheck // only for this
	gone := watching(t, w.Fd())
	if isClosed(gone, later) {
		t.Fatal("a pipe with a reader counts as hung up")
	}
	if _, err := w.Write([]byte("x")); err != nil { // nobody reads: that is no hang-up
		t.Fatal(err)
	}
	if isClosed(gone, later) {
		t.Fatal("a pipe with something in it counts as hung up")
	}
	begun := time.Now()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if !isClosed(gone, soon) {
		t.Fatal("the hang-up was not noticed")
	}
	t.Logf("noticed after %v", time.Since(begun))
}

func TestWatchHangupSocket(t *testing.T) {
	t.Parallel()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s")})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close() //nolint:errcheck // only for this
	client, err := net.DialUnix("unix", nil, ln.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	server, err := ln.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close() //nolint:errcheck // only for this
	f, err := server.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only for this
	gone := watching(t, f.Fd())
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if isClosed(gone, later) {
		t.Fatal("a half-close counts as a hang-up")
	}
	if _, err := server.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if !isClosed(gone, soon) {
		t.Fatal("the hang-up was not noticed")
	}
}

func TestWatchHangupOthers(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only for this
	if isClosed(watching(t, f.Fd()), later) {
		t.Error("a file counts as hung up")
	}
	if err := session.WatchHangup(t.Context(), 1<<20, func() {}); !errors.Is(err, os.ErrInvalid) {
		t.Errorf("WatchHangup of no descriptor = %v; want os.ErrInvalid", err)
	}
}
