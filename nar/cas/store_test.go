package cas_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/narfs/narfs/nar"
	"github.com/narfs/narfs/nar/cas"
	"github.com/narfs/narfs/nar/chunk"
)

// small makes many chunks, frames and packs of little data.
func small() cas.Options {
	return cas.Options{
		Chunks: chunk.Params{Min: 64, Avg: 256, Max: 1024}, FrameSize: 4 << 10, PackSize: 64 << 10,
		Workers: 2, Reserve: -1, CacheBytes: 64 << 10,
	}
}

func open(tb testing.TB, dir string, o cas.Options) *cas.Store {
	tb.Helper()
	s, err := cas.Open(dir, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

// archive is a NAR with its content by path, made from a seed.
type archive struct {
	nar   []byte
	hash  [32]byte
	files map[string][]byte
}

// makeNAR makes a NAR of n files whose contents share pieces with those of near seeds.
func makeNAR(tb testing.TB, seed uint64, n int) archive {
	tb.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	a := archive{files: map[string][]byte{}}
	var buf bytes.Buffer
	w := nar.NewWriter(&buf)
	put := func(h nar.Header, data []byte) {
		tb.Helper()
		if err := w.WriteHeader(h); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			tb.Fatal(err)
		}
	}
	put(nar.Header{Depth: 1, Type: nar.TypeDirectory}, nil)
	for i := range n {
		dir := fmt.Sprintf("dir%05d", i)
		put(nar.Header{Depth: 2, Name: dir, Type: nar.TypeDirectory}, nil)
		var data []byte
		switch rng.IntN(4) {
		case 0:
			data = []byte(strings.Repeat(fmt.Sprintf("line %d of a text\n", i), rng.IntN(400)))
		case 1:
			data = make([]byte, rng.IntN(20_000))
			shared := rand.NewChaCha8([32]byte{byte(i)}) // the same for every seed
			_, _ = shared.Read(data)
		case 2:
			data = make([]byte, rng.IntN(200))
			for j := range data {
				data[j] = byte(rng.Uint32())
			}
		}
		put(nar.Header{Depth: 3, Name: "file", Type: nar.TypeRegular, Executable: i%2 == 0, Size: int64(len(data))}, data)
		a.files[dir+"/file"] = data
		put(nar.Header{Depth: 3, Name: "link", Type: nar.TypeSymlink, Target: "file"}, nil)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	a.nar, a.hash = buf.Bytes(), sha256.Sum256(buf.Bytes())
	return a
}

func put(tb testing.TB, s *cas.Store, a archive) {
	tb.Helper()
	st, err := s.Ingest(tb.Context(), bytes.NewReader(a.nar), cas.IngestOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	if got := st.Info(); got.NarHash != a.hash || got.NarSize != int64(len(a.nar)) {
		tb.Fatalf("Ingest: NAR %x of %d bytes; want %x of %d", got.NarHash, got.NarSize, a.hash, len(a.nar))
	}
	var b cas.Batch
	b.PutObject(st)
	b.Put([]byte("path/"+fmt.Sprintf("%x", a.hash[:4])), a.hash[:])
	if err := s.Commit(tb.Context(), &b); err != nil {
		tb.Fatal(err)
	}
}

func check(tb testing.TB, s *cas.Store, a archive) {
	tb.Helper()
	o, err := s.Object(a.hash)
	if err != nil {
		tb.Fatal(err)
	}
	var got bytes.Buffer
	if err := o.WriteNAR(tb.Context(), &got); err != nil {
		tb.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), a.nar) {
		tb.Fatalf("WriteNAR gave %d other bytes; want the %d imported", got.Len(), len(a.nar))
	}
}

func verify(tb testing.TB, s *cas.Store) (found []cas.Damage) {
	tb.Helper()
	err := s.Verify(tb.Context(), cas.VerifyOptions{}, func(d cas.Damage) { found = append(found, d) })
	if err != nil {
		tb.Fatal(err)
	}
	return found
}

func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, small())
	for seed, n := range []int{0, 1, 3, 50, 400} {
		a := makeNAR(t, uint64(seed), n)
		put(t, s, a)
		check(t, s, a)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, small())
	for seed, n := range []int{0, 1, 3, 50, 400} {
		check(t, s, makeNAR(t, uint64(seed), n))
	}
	if found := verify(t, s); len(found) > 0 {
		t.Errorf("Verify found %v", found)
	}
}

