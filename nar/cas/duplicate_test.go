package cas_test

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/narfs/narfs/nar"
	"github.com/narfs/narfs/nar/cas"
	"github.com/narfs/narfs/nar/chunk"
)

// Two imports store the same chunks, since neither knows of the other's. One is given up, a
// sweep runs, and the other one is committed: nothing of it is missing.
func TestDuplicateChunks(t *testing.T) {
	t.Parallel()
	for _, order := range []string{"the first is committed", "the second is committed"} {
		for _, settle := range []bool{false, true} {
			o := small()
			o.Chunks, o.FrameSize, o.PackSize = chunk.Params{Min: 1 << 10, Avg: 4 << 10, Max: 16 << 10}, 64<<10, 1<<20
			s := open(t, t.TempDir(), o)
			// The first batch of an import is 1 MiB. What of it does not fill a frame is stored with the
			// second.
			rng := rand.New(rand.NewPCG(1, 2))
			data := make([]byte, 1<<20+200<<10)
			for i := range data {
				data[i] = byte(rng.Uint32())
			}
			a := fileNAR(t, data)
			gate := &gateReader{r: bytes.NewReader(a.nar), left: 1<<20 + 50<<10, reached: make(chan struct{}), open: make(chan struct{})}
			var st [2]*cas.Staged
			done := make(chan error)
			go func() {
				var err error
				st[1], err = s.Ingest(t.Context(), gate, cas.IngestOptions{})
				done <- err
			}()
			<-gate.reached
			var err error
			if st[0], err = s.Ingest(t.Context(), bytes.NewReader(a.nar), cas.IngestOptions{}); err != nil {
				t.Fatal(err)
			}
			if settle {
				if err := s.Commit(t.Context(), &cas.Batch{}); err != nil {
					t.Fatal(err)
				}
			}
			close(gate.open)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			keep, drop := st[0], st[1]
			if order == "the second is committed" {
				keep, drop = drop, keep
			}
			drop.Discard()
			for range 2 {
				if _, err := s.Sweep(t.Context(), cas.SweepOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			var b cas.Batch
			b.PutObject(keep)
			if err := s.Commit(t.Context(), &b); err != nil {
				t.Fatal(err)
			}
			check(t, s, a)
			if _, err := s.Sweep(t.Context(), cas.SweepOptions{}); err != nil {
				t.Fatal(err)
			}
			check(t, s, a)
			if found := verify(t, s); len(found) > 0 {
				t.Errorf("%s, settled %v: Verify found %v", order, settle, found)
			}
		}
	}
}

// fileNAR is the NAR of one file.
func fileNAR(tb testing.TB, data []byte) (a archive) {
	tb.Helper()
	var buf bytes.Buffer
	w := nar.NewWriter(&buf)
	if err := w.WriteHeader(nar.Header{Depth: 1, Type: nar.TypeRegular, Size: int64(len(data))}); err != nil {
		tb.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	a.nar, a.hash = buf.Bytes(), sha256.Sum256(buf.Bytes())
	return a
}

// gateReader waits before it reads beyond the first bytes.
type gateReader struct {
	r             io.Reader
	left          int
	reached, open chan struct{}
}

func (g *gateReader) Read(p []byte) (int, error) {
	if g.left == 0 {
		close(g.reached)
		<-g.open
		g.left = 1 << 40
	}
	n, err := g.r.Read(p[:min(len(p), g.left)])
	g.left -= n
	return n, err
}
