package session_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/narfs/narfs/daemon/session"
	"github.com/narfs/narfs/daemon/workerproto"
)

// greeting is what a client of a version sends before its first operation.
func greeting(minor uint8) []byte {
	numbers := []int{workerproto.ClientMagic, 1<<8 | int(minor)}
	if minor >= 38 {
		numbers = append(numbers, 0) // features
	}
	if minor >= 14 {
		numbers = append(numbers, 0)
	}
	if minor >= 11 {
		numbers = append(numbers, 0)
	}
	return message(anys(numbers)...)
}

func anys(numbers []int) (all []any) {
	for _, n := range numbers {
		all = append(all, n)
	}
	return all
}

// recordings are what clients of a version send for each operation, used as it should be.
func recordings(t *testing.T, u *use, m *session.Manager, minor uint8) map[workerproto.Operation][]byte {
	t.Helper()
	u.who = trusted
	all := map[workerproto.Operation][]byte{}
	does := uses()
	for _, op := range session.WorkerOps() {
		if minor < op.Since {
			continue
		}
		u.workerClient = connectWorker(t, m, trusted, minor)
		u.in.recorded()
		_ = does[op.Operation](t, u) // the store has been used already
		all[op.Operation] = u.in.recorded()
		_ = u.end(t)
	}
	return all
}

// replay gives bytes to a session of who is not trusted, which must end, and give back what it took. It returns with what error it ended,
// unless that is what comes of a client that is gone.
func replay(tb testing.TB, m *session.Manager, in []byte) (err error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), patience)
	defer cancel()
	ctx, s, err := m.Begin(ctx, session.KindWorker, untrusted, "", "")
	if err != nil {
		tb.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer s.End()
		if err = m.Work(ctx, s, bytes.NewReader(in), io.Discard); s.HungUp(err) {
			err = nil
		}
	}()
	select {
	case <-done:
	case <-time.After(patience):
		tb.Fatalf("the session does not end after %q", in)
	}
	if n := m.Budget().Taken(); n != 0 {
		tb.Fatalf("%d bytes of the budget are still taken after %q", n, in)
	}
	return err
}

// Requests that are cut off anywhere, that have absurd lengths anywhere, and such with any bytes changed: the session ends, gives back
// what it had, and the next one is fine.
func TestWorkerHostile(t *testing.T) {
	t.Parallel()
	for minor, stride := range map[uint8]int{38: 1, 22: 3, 17: 3, 10: 3} {
		t.Run(fmt.Sprint("1.", minor), func(t *testing.T) {
			t.Parallel()
			u, m := inUse(t)
			hello := greeting(minor)
			random := rand.New(rand.NewPCG(1, uint64(minor))) //nolint:gosec // to be the same each time
			count := 0
			replay := func(t *testing.T, m *session.Manager, in []byte) error {
				t.Helper()
				count++
				return replay(t, m, in)
			}
			for op, request := range recordings(t, u, m, minor) {
				if len(request) < 8 {
					t.Errorf("%v: %d bytes are recorded", op, len(request))
				}
				for cut := range len(hello) {
					if op == workerproto.IsValidPath {
						if err := replay(t, m, hello[:cut]); err != nil {
							t.Errorf("a greeting of %d bytes: %v", cut, err)
						}
					}
				}
				for cut := 0; cut < len(request); cut += 1 + random.IntN(stride) {
					if err := replay(t, m, append(bytes.Clone(hello), request[:cut]...)); err != nil {
						t.Errorf("%v, of which %d bytes of %d come: %v; want an error that tells of a hang-up", op, cut, len(request), err)
					}
				}
				for at := 8; at+8 <= len(request); at += 8 * (1 + random.IntN(stride)) {
					for _, n := range []uint64{1 << 40, 1 << 63, ^uint64(0)} {
						in := append(bytes.Clone(hello), request...)
						binary.LittleEndian.PutUint64(in[len(hello)+at:], n)
						_ = replay(t, m, in)
					}
				}
				for range 20 {
					in := append(bytes.Clone(hello), request...)
					for range 1 + random.IntN(4) {
						in[len(hello)+random.IntN(len(request))] = byte(random.Uint32())
					}
					_ = replay(t, m, in)
				}
			}
			if t.Logf("%d requests", count); count < 1000 {
				t.Errorf("only %d requests", count)
			}
			c := connectWorker(t, m, trusted, minor)
			c.usable(t)
			if err := c.end(t); err != nil {
				t.Error(err)
			}
			nothingHeld(t, u.s, m)
		})
	}
}

func FuzzWork(f *testing.F) {
	s := open(f)
	m := manager(f, s, session.Options{LogDir: f.TempDir(), Memory: 64 << 20})
	known := someObject(f, "known")
	imported(f, s, known)
	path := s.Dir().Path(known.Path)
	for _, request := range [][]any{
		{int(workerproto.IsValidPath), path},
		{int(workerproto.QueryPathInfo), path},
		{int(workerproto.QueryMissing), []string{path}},
		{int(workerproto.SetOptions), 0, 0, 0, 3, 1, 0, 1, 0, 0, 0, 1, 1, 1, "require-sigs", "false"},
		{int(workerproto.AddToStore), "name", "fixed:r:sha256", 0, 0, len(known.archive), known.archive, 0},
		{int(workerproto.AddMultipleToStore), 0, 1, 8, 0, 0},
		{int(workerproto.BuildPathsWithResults), []string{path}, 0},
		{int(workerproto.CollectGarbage), 1, 0, 0, 0, 0, 0, 0},
		{int(workerproto.RegisterDrvOutput), `{"id":"sha256:00!out","outPath":"x"}`},
	} {
		f.Add(uint8(38), message(request...))
		f.Add(uint8(18), message(request...))
	}
	f.Fuzz(func(t *testing.T, minor uint8, in []byte) {
		_ = replay(t, m, append(greeting(10+minor%29), in...))
	})
}