func TestReadAt(t *testing.T) {
	s := open(t, t.TempDir(), small())
	a := makeNAR(t, 7, 200)
	put(t, s, a)
	o, err := s.Object(a.hash)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := o.Tree()
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for path, want := range a.files {
		i, ok := tree.Resolve(path)
		if !ok {
			t.Fatalf("Resolve(%q) = false", path)
		}
		if len(want) == 0 {
			continue
		}
		off := rng.IntN(len(want))
		p := make([]byte, 1+rng.IntN(len(want)))
		n, err := o.ReadAt(i, p, int64(off))
		if wantN := min(len(p), len(want)-off); n != wantN || !bytes.Equal(p[:n], want[off:off+n]) || (err != nil) != (n < len(p)) {
			t.Fatalf("ReadAt(%s, %d bytes at %d) = %d, %v", path, len(p), off, n, err)
		}
		for _, n := range []int{1 + rng.IntN(len(want)-off), 0} {
			sp, err := o.Span(i, int64(off), n)
			if err != nil {
				t.Fatal(err)
			}
			if int64(off) < sp.Off || int64(off) >= sp.Off+int64(len(sp.Data)) || !bytes.Equal(sp.Data, want[sp.Off:sp.Off+int64(len(sp.Data))]) {
				t.Fatalf("Span(%s, %d, %d) = %d bytes at %d, or other bytes", path, off, n, len(sp.Data), sp.Off)
			}
			sp.Release()
		}
	}
}

// Every file that a frame is said to hold has just that content, and a frame holds about all files around one.
func TestFrame(t *testing.T) {
	s := open(t, t.TempDir(), small())
	put(t, s, makeNAR(t, 6, 200)) // shares pieces
	a := makeNAR(t, 7, 200)
	put(t, s, a)
	o, err := s.Object(a.hash)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := o.Tree()
	if err != nil {
		t.Fatal(err)
	}
	others := 0
	for path, content := range a.files {
		i, ok := tree.Resolve(path)
		if !ok || len(content) == 0 {
			continue
		}
		err := o.Frame(i, int64(len(content)/2), func(p cas.Piece) bool {
			others++
			want := a.files[tree.Path(p.Node)]
			if p.Node == i || p.Off+int64(len(p.Data)) > int64(len(want)) || !bytes.Equal(p.Data, want[p.Off:p.Off+int64(len(p.Data))]) {
				t.Errorf("Frame(%s) yields %d bytes at %d of %s, or other bytes", path, len(p.Data), p.Off, tree.Path(p.Node))
			}
			return true
		})
		if err != nil {
			t.Errorf("Frame(%s) = %v", path, err)
		}
	}
	if others < len(a.files)/4 {
		t.Errorf("%d files in the frames of %d", others, len(a.files))
	}
	if err := o.Frame(0, 0, nil); err == nil {
		t.Error("Frame of a directory worked")
	}
}

