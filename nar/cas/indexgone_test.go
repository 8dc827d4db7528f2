package cas_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Badger tries for ever to write what it has in memory. Close gives up when the folder of the index is removed, also while Badger tries.
func TestCloseWhileIndexVanishes(t *testing.T) {
	dir := t.TempDir()
	o := small()
	tried := make(chan struct{})
	o.Logger = slog.New(slog.NewTextHandler(&noticed{text: []byte("retrying"), seen: tried}, nil))
	s := open(t, dir, o)
	put(t, s, makeNAR(t, 1, 20))
	index := filepath.Join(dir, "index")
	for i := range 30 { // no table can be written
		if err := os.Mkdir(filepath.Join(index, fmt.Sprintf("%06d.sst", i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	const patience = 20 * time.Second
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-tried:
	case err := <-closed:
		t.Fatalf("Close = %v before Badger tried again; the test shows nothing", err)
	case <-timer.C:
		t.Fatalf("Badger has not tried again in %v", patience)
	}
	if err := os.RemoveAll(index); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-closed:
		if err == nil {
			t.Error("Close = nil; want an error about the index")
		}
	case <-timer.C:
		t.Errorf("Close waits for an index that is gone, %v long", patience)
	}
}

// noticed is a writer that closes seen at the first write with text.
type noticed struct {
	text []byte
	seen chan struct{}
	once sync.Once
}

// Write implements io.Writer.
func (n *noticed) Write(p []byte) (int, error) {
	if bytes.Contains(p, n.text) {
		n.once.Do(func() { close(n.seen) })
	}
	return len(p), nil
}
