package store_test

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

func openBench(b *testing.B) *store.Store {
	b.Helper()
	s, err := store.Open(b.TempDir(), store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { mustClose(b, s) })
	return s
}

// benchStream is a stream of n paths, each with a tree of its own and a reference to the one before.
func benchStream(b *testing.B, n, from int) []byte {
	b.Helper()
	entries := make([]entry, n)
	for i := range entries {
		entries[i] = entry{
			archive: makeNAR(b, node{entries: map[string]node{"bin": {entries: map[string]node{"x": {text: fmt.Sprint("program ", from+i), exec: true}}}}}),
			path:    nix.DefaultStoreDir.Path(somePath(b, from+i, "bench")),
		}
		if i > 0 {
			entries[i].refs = []string{entries[i-1].path}
		}
	}
	return stream(entries...)
}

// Paths a second of a stream of small new ones; b.N streams of 1,000.
func BenchmarkImportStream(b *testing.B) {
	s := openBench(b)
	const n = 1000
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		in := benchStream(b, n, i*n)
		b.StartTimer()
		if err := s.ImportStream(b.Context(), bytes.NewReader(in), store.ImportOptions{}, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "paths/s")
}

// The same, known.
func BenchmarkImportStreamKnown(b *testing.B) {
	s := openBench(b)
	const n = 1000
	in := benchStream(b, n, 0)
	for b.Loop() {
		if err := s.ImportStream(b.Context(), bytes.NewReader(in), store.ImportOptions{}, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "paths/s")
}

// One path at a time, each acknowledged.
func BenchmarkImport(b *testing.B) {
	s := openBench(b)
	i := 0
	for b.Loop() {
		archive := makeNAR(b, node{text: fmt.Sprint(i)})
		mustImport(b, s, infoOf(somePath(b, i, "p"), archive), archive)
		i++
	}
}

func BenchmarkExportStream(b *testing.B) {
	s := openBench(b)
	const n = 1000
	if err := s.ImportStream(b.Context(), bytes.NewReader(benchStream(b, n, 0)), store.ImportOptions{}, nil); err != nil {
		b.Fatal(err)
	}
	all := allPaths(b, s)
	for b.Loop() {
		if err := s.ExportStream(b.Context(), io.Discard, all...); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "paths/s")
}

// Questions about 20,000 valid paths, and deleting them.
func BenchmarkManyPaths(b *testing.B) {
	s := openBench(b)
	const n = 20_000
	if err := s.ImportStream(b.Context(), bytes.NewReader(benchStream(b, n, 0)), store.ImportOptions{}, nil); err != nil {
		b.Fatal(err)
	}
	all := allPaths(b, s)
	perPath := func(b *testing.B) {
		b.Helper()
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n*b.N), "ns/path")
	}
	b.Run("valid", func(b *testing.B) {
		for b.Loop() {
			if valid, err := s.ValidPaths(all); err != nil || len(valid) != n {
				b.Fatal(len(valid), err)
			}
		}
		perPath(b)
	})
	b.Run("info", func(b *testing.B) {
		for b.Loop() {
			for _, p := range all {
				if _, err := s.PathInfo(p); err != nil {
					b.Fatal(err)
				}
			}
		}
		perPath(b)
	})
	b.Run("closure", func(b *testing.B) {
		for b.Loop() {
			if c, err := s.Closure(somePath(b, n-1, "bench")); err != nil || len(c) != n {
				b.Fatal(len(c), err)
			}
		}
		perPath(b)
	})
	b.Run("slots", func(b *testing.B) {
		for b.Loop() {
			if err := s.Slots(func(nix.StorePath, uint32) bool { return true }); err != nil {
				b.Fatal(err)
			}
		}
		perPath(b)
	})
	b.Run("verify records", func(b *testing.B) {
		for b.Loop() {
			if err := s.Verify(b.Context(), store.VerifyOptions{}, func(p store.Problem) { b.Error(p.Err) }); err != nil {
				b.Fatal(err)
			}
		}
		perPath(b)
	})
	b.Run("delete", func(b *testing.B) {
		for b.Loop() {
			if err := s.Delete(b.Context(), all...); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := s.ImportStream(b.Context(), bytes.NewReader(benchStream(b, n, 0)), store.ImportOptions{}, nil); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
		perPath(b)
	})
}