func TestDeduplication(t *testing.T) {
	s := open(t, t.TempDir(), small())
	a := makeNAR(t, 3, 300)
	put(t, s, a)
	before, err := s.Stats()
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, a)
	b := makeNAR(t, 4, 300)
	put(t, s, b)
	after, err := s.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if before.Unique == 0 || after.Unique-before.Unique >= before.Unique {
		t.Errorf("unique bytes grew from %d to %d", before.Unique, after.Unique)
	}
	if after.Objects != 2 || after.Logical != int64(len(a.nar)+len(b.nar)) {
		t.Errorf("Stats = %+v; want 2 objects of %d bytes", after, len(a.nar)+len(b.nar))
	}
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, small())
	var all []archive
	for seed := range uint64(12) {
		all = append(all, makeNAR(t, seed, 120))
		put(t, s, all[seed])
	}
	before, err := s.Stats()
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range all {
		if i%3 != 0 {
			var b cas.Batch
			b.DeleteObject(a.hash)
			if err := s.Commit(t.Context(), &b); err != nil {
				t.Fatal(err)
			}
		}
	}
	dry, err := s.Sweep(t.Context(), cas.SweepOptions{DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.Sweep(t.Context(), cas.SweepOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if res.Chunks == 0 || res.Chunks != dry.Chunks || res.Freed == 0 {
		t.Errorf("Sweep = %+v; dry run said %+v", res, dry)
	}
	after, err := s.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if after.Chunks != before.Chunks-res.Chunks || after.PackBytes >= before.PackBytes {
		t.Errorf("after the sweep %+v; before %+v, sweep %+v", after, before, res)
	}
	again, err := s.Sweep(t.Context(), cas.SweepOptions{})
	if err != nil || again.Chunks != 0 {
		t.Errorf("second Sweep = %+v, %v; want no chunks", again, err)
	}
	for _, reopen := range []string{"open", "closed", "rebuilt"} {
		switch reopen {
		case "closed":
			closeStore(t, s)
			s = open(t, dir, small())
		case "rebuilt":
			closeStore(t, s)
			if s, err = cas.RebuildIndex(dir, small()); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
		}
		for i, a := range all {
			if i%3 == 0 {
				check(t, s, a)
			} else if _, err := s.Object(a.hash); !errors.Is(err, cas.ErrNotFound) {
				t.Errorf("%s: Object(deleted) = %v; want ErrNotFound", reopen, err)
			}
		}
		if found := verify(t, s); len(found) > 0 {
			t.Errorf("%s: Verify found %v", reopen, found)
		}
		for i, a := range all {
			_, err := s.Get([]byte("path/" + fmt.Sprintf("%x", a.hash[:4])))
			if err != nil {
				t.Errorf("%s: key %d: %v", reopen, i, err)
			}
		}
	}
}

func TestRebuildIndex(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, small())
	for seed := range uint64(5) {
		put(t, s, makeNAR(t, seed, 60))
	}
	var b cas.Batch
	gone := makeNAR(t, 0, 60)
	b.Delete([]byte("path/" + fmt.Sprintf("%x", gone.hash[:4])))
	b.DeleteObject(gone.hash)
	b.Put([]byte("x"), []byte{})
	if err := s.Commit(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	want := dump(t, s)
	closeStore(t, s)
	s, err := cas.RebuildIndex(dir, small())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if got := dump(t, s); got != want {
		t.Errorf("keys after the rebuild:\n%s\nwant\n%s", got, want)
	}
	for seed := range uint64(4) {
		check(t, s, makeNAR(t, seed+1, 60))
	}
	if found := verify(t, s); len(found) > 0 {
		t.Errorf("Verify found %v", found)
	}
}

func dump(tb testing.TB, s *cas.Store) string {
	tb.Helper()
	var sb strings.Builder
	err := s.Scan(nil, func(k, v []byte) error {
		fmt.Fprintf(&sb, "%s=%x\n", k, v)
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return sb.String()
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, small())
	if _, err := cas.Open(dir, small()); !errors.Is(err, cas.ErrLocked) {
		t.Errorf("second Open = %v; want ErrLocked", err)
	}
	closeStore(t, s)
	writeFile(t, filepath.Join(dir, "format"), "narfs content store 2\n")
	if _, err := cas.Open(dir, small()); !errors.Is(err, cas.ErrFormat) {
		t.Errorf("Open of format 2 = %v; want ErrFormat", err)
	}
}

func TestCancelledIngest(t *testing.T) {
	s := open(t, t.TempDir(), small())
	a := makeNAR(t, 1, 2000)
	ctx, cancel := context.WithCancel(t.Context())
	r := &cancelReader{r: bytes.NewReader(a.nar), after: len(a.nar) / 2, cancel: cancel}
	if _, err := s.Ingest(ctx, r, cas.IngestOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Ingest = %v; want Canceled", err)
	}
	put(t, s, a)
	check(t, s, a)
}

type cancelReader struct {
	r      *bytes.Reader
	after  int
	cancel func()
}

func (c *cancelReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.after -= n; c.after < 0 {
		c.cancel()
	}
	return n, err
}
